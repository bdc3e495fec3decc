"""Which 2D images a folder holds."""

from __future__ import annotations

from pathlib import Path

from mnseg.data.pictures import is_picture, picture_id
from mnseg.errors import UserError

__all__ = ["list_pictures"]


def list_pictures(folder: str | Path) -> dict[str, Path]:
    """Images directly inside ``folder`` as ``{name without suffix: path}``, sorted; {} when there is no such folder.

    Raises:
        UserError: two files with the same name but for the suffix.
    """
    folder, found = Path(folder), {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not is_picture(path):
            continue
        if (name := picture_id(path)) in found:
            raise UserError(f"{folder} has two files for {name}: {found[name].name} and {path.name}; keep one.")
        found[name] = path
    return found
