"""Who trains and who is asked: by a hash of the patient, so that nobody moves as scans and labels arrive."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Fold", "Scan", "Split", "fold_of", "hash_of", "in_validation", "make_folds", "patient_of", "split_scans"]

ENOUGH_PATIENTS = 3
UNKNOWN = ("", "UNK", "None")  # what MONAI Label writes for a missing DICOM attribute


@dataclass(frozen=True)
class Scan:
    """A scan of the datastore.

    case: its id.
    patient: whom it shows.
    labeled: whether it has a final label.
    unedited: whether that label is a mask of ours that somebody accepted as it was.
    """

    case: str
    patient: str
    labeled: bool = False
    unedited: bool = False


@dataclass(frozen=True)
class Split:
    """Scans of a training; every scan of the datastore stands in exactly one of the four.

    labeled, unlabeled: train.
    validation: have a label that a person drew, and never train.
    held_out: the other scans of validation's patients; never train either, they may still get a label.
    """

    labeled: tuple[Scan, ...]
    unlabeled: tuple[Scan, ...]
    validation: tuple[Scan, ...]
    held_out: tuple[Scan, ...]

    @property
    def needs_folds(self) -> bool:
        """Whether validation shows too few patients to compare versions by."""
        return len({scan.patient for scan in self.validation}) < ENOUGH_PATIENTS


@dataclass(frozen=True)
class Fold:
    """A further model that trains without some patients, so that their labels can be used to compare versions.

    index: its number, 0 to folds - 1.
    labeled, unlabeled: train; no scan of a patient of the fold is among them.
    predicted: the fold's labeled scans, which this model is measured on.
    excluded: all cases of the fold's patients.
    """

    index: int
    labeled: tuple[Scan, ...]
    unlabeled: tuple[Scan, ...]
    predicted: tuple[Scan, ...]
    excluded: frozenset[str]


def hash_of(name: str, purpose: str) -> float:
    """A number in [0, 1) that depends on both texts alone: SHA-256, the same on every machine and in every version."""
    digest = hashlib.sha256(f"{purpose}\0{name}".encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53  # 53 bits: a float holds them exactly, and not 1.0


def in_validation(patient: str, fraction: float) -> bool:
    """Whether a patient never trains. A larger fraction keeps all patients of a smaller one."""
    return hash_of(patient, "validation") < fraction


def fold_of(patient: str, folds: int, salt: int = 0) -> int:
    """In which of the folds a patient is left out."""
    return int(hash_of(patient, f"fold {salt}") * folds)


def patient_of(image_id: str, info: Mapping[str, Any] | None = None, group_by: str = "") -> str:
    """Whom a scan shows.

    Args:
        image_id: its id in the datastore.
        info: what the datastore knows of it; DICOM's PatientID may be in it.
        group_by: ``PatientID``, or a regular expression for the id (its first group, or all that it matches), or empty:
            the PatientID where there is one. An id without a match is a patient of its own.
    """
    if group_by not in ("", "PatientID"):
        match = re.search(group_by, image_id)
        found = next((group for group in (*match.groups(), match[0]) if group), None) if match else None
        return found or image_id
    patient = str((info or {}).get("PatientID") or "").strip()
    return image_id if patient in UNKNOWN else patient


def split_scans(scans: Iterable[Scan], fraction: float, train_unedited: bool = False) -> Split:
    """Divide all scans; the order of ``scans`` does not matter.

    Args:
        scans: all of the datastore.
        fraction: share of the patients that are in validation.
        train_unedited: whether an unedited mask of ours counts as a label. It is in validation in no case: a version
            would be compared with what a version said.
    """
    parts: dict[str, list[Scan]] = {"labeled": [], "unlabeled": [], "validation": [], "held_out": []}
    for scan in sorted(scans, key=lambda scan: scan.case):
        if in_validation(scan.patient, fraction):
            parts["validation" if scan.labeled and not scan.unedited else "held_out"].append(scan)
        else:
            parts["labeled" if scan.labeled and (train_unedited or not scan.unedited) else "unlabeled"].append(scan)
    return Split(**{name: tuple(part) for name, part in parts.items()})


def make_folds(split: Split, folds: int) -> tuple[list[Fold], int]:
    """The folds that have something to learn from and something to be measured on, and the salt that made them.

    A fold leaves out all scans of its patients, the unlabeled ones too: a scan that gets its label later was never
    seen by the fold's model, nor by the one that it is warm-started from.

    The hash may put all labeled patients into one fold; then the next salt is tried, the same for the same patients.
    """
    patients = {scan.patient for scan in split.labeled if not scan.unedited}
    if folds < 2 or len(patients) < 2:
        return [], 0
    salt = next(salt for salt in range(1000) if len({fold_of(patient, folds, salt) for patient in patients}) > 1)
    made = [_fold(split, index, folds, salt) for index in range(folds)]
    return [fold for fold in made if fold.labeled and fold.predicted], salt


def _fold(split: Split, index: int, folds: int, salt: int) -> Fold:
    def outside(scans: Collection[Scan], inside: bool = False) -> tuple[Scan, ...]:
        return tuple(scan for scan in scans if (fold_of(scan.patient, folds, salt) == index) == inside)

    predicted = tuple(scan for scan in outside(split.labeled, inside=True) if not scan.unedited)
    excluded = frozenset(scan.case for scan in outside((*split.labeled, *split.unlabeled), inside=True))
    return Fold(index, outside(split.labeled), outside(split.unlabeled), predicted, excluded)
