"""What all importers share: the description of a data set as it was found, and the writing of volumes."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mnseg.data.splits import named, read_case_list
from mnseg.errors import UserError
from mnseg.files import atomic_write

__all__ = ["Case", "Source", "ordered_by", "require_files", "require_folder", "wrong_layout", "write_volume"]


@dataclass(frozen=True)
class Case:
    """One image of a data set, with its label if it has one. ``image`` may be a folder, where it is to be converted."""

    case: str
    image: Path
    label: Path | None = None
    patient: str | None = None


@dataclass
class Source:
    """A data set as it was found.

    Attributes:
        class_names: names of the label values 0, 1, …
        cases: in the published order, else by name.
        splits: the field's split: what `mnseg.data.splits.choose_splits` reads for "labeled", "validation", "testing".
        published: ``cases`` is a published order, the test cases last: numbers in ``splits`` and of the user are
            positions in it.
        notes: sentences that a person should read.
        overlays: config files that describe the data, for the training command.
        convert: ``convert(case, image, label)`` writes a case as NIfTI to the paths ``image`` and ``label`` and may
            return a note. None: the files are used as they are.
        describe: ``describe(datalist)`` makes an overlay of what this data set alone needs. None: no such overlay.
        planar: 2D images, for the bundle sam_mining.
    """

    class_names: list[str]
    cases: list[Case]
    splits: dict[str, str | None]
    published: bool = False
    notes: list[str] = field(default_factory=list)
    overlays: list[str] = field(default_factory=list)
    convert: Callable[[Case, Path, Path], str | None] | None = None
    describe: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    planar: bool = False


def require_folder(src: Path) -> None:
    if not src.is_dir():
        raise UserError(f"{src} is not a folder; name the folder that holds the data set.")


def wrong_layout(src: Path, name: str, wanted: str) -> UserError:
    """The error for a folder without the data set: what was looked for and what lies there instead."""
    entries = sorted(path.name + ("/" if path.is_dir() else "") for path in src.iterdir())
    found = ", ".join(entries[:5]) + (", …" if len(entries) > 5 else "") if entries else "nothing"
    return UserError(f"{src} does not look like {name}: looked for {wanted}, found {found}.")


def require_files(paths: Sequence[Path], named_in: str) -> None:
    """Raise a `UserError` when files that a list or index names are missing."""
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise UserError(f"{named_in} names {named(missing, noun='file')} that is not there; is the download complete?")


def ordered_by(path: Path, cases: Mapping[str, Case]) -> list[Case]:
    """The cases that a list file names, in its order.

    Raises:
        UserError: the file names a case that is not there.
    """
    wanted = read_case_list(path)
    if missing := [case for case in wanted if case not in cases]:
        raise UserError(f"list file {path} names {named(missing)} without an image; is the download complete?")
    return [cases[case] for case in wanted]


def write_volume(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    """Write voxels (H, W, D) as compressed NIfTI, whole or not at all; ``affine`` (4, 4) maps to RAS+ in mm."""
    volume = nib.Nifti1Image(voxels, affine)
    volume.header.set_xyzt_units("mm")
    # Level 1 is the level of nibabel's own writer; no time stamp, so that equal input gives equal files.
    packed = gzip.compress(volume.to_bytes(), compresslevel=1, mtime=0)
    atomic_write(path, lambda temporary: temporary.write_bytes(packed))
