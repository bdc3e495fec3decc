"""Is a datalist sound? Everything that would spoil a training run or its evaluation, found before it starts."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from nibabel.orientations import aff2axcodes

from mnseg.data.datalist import SPLITS, load_datalist, resolve_datalist
from mnseg.data.volume_io import digest_array, open_volume, read_voxels
from mnseg.errors import UserError

__all__ = ["CheckReport", "Finding", "check_datalist", "require_sound_datalist"]

logger = logging.getLogger(__name__)

AFFINE_TOLERANCE_VOXELS = 0.1
_POOL = {"labeled": "training", "unlabeled": "training", "validation": "validation", "testing": "testing"}


@dataclass(frozen=True)
class Finding:
    """One defect: ``level`` is "error" or "warning", ``case`` the case id ("" for the datalist as a whole)."""

    level: str
    split: str
    case: str
    message: str

    def __str__(self) -> str:
        place = "/".join(part for part in (self.split, self.case) if part) or "datalist"
        return f"{self.level}: {place}: {self.message}"


@dataclass
class CheckReport:
    """All findings of one check, errors first, and how many scans of each split were looked at."""

    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "warning"]

    def summary(self) -> str:
        scans = ", ".join(f"{count} {split}" for split, count in self.counts.items())
        return f"{scans}: {_plural(len(self.errors), 'error')}, {_plural(len(self.warnings), 'warning')}"

    def raise_for_errors(self, limit: int = 10) -> None:
        """Raise a `UserError` that lists up to ``limit`` errors; do nothing when there are none."""
        if not self.errors:
            return
        lines = [f"  {finding}" for finding in self.errors[:limit]]
        if len(self.errors) > limit:
            lines.append(f"  … and {len(self.errors) - limit} more; `mnseg check` lists all.")
        raise UserError("\n".join([f"the datalist has {_plural(len(self.errors), 'error')}:", *lines]))


@dataclass
class _CaseResult:
    """What one volume pair tells: its findings, and what only a comparison over all cases can judge."""

    split: str
    case: str
    image: str
    findings: list[Finding] = field(default_factory=list)
    digest: str | None = None
    channels: int | None = None
    classes: frozenset[int] = frozenset()

    def add(self, level: str, message: str) -> None:
        self.findings.append(Finding(level, self.split, self.case, message))


def check_datalist(
    datalist: Mapping[str, Any] | str | os.PathLike,
    dataset_dir: str | os.PathLike | None = None,
    num_classes: int | None = None,
    jobs: int | None = None,
    check_hidden: bool = False,
) -> CheckReport:
    """Read every image and label once and report all defects.

    Args:
        datalist: a file, or its content; relative paths of a content are looked for in ``dataset_dir`` (default:
            the current folder).
        num_classes: labels must be 0..num_classes-1; default: the number of "class_names" in the datalist. With
            neither, labels need only be whole numbers >= 0.
        jobs: volumes read at the same time, each holding one volume in memory; default: up to 4.
        check_hidden: also compare "hidden_label" files with their images (as warnings); else they need only exist.

    Raises:
        UserError: the datalist itself cannot be read. Defects of the scans are findings instead.
    """
    if isinstance(datalist, Mapping):
        resolved = resolve_datalist(datalist, [Path(os.path.abspath(dataset_dir or "."))])
    else:
        resolved = load_datalist(datalist, dataset_dir)
    names = resolved.get("class_names")
    findings = []
    if names and num_classes and len(names) != num_classes:
        findings.append(Finding("warning", "", "", f"class_names has {len(names)} names, "
                                                   f"but the check is for {num_classes} classes."))
    num_classes = num_classes or (len(names) if names else None)
    items = [(split, item) for split in SPLITS for item in resolved.get(split, [])]
    with ThreadPoolExecutor(jobs or min(4, os.cpu_count() or 1)) as pool:
        results = list(pool.map(lambda pair: _check_case(*pair, num_classes, check_hidden), items))
    findings += [finding for result in results for finding in result.findings]
    findings += [*_repeated_cases(results), *_repeated_content(results), *_shared_patients(items),
                 *_differing_channels(results), *_absent_classes(results, num_classes, names)]
    findings.sort(key=lambda finding: finding.level != "error")
    return CheckReport(findings, {split: len(resolved.get(split, [])) for split in SPLITS})


def _check_case(split: str, item: Mapping[str, Any], num_classes: int | None, check_hidden: bool) -> _CaseResult:
    result = _CaseResult(split, item["case"], item["image"])
    image = None
    try:
        image = open_volume(item["image"])
        _check_image(image, item["image"], result)
    except UserError as error:
        result.add("error", str(error))
    if split == "unlabeled":
        if "label" in item:
            result.add("error", 'an unlabeled item must not have a "label"; call it "hidden_label" or leave it out.')
        _check_hidden_label(image, item.get("hidden_label"), result, num_classes if check_hidden else None,
                            check_hidden)
    elif "label" not in item:
        if split != "testing":
            result.add("error", f'has no "label", which every {split} item needs.')
    else:
        _check_label_file(image, item["label"], result, num_classes)
    return result


def _check_image(image: Any, path: str, result: _CaseResult) -> None:
    """Geometry and values of an image; sets ``result.digest`` and ``result.channels``."""
    if len(image.shape) not in (3, 4):
        result.add("error", f"{path} has {len(image.shape)} dimensions; a volume needs 3 (or 4 with channels last).")
        return
    if not _sound_affine(image.affine):
        result.add("error", f"{path} has an affine that is singular or not finite; its orientation is unknown.")
    if image.header["sform_code"] == 0 and image.header["qform_code"] == 0:
        result.add("warning", f"{path} states no orientation (sform and qform codes are 0); RAS is not certain.")
    if 0 in image.shape:
        result.add("error", f"{path} has no voxels (shape {_shape(image.shape)}).")
        return
    if 1 in image.shape[:3]:
        result.add("warning", f"{path} has only one slice along an axis (shape {_shape(image.shape)}).")
    result.channels = image.shape[3] if len(image.shape) == 4 else 1
    voxels = read_voxels(image, path)
    if voxels.dtype.kind == "f" and (count := voxels.size - int(np.isfinite(voxels).sum())):
        result.add("error", f"{path} has {count} voxels that are NaN or infinite.")
    elif voxels.min() == voxels.max():
        result.add("error", f"{path} is constant (every voxel is {voxels.flat[0]:g}).")
    result.digest = digest_array(voxels, image.affine)


def _check_label_file(image: Any, path: str, result: _CaseResult, num_classes: int | None) -> None:
    try:
        label = open_volume(path)
        if image is not None:
            _compare_grids(image, label, path, result)
        result.classes = _check_label_values(read_voxels(label, path), path, result, num_classes)
    except UserError as error:
        result.add("error", str(error))


def _compare_grids(image: Any, label: Any, path: str, result: _CaseResult) -> None:
    """Label and image must lie on one grid: shape, axis directions, and position within 0.1 voxel at every corner."""
    if label.shape[:3] != image.shape[:3] or any(size != 1 for size in label.shape[3:]):
        result.add("error", f"label {path} has shape {_shape(label.shape)}, its image {_shape(image.shape)}.")
        return
    if not _sound_affine(label.affine):
        result.add("error", f"label {path} has an affine that is singular or not finite.")
        return
    if not _sound_affine(image.affine):
        return
    codes = ["".join(aff2axcodes(volume.affine)) for volume in (label, image)]
    if codes[0] != codes[1]:
        result.add("error", f"label {path} has orientation {codes[0]}, its image {codes[1]}; "
                            "save the label on the image's grid.")
        return
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(image.shape[:3]) - 1)
    gap = np.linalg.norm(apply_affine(label.affine, corners) - apply_affine(image.affine, corners), axis=1).max()
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0).min()
    if gap > AFFINE_TOLERANCE_VOXELS * spacing:
        result.add("error", f"label {path} and its image have different affines: corners lie up to {gap:.3g} mm "
                            "apart; save the label on the image's grid.")


def _check_label_values(
    voxels: np.ndarray, path: str, result: _CaseResult, num_classes: int | None
) -> frozenset[int]:
    """Report values that are no class; return the classes that occur."""
    if voxels.size == 0:
        return frozenset()
    values = _distinct(voxels)
    whole = values[np.isfinite(values) & (values == np.round(values))] if values.dtype.kind == "f" else values
    if len(whole) < len(values):
        others = np.setdiff1d(values, whole)
        result.add("error", f"label {path} has values that are not whole numbers: {_listed(others)}.")
    wrong = whole[(whole < 0) | (whole >= (num_classes or np.inf))]
    if len(wrong):
        allowed = f"0..{num_classes - 1}" if num_classes else "0 and above"
        result.add("error", f"label {path} has values outside {allowed}: {_listed(wrong)}.")
    if not values.any():
        level = "error" if result.split == "labeled" else "warning"
        result.add(level, f"label {path} is empty (background only).")
    return frozenset(int(value) for value in whole)


def _distinct(voxels: np.ndarray) -> np.ndarray:
    """Sorted distinct values; counting beats sorting for the small integers that labels are made of."""
    if voxels.dtype.kind in "bu" and voxels.dtype.itemsize == 1:
        return np.flatnonzero(np.bincount(voxels.ravel(order="K").view(np.uint8), minlength=1))
    return np.unique(voxels)


def _check_hidden_label(
    image: Any, path: str | None, result: _CaseResult, num_classes: int | None, full: bool
) -> None:
    """A hidden label must exist; with ``full`` its other defects are warnings, since it never trains anything."""
    if path is None:
        return
    if not Path(path).is_file():
        result.add("error", f"hidden label {path} does not exist.")
    elif full:
        inner = _CaseResult(result.split, result.case, result.image)
        _check_label_file(image, path, inner, num_classes)
        for finding in inner.findings:
            result.add("warning", f"hidden {finding.message}")


def _repeated_cases(results: list[_CaseResult]) -> Iterator[Finding]:
    """Case ids name predictions and pseudo-labels, so two scans must not share one."""
    splits = defaultdict(list)
    for result in results:
        splits[result.case].append(result)
    for case, group in splits.items():
        if len({result.image for result in group}) > 1:
            where = " and ".join(f"{result.image} ({result.split})" for result in group[:3])
            yield Finding("error", "", case, f'{len(group)} images share this case id: {where}; rename one or give '
                                             'the items different "case" values.')


def _repeated_content(results: list[_CaseResult]) -> Iterator[Finding]:
    """Equal voxels under any name: an error over two splits (leakage), a warning inside one."""
    groups = defaultdict(list)
    for result in results:
        groups[result.digest or f"unread:{result.image}"].append(result)
    for group in groups.values():
        if len(group) < 2:
            continue
        where = ", ".join(f"{result.split}/{result.case}" for result in group)
        if len({result.split for result in group}) > 1:
            yield Finding("error", "", "", f"the same scan is in more than one split: {where}.")
        else:
            yield Finding("warning", "", "", f"the same scan occurs {len(group)} times: {where}.")


def _shared_patients(items: list[tuple[str, Mapping[str, Any]]]) -> Iterator[Finding]:
    """Items may name their "patient"; one patient's scans must stay within training, validation or testing."""
    pools = defaultdict(lambda: defaultdict(list))
    for split, item in items:
        if "patient" in item:
            pools[item["patient"]][_POOL[split]].append(f"{split}/{item['case']}")
    for patient, by_pool in pools.items():
        if len(by_pool) > 1:
            where = ", ".join(cases[0] for cases in by_pool.values())
            yield Finding("error", "", "", f"patient {patient} has scans in more than one of training, validation "
                                           f"and testing: {where}.")


def _differing_channels(results: list[_CaseResult]) -> Iterator[Finding]:
    counts = Counter(result.channels for result in results if result.channels)
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        for result in results:
            if result.channels and result.channels != usual:
                yield Finding("error", result.split, result.case,
                              f"{result.image} has {result.channels} channels, most images have {usual}.")


def _absent_classes(
    results: list[_CaseResult], num_classes: int | None, names: list[str] | None
) -> Iterator[Finding]:
    labeled = [result for result in results if result.split == "labeled"]
    seen = frozenset().union(*(result.classes for result in labeled))
    if not num_classes or len(seen) < 2:
        return
    for index in sorted(set(range(1, num_classes)) - seen):
        name = f" ({names[index]})" if names and index < len(names) else ""
        yield Finding("warning", "labeled", "", f"class {index}{name} occurs in no labeled case.")


def require_sound_datalist(
    path: str | os.PathLike,
    dataset_dir: str | os.PathLike | None = None,
    num_classes: int | None = None,
    allow_empty_unlabeled: bool = False,
    batch_size: int | None = None,
    min_labeled: int = 1,
) -> dict[str, Any]:
    """Load and check a datalist for training; warnings are logged, errors stop.

    Args:
        batch_size: items per batch (B of Eq. 11); it must hold at least ``min_labeled`` labeled items.

    Returns:
        The datalist with all of "labeled", "unlabeled", "validation", "testing" (possibly empty); absolute paths;
        every item with its "case".

    Raises:
        UserError: a key is missing, a pool is empty that must not be, the batch is too small, or the check failed.
    """
    datalist = load_datalist(path, dataset_dir)
    for key in ("labeled", "unlabeled", "validation"):
        if key not in datalist:
            raise UserError(f'datalist {path} has no "{key}"; add that key (`mnseg datalist` writes all of them).')
    if not datalist["labeled"]:
        raise UserError(f'datalist {path} has no labeled case; put at least one under "labeled".')
    if not datalist["unlabeled"] and not allow_empty_unlabeled:
        raise UserError(f'datalist {path} has no unlabeled case, so there is nothing to co-train on; add scans under '
                        '"unlabeled" or set allow_empty_unlabeled to true.')
    _require_batch(batch_size, min_labeled)
    report = check_datalist(datalist, num_classes=num_classes)
    for finding in report.warnings:
        logger.warning("%s", finding)
    try:
        report.raise_for_errors()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    logger.info("%s: %s", path, report.summary())
    return {**datalist, "testing": datalist.get("testing", [])}


def _require_batch(batch_size: int | None, min_labeled: int) -> None:
    if batch_size is None:
        return
    if batch_size < max(1, min_labeled):
        raise UserError(f"batch_size {batch_size} leaves no room for min_labeled {min_labeled} labeled item(s); "
                        "raise batch_size or lower min_labeled.")


def _sound_affine(affine: np.ndarray) -> bool:
    return bool(np.isfinite(affine).all()) and np.linalg.matrix_rank(affine[:3, :3]) == 3


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape)


def _listed(values: np.ndarray, limit: int = 5) -> str:
    return ", ".join(f"{value:g}" for value in values[:limit]) + (", …" if len(values) > limit else "")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
