"""Scans unlike the rest of their data set: other voxels, another field of view, other intensities or modality.

They may be right. More often they are a scan in other units, a localizer, or another body part, which a person should
look at before training.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation

__all__ = ["ScanProfile", "peculiarities", "scan_profile"]

AXES = ("left-right", "front-back", "foot-head")
GEOMETRY_FACTOR = 2.0
# Scanners of one study differ tenfold in MR intensities; other units (0..1, 8 bit, 16 bit) differ by more.
INTENSITY_FACTOR = 30.0
AIR_HU = -500.0
MIN_SCANS = 10  # below, nobody can say what is usual
RARE = 0.1  # what more of the scans have in common is a second kind of scan, not an outlier
SAMPLES_PER_AXIS = 64


@dataclass(frozen=True)
class ScanProfile:
    """What a scan is compared by.

    spacing, extent: mm along the left-right, front-back and foot-head axes.
    low, high: percentiles 0.5 and 99.5 of the first channel.
    modality: what the datalist or a DICOM header says, if one does.
    """

    spacing: tuple[float, float, float]
    extent: tuple[float, float, float]
    low: float
    high: float
    modality: str | None = None


def scan_profile(voxels: np.ndarray, affine: np.ndarray, modality: str | None = None) -> ScanProfile:
    """Profile of a volume.

    Args:
        voxels: (H, W, D) or (H, W, D, C), none of the axes empty.
        affine: (4, 4), invertible.
        modality: "CT", "MR", …, where it is known.
    """
    volume = voxels if voxels.ndim == 3 else voxels[..., 0]
    order = io_orientation(affine)[:, 0].astype(int)
    spacing, extent = np.empty(3), np.empty(3)
    spacing[order] = voxel_sizes(affine)
    extent[order] = voxel_sizes(affine) * volume.shape
    # A regular sample: percentiles of all voxels would take longer than the rest of the check.
    sample = volume[tuple(slice(None, None, max(1, size // SAMPLES_PER_AXIS)) for size in volume.shape)]
    sample = sample[np.isfinite(sample)] if sample.dtype.kind == "f" else sample
    low, high = np.percentile(sample, [0.5, 99.5]) if sample.size else (np.nan, np.nan)
    return ScanProfile(tuple(spacing.tolist()), tuple(extent.tolist()), float(low), float(high), modality)


def peculiarities(profiles: Sequence[ScanProfile]) -> Iterator[tuple[int, str]]:
    """Position and description of every scan that is unlike the rest.

    A value is peculiar when it differs from the median by more than a factor (2 in geometry, 30 in the range of
    intensities) and at most one in ten scans is like it, that is nearer to it than by that factor. Where several
    modalities are stated, scans are compared with those of their own; fewer than 10 are not compared.
    """
    remarks = defaultdict(list)
    for position, text in _other_modality(profiles):
        remarks[position].append(text)
    for positions in _comparable(profiles):
        for index, text in _other_values([profiles[position] for position in positions]):
            remarks[positions[index]].append(text)
    for position in sorted(remarks):
        yield position, "; ".join(remarks[position])


def _comparable(profiles: Sequence[ScanProfile]) -> Iterable[list[int]]:
    """Groups of one modality. Scans that state none, as NIfTI files beside DICOM, may be of the only one stated."""
    groups = defaultdict(list)
    for position, profile in enumerate(profiles):
        groups[profile.modality].append(position)
    return groups.values() if len(groups.keys() - {None}) > 1 else [list(range(len(profiles)))]


def _other_modality(profiles: Sequence[ScanProfile]) -> Iterator[tuple[int, str]]:
    stated = Counter(profile.modality for profile in profiles if profile.modality)
    for position, profile in enumerate(profiles):
        if profile.modality and _is_rare(stated[profile.modality], stated.total()):
            yield position, f"modality {profile.modality} (usual: {stated.most_common(1)[0][0]})"
    if len(stated) == 1 and stated.total() == len(profiles):
        return
    judged = [position for position, profile in enumerate(profiles) if len(stated) < 2 or not profile.modality]
    with_air = [profiles[position].low < AIR_HU for position in judged]
    for position, air in zip(judged, with_air, strict=True):
        if _is_rare(with_air.count(air), len(judged)):
            usual = "no values below -500, unlike CT" if air else "values below -500, like CT"
            yield position, f"lowest intensities near {profiles[position].low:.4g} (usual: {usual})"


def _other_values(profiles: Sequence[ScanProfile]) -> Iterator[tuple[int, str]]:
    for key, noun in (("spacing", "voxel spacing"), ("extent", "field of view")):
        for axis, name in enumerate(AXES):
            values = np.array([getattr(profile, key)[axis] for profile in profiles])
            for index in _lonely(values, GEOMETRY_FACTOR):
                yield index, f"{noun} {values[index]:.3g} mm {name} (usual: {np.median(values):.3g} mm)"
    ranges = np.array([profile.high - profile.low for profile in profiles])
    for index in _lonely(ranges, INTENSITY_FACTOR):
        yield index, f"intensities span {ranges[index]:.3g} (usual: {np.median(ranges):.3g})"


def _lonely(values: np.ndarray, factor: float) -> list[int]:
    """Positions of positive values that lie off the median by more than ``factor`` and have few like them."""
    known = np.isfinite(values) & (values > 0)
    if not known.any():
        return []
    logs = np.log(np.where(known, values, 1.0))
    far = known & (np.abs(logs - np.median(logs[known])) > np.log(factor) + 1e-6)
    alike = [int((np.abs(logs[known] - logs[index]) < np.log(factor)).sum()) for index in np.flatnonzero(far)]
    return [int(i) for i, count in zip(np.flatnonzero(far), alike, strict=True) if _is_rare(count, int(known.sum()))]


def _is_rare(count: int, total: int) -> bool:
    return total >= MIN_SCANS and count <= RARE * total
