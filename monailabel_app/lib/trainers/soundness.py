"""Are the settings that a server is started with sound? Asked at its start, not by the first training hours later."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.trainers.settings import config_files, merged_settings
from mnseg.errors import UserError
from mnseg.files import read_json

__all__ = ["require_sound_training"]


def require_sound_training(
    bundle: Path, overlays: Iterable[Path], settings: Mapping[str, Any], labels: Sequence[str]
) -> None:
    """Look at the config files and ``settings`` of trainings, without evaluating anything.

    Those of ``class_names`` must be the background and the server's ``labels``; an overlay's are replaced by them.

    Raises:
        UserError: a file that is no JSON object, a key that no config has, or a value that cannot be meant.
    """
    known: set[str] = set()
    for file in sorted((bundle / "configs").glob("*.json")):
        known |= _object(file).keys()
    for file in overlays:
        _require_known(_object(file), known, f"--conf overlays: {file}")
    _require_known(settings, set(_object(bundle / "configs" / "train.json")), "--conf settings: train.json")
    try:
        merged = merged_settings(config_files(bundle, overlays), settings)
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"--conf settings: a key with # or :: names a part that is not there ({error}).") from error
    if "class_names" in settings and settings["class_names"] != ["background", *labels]:
        raise UserError("--conf settings: class_names are others than the background and the labels of this server; "
                        "leave them out.")
    if wrong := list(_wrong(merged)):
        raise UserError(f"--conf settings or overlays: {' '.join(wrong)}")


def _object(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file, "The config")
    except OSError as error:
        raise UserError(f"The config {file} cannot be read ({error.strerror}): change its permissions, or name "
                        "another.") from error
    if not isinstance(content, dict):
        raise UserError(f"The config {file} holds no JSON object; name a file such as configs/recipes/cpu.json.")
    return content


def _require_known(content: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in content:
        top = re.split("#|::", key)[0]
        if top.removeprefix("+") not in known and not top.startswith("_"):
            near = difflib.get_close_matches(top, known, n=1)
            raise UserError(f"{where} has no key {top!r}" + (f" (did you mean {near[0]!r}?)." if near else "."))


def _wrong(merged: Mapping[str, Any]) -> Iterable[str]:
    from mnseg.settings import wrong_settings  # here: it imports torch

    infinite = [key for key, value in merged.items() if not _is_finite(value)]
    yield from (f"{key} holds NaN or an infinite number; write a finite one." for key in infinite)
    yield from wrong_settings({key: value for key, value in merged.items() if key not in infinite})
    yield from _wrong_device(merged.get("device"))


def _is_finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _wrong_device(name: Any) -> Iterable[str]:
    import torch

    if name is None or (isinstance(name, str) and name[:1] in ("$", "@", "%")):
        return
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        yield f"device is {name!r}; write cpu, or cuda:0 ({str(error).splitlines()[0][:60]})."
        return
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        yield f"device is {name!r}, but this computer has {torch.cuda.device_count()} GPUs; name another."
