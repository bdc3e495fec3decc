"""From folders of scans and labels to a datalist."""

from __future__ import annotations

import contextlib
import itertools
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnseg.data.ignored import read_ignored
from mnseg.data.patients import group_by_patient
from mnseg.data.picture_folders import list_pictures
from mnseg.data.splits import choose_splits, named, read_case_list
from mnseg.data.volume_formats import (
    RASTER_SUFFIXES,
    VOLUME_SUFFIXES,
    holds_dicom,
    is_dicom_file,
    list_labels,
    list_volumes,
)
from mnseg.errors import UserError

__all__ = ["BuiltDatalist", "build_datalist", "gaps"]

PathLike = str | os.PathLike
FOLDERS = 200  # are looked into for scans that lie too deep


@dataclass
class BuiltDatalist:
    """The datalist with absolute paths, and sentences that a person should read about how it came about."""

    datalist: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def build_datalist(
    images: PathLike,
    labels: PathLike | None = None,
    hidden_labels: PathLike | None = None,
    keep_hidden: bool = False,
    labeled: str | None = None,
    validation: str | None = None,
    testing: str | None = None,
    order: PathLike | None = None,
    seed: int = 0,
    class_names: Sequence[str] | None = None,
    group_by: str | None = None,
    ignored: PathLike | None = None,
    planar: bool = False,
) -> BuiltDatalist:
    """Pair images and labels that have the same file stem, and split them.

    Args:
        images, labels: folders of volumes, see `mnseg.data.volume_formats.list_volumes`; labels are never DICOM.
        hidden_labels: folder with labels of unlabeled cases, stored as "hidden_label".
        keep_hidden: take hidden labels from ``labels``, where the split put labeled cases among the unlabeled.
        labeled, validation, testing: see `mnseg.data.splits.select_cases`.
        order: list file that orders the cases for first:N and last:N; images that it does not name are left out.
            Default: sorted by name.
        seed: for numbers of cases.
        class_names: names of the label values 0, 1, …, the background first.
        group_by: how to find the patient of a scan, see `mnseg.data.patients.group_by_patient`; keeps a patient's scans
            together.
        ignored: CSV file with the columns case and class: the structures that were not drawn, a line each.
        planar: the folders hold 2D images and masks (`mnseg.data.pictures`), not volumes.

    Raises:
        UserError: no images, labels in the images' own folder, unknown names in a list, no label with the
            name of an image, or a split that cannot be made.
    """
    for folder, option in ((labels, "labels"), (hidden_labels, "hidden labels")):
        if folder is not None and os.path.realpath(folder) == os.path.realpath(images):
            raise UserError(f"images and {option} are both {images}: every scan would be its own label; name the "
                            "folder that holds the labels.")
    if not Path(images).is_dir():
        raise UserError(f"{images} is not a folder; name the one that holds the scans.")
    image_files = list_pictures(images) if planar else list_volumes(images)
    if not image_files and planar:
        raise UserError(f"{images} holds no 2D images: no PNG, JPEG, BMP, TIFF, NIfTI or DICOM files."
                        f"{_hint_at_subfolders(images)}")
    if not image_files:
        raise UserError(f"{images} holds no scans: no .nii, .nii.gz, .nrrd, .nhdr, .mha or .mhd files and no folder of "
                        f"a DICOM series.{_hint_at_planar(images)}{_hint_at_scans(images, labels, hidden_labels)}")
    find = list_pictures if planar else list_labels
    label_files = _named_as(image_files, find(labels)) if labels is not None else {}
    hidden_files = _named_as(image_files, find(hidden_labels)) if hidden_labels is not None else {}
    if label_files and not label_files.keys() & image_files.keys():
        label, image = (next(iter(files.values())).name for files in (label_files, image_files))
        raise UserError(f"no label in {labels} has the name of an image: a label is called {label}, an image {image}; "
                        "name each label as its image is named.")
    notes = [] if planar else [hint for hint in [_hint_at_scans(images, labels, hidden_labels).strip()] if hint]
    notes += _unpaired(label_files, image_files, labels) + _unpaired(hidden_files, image_files, hidden_labels)
    hidden_files = {**(label_files if keep_hidden else {}), **hidden_files}
    cases = list(image_files) if order is None else read_case_list(order)
    if unknown := [case for case in cases if case not in image_files]:
        raise UserError(f"list file {order} names {named(unknown)} without an image in {images}.")
    if unlisted := sorted(image_files.keys() - set(cases)):
        notes.append(f"{named(unlisted)} not in {order} left out.")
    patients = group_by_patient(group_by, {case: image_files[case] for case in cases}) if group_by else None
    undrawn = read_ignored(ignored, image_files, class_names) if ignored is not None else {}
    wanted = {"labeled": labeled, "validation": validation, "testing": testing}
    splits = choose_splits(cases, label_files.keys(), wanted, seed, patients)
    if left_out := set(cases).difference(*splits.values()):
        notes.append(f"{named(sorted(left_out))} left out: other scans of validation or test patients.")
    datalist: dict[str, Any] = {"class_names": list(class_names)} if class_names else {}
    for split in ("labeled", "unlabeled", "validation", "testing"):
        extra = ("hidden_label", hidden_files) if split == "unlabeled" else ("label", label_files)
        datalist[split] = [_item(case, image_files[case], *extra, patients, undrawn) for case in splits[split]]
    return BuiltDatalist(datalist, notes + gaps(datalist))


def _item(
    case: str,
    image: Path,
    key: str,
    labels: dict[str, Path],
    patients: dict[str, str] | None,
    undrawn: dict[str, list[str | int]],
) -> dict[str, Any]:
    item: dict[str, Any] = {"image": str(image)}
    if case in labels:
        item[key] = str(labels[case])
        if case in undrawn:
            item["ignored"] = undrawn[case]
    if patients:
        item["patient"] = patients[case]
    return item


def _hint_at_planar(folder: str | Path) -> str:
    names = os.listdir(folder)
    return " For its 2D images give --planar." if any(name.lower().endswith(RASTER_SUFFIXES) for name in names) else ""


def _hint_at_subfolders(folder: str | Path) -> str:
    names = [path.name for path in sorted(Path(folder).iterdir()) if path.is_dir() and _holds_raster(path)]
    return f" There are some in its folder {names[0]}; sub-folders are not searched." if names else ""


def _hint_at_scans(folder: str | Path, *besides: PathLike | None) -> str:
    """Of scans in folders of folders; labels may lie there, too."""
    known = {os.path.realpath(path) for path in besides if path is not None}
    inner = [path for path in sorted(Path(folder).iterdir())
             if path.is_dir() and not path.name.startswith(".") and os.path.realpath(path) not in known]
    names = [path.name for path in inner if not holds_dicom(path) and _holds_volumes(path)]
    return f" {named(names, noun='sub-folder')} with volumes: sub-folders are not searched." if names else ""


def _holds_volumes(folder: Path) -> bool:
    """Whether there is one at any depth; a folder's first file tells whether it is DICOM."""
    for path, folders, names in itertools.islice(os.walk(folder), FOLDERS):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(name.lower().endswith(VOLUME_SUFFIXES) for name in names):
            return True
        first = next((name for name in sorted(names) if name != "DICOMDIR" and not name.startswith(".")), None)
        with contextlib.suppress(OSError):  # may not be read; only a hint depends on it
            if first is not None and is_dicom_file(Path(path, first)):
                return True
    return False


def _holds_raster(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(name.lower().endswith(RASTER_SUFFIXES) for name in os.listdir(folder))
    return False


def _named_as(images: dict[str, Path], labels: dict[str, Path]) -> dict[str, Path]:
    """Labels by their images' names, from which theirs may differ in Unicode's form: macOS takes letters apart."""
    forms = {unicodedata.normalize("NFC", case): case for case in images}
    meant = {name: forms.get(unicodedata.normalize("NFC", name), name) for name in labels}
    return {name if name in images or meant[name] in labels else meant[name]: path for name, path in labels.items()}


def _unpaired(labels: dict[str, Path], images: dict[str, Path], folder: PathLike | None) -> list[str]:
    lonely = [case for case in labels if case not in images]
    return [f"{named(lonely)} with a label in {folder} but no image of that name: ignored."] if lonely else []


def gaps(datalist: dict[str, Any]) -> list[str]:
    hints = {
        "labeled": "training needs at least one.",
        "unlabeled": "co-training needs some; training stops unless allow_empty_unlabeled is set.",
        "validation": "the best model cannot be chosen; --validation N sets some aside.",
    }
    return [f"no {split} case: {hint}" for split, hint in hints.items() if not datalist[split]]
