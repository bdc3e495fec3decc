"""Which images are there, and which cannot be used; refusals in one sentence, before anything is written.

Run by path from inference.json, evaluate.json and mine.json. Needs torch; ``pictures`` and ``memory``
(picture_memory.py) are the scripts beside it.
"""

import logging
import os
import sys
from collections import Counter
from glob import escape, glob
from pathlib import Path

import torch

logger = logging.getLogger("sam_mining")


def find_pictures(folder, pattern, is_picture):
    found = glob(str(Path(escape(str(Path(folder).absolute()))) / pattern), recursive=True)
    return sorted(path for path in set(found) if is_picture(path))


def find_faults(cases, pictures, memory, channels, num_classes):
    """``{file: what is wrong with it}`` for the images, and the masks where there are any."""
    faults = {}
    for case in cases:
        try:
            path = case["image"]
            why = memory.memory_fault(pictures.picture_size(path), channels, num_classes)
            picture = None if why else pictures.read_picture(path)
            if not why and picture.min() == picture.max():  # normalized, it is noise
                why = f"is constant, every pixel is {picture.flat[0]:g}"
            if not why and "label" in case:
                path = case["label"]
                size, shape = picture.shape[:2], pictures.read_mask(path, num_classes).shape
                why = "" if shape == size else f"has {shape[1]}x{shape[0]} pixels, its image {size[1]}x{size[0]}"
        except (pictures.PictureError, OSError) as error:
            why = str(error)
        if why:
            faults[path] = why
    return faults


def listed(faults, limit=5):
    parts = [f"{path} ({why})" for path, why in list(faults.items())[:limit]]
    rest = [f"and {len(faults) - limit} more"] if len(faults) > limit else []
    return "; ".join(parts + rest)


def require_pictures(files, faults, skip_unreadable, folder, pattern):
    """At least one image, all of them usable unless the others may be left out."""
    if not files:
        sys.exit(
            f"no image matches {os.path.join(folder, pattern)}: set --dataset_dir (a folder of PNG, JPEG, BMP, TIFF, "
            "NIfTI or DICOM files) or --image_pattern"
        )
    some_left = len(faults) < len(files)
    if faults and not (skip_unreadable and some_left):
        instead = "leave them out with --skip_unreadable True" if some_left else "set --dataset_dir to others"
        sys.exit(
            f"{len(faults)} of {len(files)} images cannot be used: {listed(faults)}: repair or remove them, or "
            f"{instead}"
        )
    if faults:
        logger.warning("%d of %d images are left out: %s", len(faults), len(files), listed(faults))


def require_different_names(files, name_of):
    """Of the files that are used."""
    first = {}
    for file in files:
        other = first.setdefault(name := name_of(file), file)
        if other != file:
            sys.exit(
                f"{other} and {file} would share the output name {name}_seg; rename one or narrow --image_pattern"
            )


def require_cases(cases, items, split, path):
    """Cases with a label, each with a name of its own."""
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


def require_usable(faults, split, path):
    if faults:
        sys.exit(
            f"{len(faults)} files of split {split!r} cannot be used: {listed(faults)}: repair them or remove their "
            f"cases from {path}"
        )


def require_model(model_file, network, load_checkpoint):
    """A file of weights that fit the network; random weights only on request, and said."""
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
