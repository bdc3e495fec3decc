"""Settings and folders that cannot be meant, refused in one sentence before anything is read.

Run by path from inference.json and evaluate.json; the same file in both bundles. Needs torch only.
"""

import os
import sys
import tempfile
from glob import glob
from pathlib import Path

import torch


def require_settings(output_dir, device, overlap=0.5, sw_batch_size=1, **switches):
    """What MONAI would take for something else, or refuse in many lines: `--switch no` is a text, and would be on."""
    for key, value in switches.items():
        if value not in (False, True):  # 0 and 1 are
            sys.exit(f"{key} is {value!r}: write --{key} True or --{key} False")
    if not isinstance(output_dir, (str, os.PathLike)):
        sys.exit(f"output_dir is {output_dir!r}: it must be the name of a folder")
    overlaps = overlap if isinstance(overlap, (list, tuple)) else [overlap]
    if not all(isinstance(part, (int, float)) and 0 <= part < 1 for part in overlaps):
        sys.exit(f"overlap is {overlap!r}: it must be a number of at least 0 and below 1")
    if not isinstance(sw_batch_size, int) or sw_batch_size < 1:
        sys.exit(f"sw_batch_size is {sw_batch_size!r}: it must be a whole number of at least 1")
    try:
        torch.empty(0, device=device)
    except Exception as error:  # whatever a driver says
        sys.exit(f"device {device!r} cannot be used ({str(error).strip().splitlines()[0]}): set --device, say to cpu")


def require_own_folder(output_dir, folder, pattern, name="scan_seg.nii.gz"):
    """Masks among the scans would be taken for scans by the next run; asked of an empty file in the same place."""
    inside = os.path.relpath(os.path.realpath(output_dir), os.path.realpath(folder))
    if inside.startswith(os.pardir):
        return
    with tempfile.TemporaryDirectory() as probe:
        mask = Path(probe, inside, name)
        mask.parent.mkdir(parents=True, exist_ok=True)
        mask.touch()
        if mask in (Path(probe, found) for found in glob(pattern, root_dir=probe, recursive=True)):
            sys.exit(f"masks in output_dir {output_dir} would be taken for scans by the next run: set --output_dir")


def require_no_inputs(results, cases):
    """An evaluation removes the results of an earlier one, which may be what is measured now."""
    inputs = {os.path.realpath(case[key]) for case in cases for key in ("image", "label") if isinstance(case[key], str)}
    for path in results:
        if os.path.realpath(path) in inputs:
            sys.exit(f"{path} is to be measured, but lies where this evaluation writes its results: set --output_dir")
