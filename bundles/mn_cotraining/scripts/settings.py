"""Settings and folders that cannot be meant, refused in one sentence before anything is read.

Run by path from the configs; the same file in both bundles. Needs torch and monai.
"""

import difflib
import inspect
import json
import os
import sys
import tempfile
from glob import glob
from pathlib import Path

import torch
from monai.bundle import ConfigWorkflow
from monai.utils import optional_import

refuse_by_mnseg, has_mnseg = optional_import("mnseg.bundle", name="refuse_unknown_keys")


def _whole(value, minimum=float("-inf")):
    return type(value) is int and value >= minimum


def _number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _each(value, count, fits):
    return isinstance(value, (list, tuple)) and len(value) == count and all(map(fits, value))


def _share(value):
    return _number(value) and 0 <= value < 1


def _axes(value):
    """One letter for each of left-right, back-front and foot-head."""
    return isinstance(value, str) and len(value) == 3 and {"LRPAIS".find(code) // 2 for code in value} == {0, 1, 2}


FOLDER = (lambda value: isinstance(value, (str, os.PathLike)), "the name of a folder (./5 for one that is called 5)")
RULES = {
    "output_dir": FOLDER,
    "dataset_dir": FOLDER,
    "image_pattern": (lambda value: isinstance(value, str), "a pattern of file names, such as *.png"),
    "num_workers": (lambda value: _whole(value, 0), "a whole number of at least 0"),
    "sw_batch_size": (lambda value: _whole(value, 1), "a whole number of at least 1"),
    "overlap": (lambda value: _share(value) or _each(value, 3, _share), "a number of at least 0 and below 1"),
    "image_size": (lambda value: _each(value, 2, lambda size: _whole(size, 17)), "two whole numbers above 16"),
    "patch_size": (lambda value: _each(value, 3, _whole), "three whole numbers, one an axis"),
    "orientation": (_axes, "three letters, of R and L, A and P, S and I one each, such as RAS"),
    "spacing": (
        lambda value: value is None or _each(value, 3, lambda size: _number(size) and size > 0),
        "three numbers above 0, in mm, or null",
    ),
}


# What model.json may hold besides: a model of the one kind has some of them, one of the other kind the others.
OF_A_MODEL = ("lite", "orientation", "spacing", "patch_size", "image_size", "overlap")
# What MONAI itself adds with --tracking.
OF_TRACKING = ("tracking_uri", "experiment_name", "run_name", "save_execute_config", "is_not_rank0")


def refuse_unknown_keys():
    """What MONAI silently takes: a key that no config of the bundle has, mistyped perhaps, from wherever it comes.

    Where mnseg is installed, by its check, which finds more. Keys that begin with _ are the user's own.
    """
    if has_mnseg:
        refuse_by_mnseg()
        return
    owners = (frame.frame.f_locals.get("self") for frame in inspect.stack(0))
    workflow = next((owner for owner in owners if isinstance(owner, ConfigWorkflow)), None)
    if workflow is None:
        return
    known = {*OF_A_MODEL, *OF_TRACKING}
    for path in Path(workflow.config_root_path).glob("*.json"):
        known |= set(json.loads(path.read_text(encoding="utf-8")))
    unknown = sorted(key for key in workflow.parser.get() if key not in known and not key.startswith("_"))
    near = [difflib.get_close_matches(key, known, n=1) for key in unknown]
    if unknown:
        hints = [f"'{key}'" + (f" (did you mean '{match[0]}'?)" if match else "")
                 for key, match in zip(unknown, near, strict=True)]
        sys.exit(f"no config of the bundle in {workflow.config_root_path} has the key {', '.join(hints)}")


def require_settings(device, **settings):
    """What MONAI would take for something else, or refuse in many lines; keys without a rule are switches."""
    for key, value in settings.items():
        if key in RULES and not RULES[key][0](value):
            sys.exit(f"{key} is {value!r}: it must be {RULES[key][1]}")
        if key not in RULES and value not in (False, True):  # 0 and 1 are; `--switch no` is a text, and would be on
            sys.exit(f"{key} is {value!r}: write --{key} True or --{key} False")
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
