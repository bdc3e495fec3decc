"""The check of one 2D image and its mask; what `mnseg.data.case_check` is to volumes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mnseg.data.case_check import CaseResult
from mnseg.data.picture_memory import memory_fault
from mnseg.data.pictures import PictureError, picture_size, read_mask, read_picture

__all__ = ["check_picture_case"]

CHANNELS = 3  # the most that an image has


def check_picture_case(split: str, item: Mapping[str, Any], num_classes: int | None, check_hidden: bool) -> CaseResult:
    """Read an image and its mask; ``num_classes`` None takes two classes."""
    result = CaseResult(split, item["case"], item["image"])
    size = _check_image(item["image"], result, num_classes or 2)
    if split == "unlabeled" and "label" in item:
        result.add("error", 'an unlabeled item must not have a "label"; call it "hidden_label" or leave it out.')
    elif split == "unlabeled" and "hidden_label" in item and check_hidden:
        _check_mask(item["hidden_label"], size, result, num_classes or 2)
    elif split != "unlabeled" and "label" in item:
        _check_mask(item["label"], size, result, num_classes or 2)
    elif split != "unlabeled":
        level = "warning" if split == "testing" else "error"
        result.add(level, f'has no "label", which every {split} item needs.')
    return result


def _check_image(path: str, result: CaseResult, num_classes: int) -> tuple[int, ...] | None:
    """Size and values of an image; sets ``result.digest``, by which the same image is found under another name."""
    try:
        if fault := memory_fault(picture_size(path), CHANNELS, num_classes):
            raise PictureError(fault)
        pixels = read_picture(path)
    except (PictureError, OSError) as error:
        result.add("error", _sentence(path, error))
        return None
    if pixels.min() == pixels.max():
        result.add("error", f"{path} is constant (every pixel is {pixels.flat[0]:g}).")
    result.digest = hashlib.sha256(f"{pixels.shape}{pixels.dtype}".encode() + pixels.tobytes()).hexdigest()[:32]
    return pixels.shape[:2]


def _check_mask(path: str, size: tuple[int, ...] | None, result: CaseResult, num_classes: int) -> None:
    try:
        mask = read_mask(path, num_classes)
    except (PictureError, OSError) as error:
        result.add("error", _sentence(f"mask {path}", error))
        return
    if size is not None and mask.shape != size:
        result.add("error", f"mask {path} has {mask.shape[1]}x{mask.shape[0]} pixels, its image {size[1]}x{size[0]}.")
    elif not mask.any():
        result.add("error" if result.split == "labeled" else "warning", f"mask {path} is empty (background only).")
    result.classes = frozenset(np.unique(mask).tolist())


def _sentence(path: str, error: Exception) -> str:
    why = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else str(error)
    return f"{path} {why}."
