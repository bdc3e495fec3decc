"""2D images with masks in PNG or JPEG: finding pairs, reading masks, checking them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from mnseg.data.datalist import SPLITS
from mnseg.errors import UserError

__all__ = ["FOREGROUND", "list_images", "read_mask", "require_sound_pairs"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
FOREGROUND = 128  # masks are 0 and 255; JPEG blurs them, so that a threshold must lie between


def list_images(folder: Path) -> dict[str, Path]:
    """Image files directly inside ``folder`` as ``{stem: path}``, sorted by name; {} when there is no such folder.

    Raises:
        UserError: two files with the same stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        if path.stem in found:
            raise UserError(f"{folder} has two files for {path.stem}: {found[path.stem].name} and {path.name}; keep "
                            "one.")
        found[path.stem] = path
    return found


def read_mask(path: str | Path) -> np.ndarray:
    """A mask as (H, W) uint8: 1 where the gray value is at least 128, else 0."""
    with Image.open(path) as mask:
        return (np.asarray(mask.convert("L")) >= FOREGROUND).astype(np.uint8)


def require_sound_pairs(datalist: Mapping[str, Any], progress: bool = False) -> None:
    """Read all images and masks of a datalist.

    Raises:
        UserError: naming up to ten files that cannot be read, differ in size from their mask, or have an empty mask
            although they are labeled cases.
    """
    items = [(split, item) for split in SPLITS for item in datalist[split]]
    bar = tqdm(items, "checking", leave=False, disable=None if progress else True)
    defects = [defect for split, item in bar if (defect := _defect(split, item))]
    if defects:
        more = [f"  … and {len(defects) - 10} more"] if len(defects) > 10 else []
        raise UserError("\n".join(["some images are unsound:", *(f"  {defect}" for defect in defects[:10]), *more]))


def _defect(split: str, item: Mapping[str, Any]) -> str | None:
    path = item["image"]
    try:
        with Image.open(path) as image:
            image.load()
            size = image.size
        if (path := item.get("label") or item.get("hidden_label")) is None:
            return None
        mask = read_mask(path)
    except Exception as error:  # Pillow raises many unrelated types for a broken file
        return f"{path} cannot be read ({error})."
    if mask.shape[::-1] != size:
        return f"mask {path} has {mask.shape[1]}x{mask.shape[0]} pixels, its image {size[0]}x{size[1]}."
    if split == "labeled" and not mask.any():
        return f"mask {path} is empty."
    return None
