"""What a training learns from: the datastore at one moment, with copies of the labels."""

from __future__ import annotations

import inspect
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib.registry.parts import sha256_of
from lib.trainers.split import Fold, Scan, Split, make_folds, patient_of, split_scans
from mnseg.data.content_digests import ContentDigests
from mnseg.data.datalist import load_datalist, write_datalist
from mnseg.data.volume_formats import VOLUME_SUFFIXES
from mnseg.errors import UserError

__all__ = [
    "Pool",
    "final_label",
    "gather",
    "known_scans",
    "replaced_scans",
    "write_fold_datalist",
    "write_run_datalist",
]

logger = logging.getLogger(__name__)

FINAL = "final"


@dataclass
class Pool:
    """The scans of a training.

    split: who trains.
    folds, salt: as `lib.trainers.split.make_folds` made them; empty when validation shows enough patients.
    items: case -> datalist item with "image", "case", "patient" and, where it has a label that counts, "label" and
        "sha256" of the label and, where it is known, "scan", the digest of the image that the label was saved for.
    left_out: case -> why it is not used.
    """

    split: Split
    folds: list[Fold] = field(default_factory=list)
    salt: int = 0
    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def known_scans(
    datastore: Any,
    group_by: str,
    unedited: Collection[str],
    only: Collection[str] | None = None,
    patients: dict[str, str] | None = None,
) -> list[Scan]:
    """Scans of the datastore, whom they show and whether they have a final label; no file is read.

    Args:
        datastore: MONAI Label's.
        group_by: see `lib.trainers.split.patient_of`.
        unedited: images whose label is a mask of ours.
        only: of these images; None: of all.
        patients: those that are known, and will be; a DICOMweb server is asked for each of the others.
    """
    labeled = set(datastore.get_labeled_images())
    patients = {} if patients is None else patients
    scans = []
    for image_id in datastore.list_images():
        if only is not None and image_id not in only:
            continue
        if image_id not in patients:
            info = datastore.get_image_info(image_id) if group_by in ("", "PatientID") else None
            patients[image_id] = patient_of(image_id, info, group_by)
        scans.append(Scan(image_id, patients[image_id], image_id in labeled, image_id in unedited))
    return scans


def gather(
    datastore: Any,
    scans: Iterable[Scan],
    labels_dir: Path,
    fraction: float,
    folds: int,
    train_unedited: bool = False,
    left_out: Mapping[str, str] | None = None,
    digests: ContentDigests | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Pool:
    """Fetch the images, copy the labels, divide.

    Labels are copied, because somebody may edit one while the training runs. A scan that cannot be fetched is left
    out, and the reason kept; one whose label cannot be had is left out altogether.

    Args:
        datastore: MONAI Label's.
        scans: from `known_scans`.
        labels_dir: where the copies go.
        fraction, train_unedited: see `lib.trainers.split.split_scans`.
        folds: see `lib.trainers.split.make_folds`; used while validation has too few patients.
        left_out: cases that are known to be unusable, with the reasons.
        digests: of the images' bytes, where they are remembered; None: all are read.
        stopped: asked before every scan, since a DICOMweb server may take its time; True: give up.
    """
    left_out = dict(left_out or {})
    digests = digests or ContentDigests(labels_dir)
    items: dict[str, dict[str, Any]] = {}
    usable = []
    for scan in scans:
        if stopped():
            break
        if scan.case in left_out:
            continue
        try:
            items[scan.case] = _item(datastore, scan, labels_dir, digests)
            usable.append(scan)
        except Exception as error:  # a reader, a network, a disk: one scan must not keep the others from training
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            left_out[scan.case] = f"{kind}{' '.join(str(error).split())[:200]}"
            logger.warning("%s is left out: %s", scan.case, left_out[scan.case])
    usable = _without_doubles(usable, items, left_out, digests)
    split = split_scans(usable, fraction, train_unedited)
    made, salt = make_folds(split, folds) if split.needs_folds else ([], 0)
    return Pool(split, made, salt, items, left_out)


def _without_doubles(
    scans: list[Scan], items: Mapping[str, Mapping[str, Any]], left_out: dict[str, str], digests: ContentDigests
) -> list[Scan]:
    """Of scans with equal bytes, such as a series that was sent twice, the one with a person's label, else the first.

    Two of them might fall on both sides of the validation.
    """
    kept: dict[str, Scan] = {}
    for scan in sorted(scans, key=lambda scan: (not scan.labeled or scan.unedited, not scan.labeled, scan.case)):
        first = kept.setdefault(digests.of(items[scan.case]["image"]), scan)
        if first is not scan:
            left_out[scan.case] = f"it is the same scan as {first.case}"
            logger.warning("%s is left out: %s", scan.case, left_out[scan.case])
    return [scan for scan in scans if scan.case not in left_out]


def final_label(datastore: Any, image_id: str) -> Path:
    """File of a scan's final label."""
    label_id = datastore.get_label_by_image_id(image_id, FINAL)
    wants_image = "image_id" in inspect.signature(datastore.get_label_uri).parameters  # the DICOMweb one
    uri = datastore.get_label_uri(label_id, FINAL, *([image_id] if wants_image else []))
    if not uri or not Path(uri).exists():
        raise FileNotFoundError(f"the label of {image_id} is not there")
    return Path(uri)


def write_run_datalist(pool: Pool, path: Path, seen: Collection[str], facts: Mapping[str, Any]) -> None:
    """datalist.json of a run.

    Besides the splits it says what its models have seen, they and all that they were warm-started from: "seen", and
    for each of "folds" its "seen". "held_out" are ids alone: no training could use them by mistake.

    Args:
        pool: see above.
        path: of the file.
        seen: cases that the warm start was trained on.
        facts: more keys.
    """
    split = pool.split
    write_datalist(
        {
            **facts,
            "labeled": [pool.items[scan.case] for scan in split.labeled],
            "unlabeled": [_without_label(pool.items[scan.case]) for scan in split.unlabeled],
            "validation": [pool.items[scan.case] for scan in split.validation],
            "held_out": [scan.case for scan in split.held_out],
            "left_out": pool.left_out,
            "seen": sorted({*seen, *(scan.case for scan in (*split.labeled, *split.unlabeled))}),
        },
        path,
    )


def write_fold_datalist(pool: Pool, fold: Fold, path: Path, facts: Mapping[str, Any]) -> None:
    """datalist.json of a fold's run: without the fold's patients, and without validation."""
    write_datalist(
        {
            **facts,
            "labeled": [pool.items[scan.case] for scan in fold.labeled],
            "unlabeled": [_without_label(pool.items[scan.case]) for scan in fold.unlabeled],
            "validation": [],
            "fold": fold.index,
        },
        path,
    )


def _item(datastore: Any, scan: Scan, labels_dir: Path, digests: ContentDigests) -> dict[str, Any]:
    image = datastore.get_image_uri(scan.case)
    if not image or not os.path.exists(image):
        raise FileNotFoundError(f"the image {scan.case} is not there")
    item = {"image": str(image), "case": scan.case, "patient": scan.patient}
    if scan.labeled:
        digest = _digest_of_labeled(datastore, scan.case, image, digests)
        item |= {} if digest is None else {"scan": digest}
        source = final_label(datastore, scan.case)
        copy = labels_dir / f"{scan.case}{_suffix(source)}"
        labels_dir.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        item |= {"label": str(copy), "sha256": sha256_of(copy)}
    return item


def _digest_of_labeled(datastore: Any, case: str, image: str, digests: ContentDigests) -> str | None:
    """Digest of the image, which must be the one that its label was saved for.

    None: of labels that were put into the folder by hand nothing is known.
    """
    saved_for = datastore.get_label_info(datastore.get_label_by_image_id(case, FINAL), FINAL).get("scan")
    if saved_for is not None and digests.of(image) != saved_for:
        raise UserError("the scan was replaced after its label was saved; check the label and save it again")
    return saved_for


def replaced_scans(run_folder: Path) -> list[str]:
    """Cases of a run's datalist whose image is no longer the one that the label was saved for."""
    path = run_folder / "datalist.json"
    try:
        content = load_datalist(path) if path.exists() else {}
    except UserError:  # the step that reads it next says what is wrong
        return []
    items = [item for split in ("labeled", "validation") for item in content.get(split, []) if "scan" in item]
    return [item["case"] for item in items if _digest(item["image"]) != item["scan"]]


def _digest(image: str | os.PathLike) -> str | None:
    try:
        return ContentDigests(os.path.dirname(image)).of(image)
    except OSError:  # it is not there
        return None


def _suffix(path: Path) -> str:
    found = next((suffix for suffix in sorted(VOLUME_SUFFIXES, key=len, reverse=True)
                  if path.name.lower().endswith(suffix)), None)
    if found is None:
        raise UserError(f"{path.name} is no volume file.")
    return found


def _without_label(item: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item[key] for key in ("image", "case", "patient")}
