"""The cases of one split of a data list, read as training reads them.

Run by path from evaluate.json. Needs nothing but Python.
"""

import json
import logging
import os
import sys
from pathlib import Path

logger = logging.getLogger("mnseg.bundle")

# The names of MONAI's Decathlon-style lists.
ALIASES = {"labeled": "training", "testing": "test"}
SEPARATORS = {"/", "\\", "\0"}


def read_cases(path, split, folder, case_of):
    """Items of ``split`` with absolute "image" and "label", and "case", the name of its results.

    A relative path is looked for in ``folder``, then beside the data list. ``case_of`` names an image's results where
    the item has no "case". What cannot be read ends in one sentence.
    """
    items = _split_of(_content(path), path, split)
    folders = [os.path.abspath(folder), os.path.dirname(os.path.abspath(path))]
    return [_resolved(item, folders, case_of, f"item {i} of {split!r} in {path}") for i, item in enumerate(items)]


def class_names_of(path, otherwise):
    """The data list's own names of the classes, else ``otherwise``."""
    return _content(path).get("class_names") or otherwise


def require_class_names(path, wanted):
    """The data list's names of the classes are the model's: another order would name every structure wrongly."""
    listed = class_names_of(path, wanted)
    if listed == wanted or len(listed) != len(wanted):
        return
    text = f"{path} names the classes {', '.join(map(str, listed))}, the model {', '.join(map(str, wanted))}"
    if sorted(map(str, listed)) == sorted(map(str, wanted)):
        sys.exit(f"{text}: number the labels as the model does, and give both the same order")
    logger.warning("%s: results bear the latter", text)


def name_case(item):
    """The case's name becomes part of its image's ``meta``, from which results are named."""
    item["image"].meta["case"] = item["case"]
    return item


def _content(path):
    if not os.path.isfile(path):
        sys.exit(f"no data list at {path}: set --dataset_dir or --data_list_file_path")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        sys.exit(f"the data list {path} is not valid JSON ({error}): repair it")
    if not isinstance(content, dict):
        sys.exit(f"the data list {path} is no JSON object: give it a list of items under the name of each split")
    return content


def _split_of(content, path, split):
    items = content.get(split, content.get(ALIASES.get(split)))
    if items is None:
        sys.exit(f"{path} has no split {split!r}: set --evaluate_split to one of its keys")
    if not isinstance(items, list):
        sys.exit(f"{split!r} in {path} is no list of items: repair it")
    return items


def _resolved(item, folders, case_of, where):
    item = {"image": item} if isinstance(item, str) else item
    if not isinstance(item, dict) or not item.get("image"):
        sys.exit(f'{where} has no "image": add it')
    item = dict(item)
    for key in ("image", "label"):
        files = item.get(key) or []
        if not isinstance(files, (str, list)) or not all(isinstance(file, str) for file in files):
            sys.exit(f'"{key}" of {where} is {files!r}: name a file')
        found = [_path(file, folders) for file in ([files] if isinstance(files, str) else files)]
        if found:
            item[key] = found[0] if isinstance(files, str) else found
    for key, value in item.items():  # what an overlay may load besides
        if key not in ("image", "label", "case", "ignored") and isinstance(value, str):
            found = _path(value, folders)
            item[key] = found if os.path.isfile(found) else value
    first = item["image"] if isinstance(item["image"], str) else item["image"][0]
    case = item.get("case", case_of(first))
    case = item["case"] = str(case) if isinstance(case, int) else case
    if not isinstance(case, str) or not case or SEPARATORS & set(case):
        sys.exit(f'"case" of {where} is {case!r}: it must be a name without slashes')
    return item


def _path(name, folders):
    candidates = [os.path.normpath(os.path.join(folder, os.path.expanduser(name))) for folder in folders]
    return next((path for path in candidates if os.path.exists(path)), candidates[0])
