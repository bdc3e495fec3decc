"""Refusals: one sentence that names the file or key and says what to do, before anything is written.

Run by path from inference.json and evaluate.json. Needs torch only.
"""

import logging
import os
import sys
from collections import Counter
from importlib.util import find_spec

import torch

logger = logging.getLogger("mn_cotraining")


def require_scans(files, faults, listed, skip_unreadable, folder, pattern, deeper=()):
    """At least one scan, all of them usable unless the others may be left out; ``deeper``: folders that hold more."""
    hint = f"its sub-folders ({', '.join(deeper[:3])}{', …' if len(deeper) > 3 else ''}) hold volumes that are found " \
           "with --image_pattern '**/*'"  # fmt: skip
    if not files:
        sys.exit(
            f"no scan matches {os.path.join(folder, pattern)}: set --dataset_dir (a folder of NIfTI, NRRD or MetaImage "
            f"files or of folders with a DICOM series each) or --image_pattern{'; ' + hint if deeper else ''}"
        )
    if deeper:
        logger.warning("%d scans of %s are segmented; %s", len(files), folder, hint)
    some_left = len(faults) < len(files)
    if faults and not (skip_unreadable and some_left):
        instead = "leave them out with --skip_unreadable True" if some_left else "set --dataset_dir to others"
        sys.exit(
            f"{len(faults)} of {len(files)} scans cannot be used: {listed(faults)}: repair or remove them, or "
            f"{instead}"
        )
    if faults:
        logger.warning("%d of %d scans are left out: %s", len(faults), len(files), listed(faults))


def require_different_names(files, name_of):
    """Of the files that are used."""
    first = {}
    for file in files:
        other = first.setdefault(name := name_of(file), file)
        if other != file:
            sys.exit(
                f"{other} and {file} would share the output name {name}_seg.nii.gz; rename one or "
                "narrow --image_pattern"
            )


def require_model(model_file, network, load_checkpoint, weights_file):
    """A file of weights that fit the network; random weights only on request, and said."""
    if not load_checkpoint and weights_file:
        return  # the network was built with them
    if not load_checkpoint:
        logger.warning("load_checkpoint is false: the network has RANDOM weights")
        return
    if not os.path.isfile(model_file):
        sys.exit(f"no model at {model_file}: train one, or set --run_dir, --ckpt_dir or --model_file")
    try:
        state = torch.load(model_file, map_location="cpu", weights_only=True)
        why = _misfit(_shapes(state.get("model", state)), _shapes(network.state_dict()))
    except Exception as error:  # whatever a damaged file makes torch say
        why = f"unusable, {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
    if why:
        sys.exit(
            f"the model {model_file} cannot be used ({why}): add the model.json of its run to --config_file, or set "
            "--model_file to an intact one"
        )


def _shapes(state):
    return {name: tuple(getattr(value, "shape", ())) for name, value in state.items()}


def _misfit(file, network):
    for name in {**network, **file}:
        if file.get(name) != network.get(name):
            return f"{name} has shape {file.get(name)} in the file and {network.get(name)} in network_def"
    return ""


def require_output(folder):
    try:
        os.makedirs(folder, exist_ok=True)
        why = "" if os.access(folder, os.W_OK) else "not writable"
    except OSError as error:
        why = f"unusable, {type(error).__name__}: {error}"
    if why:
        sys.exit(f"cannot write to the output folder {folder} ({why}): set --output_dir")


def require_component_package(largest_component):
    """MONAI finds a mask's pieces by scikit-image, which it does not bring."""
    if largest_component and find_spec("skimage") is None:
        sys.exit("largest_component needs scikit-image: pip install scikit-image, or leave it false")


def require_cases(cases, items, split, path):
    """Cases with a label, whose files exist, each with a name of its own."""
    if not cases:
        sys.exit(f"no case of split {split!r} in {path} has a label: nothing can be measured")
    if len(cases) < len(items):
        without = len(items) - len(cases)
        logger.warning("%d of %d cases of split %s have no label and are not evaluated", without, len(items), split)
    for name, count in Counter(case["case"] for case in cases).items():
        if count > 1:
            sys.exit(
                f"{count} cases of split {split!r} in {path} are called {name}, and their results would be one: give "
                'their items different "case" values'
            )
    for case in cases:
        for file in (case["image"], case["label"]):
            if isinstance(file, str) and not os.path.exists(file):
                sys.exit(f"missing file {file}, named in {path}: correct the path or set --dataset_dir")


def require_usable(faults, listed, split, path):
    if faults:
        sys.exit(
            f"{len(faults)} files of split {split!r} cannot be used: {listed(faults)}: repair them or remove their "
            f"cases from {path}"
        )
