"""The datalist: which scan is labeled, unlabeled, for validation, for testing.

A datalist is MONAI-style JSON: ``{"labeled": [{"image": p, "label": p}], "unlabeled": [{"image": p}], "validation":
[…], "testing": […], "class_names": ["background", …]}``. Unlabeled items have no label; an optional "hidden_label"
serves only to log the Dice of pseudo-labels.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnseg.data.ignored import ignored_indices
from mnseg.data.volume_io import case_id, through_plane_axis
from mnseg.errors import UserError
from mnseg.files import read_json

__all__ = ["SPLITS", "load_datalist", "resolve_datalist", "through_plane_axis", "write_datalist"]

SPLITS = ("labeled", "unlabeled", "validation", "testing")
PATH_KEYS = ("image", "label", "hidden_label")
_ALIASES = {"training": "labeled", "test": "testing"}  # the names that MONAI's Decathlon-style lists use


def load_datalist(
    path: str | os.PathLike, dataset_dir: str | os.PathLike | None = None, class_names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Read a datalist and make its paths absolute.

    A relative path is looked for in ``dataset_dir`` first, then beside the datalist. MONAI's own names are taken
    too: "training" for "labeled", "test" for "testing", and plain strings for items that have only an image.

    Args:
        class_names: names that "ignored" may use, where the datalist has no "class_names" itself.

    Returns:
        The datalist with every item as a dict with "image", "case" and, where given, "label", "hidden_label" and
        "ignored" (as sorted label values). Splits that the file lacks stay absent; other keys are passed through.

    Raises:
        UserError: the file is missing, is not JSON, or has an item without an image or with a wrong "ignored".
    """
    path = Path(os.path.abspath(path))
    try:
        content = read_json(path, "datalist")
    except FileNotFoundError as error:
        raise UserError(f"datalist {path} does not exist; `mnseg datalist` makes one.") from error
    except IsADirectoryError as error:
        raise UserError(f"datalist {path} is a folder; name the JSON file inside it.") from error
    except OSError as error:
        raise UserError(f"datalist {path} cannot be read ({error.strerror}).") from error
    folders = [path.parent] if dataset_dir is None else [Path(os.path.abspath(dataset_dir)), path.parent]
    return resolve_datalist(content, folders, str(path), class_names)


def resolve_datalist(
    content: Any, folders: list[Path], source: str = "the datalist", class_names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Make the items of a parsed datalist uniform, with absolute paths; ``folders`` are tried in turn."""
    if not isinstance(content, Mapping):
        raise UserError(f"{source} must be a JSON object with the keys {', '.join(SPLITS)}.")
    result = dict(content)
    for alias, key in _ALIASES.items():
        if key not in result and alias in result:
            result[key] = result.pop(alias)
    _require_names(result.get("class_names"), source)
    names = result.get("class_names") or class_names
    for split in SPLITS:
        if split not in result:
            continue
        if not isinstance(result[split], list):
            raise UserError(f'"{split}" in {source} must be a list of items.')
        result[split] = [_resolve_item(item, folders, f'"{split}" item {i} of {source}', names)
                         for i, item in enumerate(result[split])]
    return result


def _require_names(names: Any, source: str) -> None:
    if names is None or isinstance(names, list) and all(isinstance(name, str) and name for name in names):
        return
    raise UserError(f'"class_names" in {source} must be a list of names, the background first.')


def _resolve_item(item: Any, folders: list[Path], where: str, names: Sequence[str] | None) -> dict[str, Any]:
    item = {"image": item} if isinstance(item, str) else item
    if not isinstance(item, Mapping) or "image" not in item:
        raise UserError(f'{where} has no "image".')
    resolved = dict(item)
    for key in PATH_KEYS:
        if key not in item:
            continue
        if not isinstance(item[key], str) or not item[key] or "\0" in item[key]:
            raise UserError(f'{where}: "{key}" must be one file name.')
        resolved[key] = _resolve_path(item[key], folders)
    resolved.setdefault("case", case_id(resolved["image"]))
    _require_plain_values(resolved, where)
    if "ignored" in item:
        indices = ignored_indices(resolved.pop("ignored"), names, where=where)
        resolved |= {"ignored": indices} if indices else {}
    return resolved


def _require_plain_values(item: Mapping[str, Any], where: str) -> None:
    """The case id names files, so that it must be a name; patients are compared."""
    case = item["case"]
    if not isinstance(case, str) or not case or {"/", "\\", "\0"} & set(case):
        raise UserError(f'{where}: "case" must be a name without slashes, not {str(case)[:80]!r}.')
    if not isinstance(item.get("patient", ""), (str, int)):
        raise UserError(f'{where}: "patient" must be a name or a whole number.')
    if not isinstance(item.get("modality"), (str, type(None))):
        raise UserError(f'{where}: "modality" must be a name.')


def _resolve_path(name: str, folders: list[Path]) -> str:
    name = os.path.expanduser(name)  # leaves ~nobody as it is
    candidates = [os.path.normpath(folder / name) for folder in folders]
    return next((c for c in candidates if os.path.exists(c)), candidates[0])


def write_datalist(datalist: Mapping[str, Any], path: str | os.PathLike) -> Path:
    """Write a datalist, paths below its own folder relative to that folder; missing folders are created."""
    path = Path(os.path.abspath(path))
    content = {key: value for key, value in datalist.items() if key not in SPLITS}
    content.update({split: [_portable_item(item, path.parent) for item in datalist[split]]
                    for split in SPLITS if split in datalist})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"datalist {path} cannot be written ({error.strerror}).") from error
    return path


def _portable_item(item: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    portable = dict(item)
    if portable.get("case") == case_id(portable["image"]):
        del portable["case"]  # derived again on loading
    for key in PATH_KEYS:
        if key in portable:
            absolute = Path(os.path.abspath(portable[key]))
            below = absolute.is_relative_to(folder)
            portable[key] = (absolute.relative_to(folder) if below else absolute).as_posix()
    return portable
