"""Slices of a volume as images: a 3D network's mask prompts a 2D promptable model, slice by slice."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mnseg.errors import UserError
from mnseg.mining.miner import KEPT, NOTHING_FOUND, MinedImage, Miner

__all__ = ["TOO_FEW", "MinedVolume", "as_image", "mine_volume", "to_gray"]

TOO_FEW = "too few slices kept"


@dataclass
class MinedVolume:
    """What became of one volume.

    Attributes:
        case: its name.
        label: (H, W, D) uint8, None where the volume was rejected or nothing was found.
        decision: "kept", "nothing found" or "too few slices kept".
        slices: what became of every slice in which the 3D network sees something, named "case slice INDEX".
    """

    case: str
    label: np.ndarray | None
    decision: str
    slices: list[MinedImage] = field(default_factory=list)


def to_gray(volume: np.ndarray, window: tuple[float, float] | None = None) -> np.ndarray:
    """uint8 of a volume: ``window`` (low, high) becomes 0 .. 255; None: its 0.5 and 99.5 percentiles.

    One window for all slices, so that a slice of air stays dark.
    """
    values = np.nan_to_num(np.asarray(volume, dtype=np.float32))
    low, high = np.percentile(values, (0.5, 99.5)) if window is None else window
    scaled = (values - low) / max(high - low, np.finfo(np.float32).tiny)
    return (np.clip(scaled, 0, 1) * 255).round().astype(np.uint8)


def as_image(plane: np.ndarray) -> np.ndarray:
    """A plane of a volume in RAS order as a radiologist sees it: the patient's front or head on top."""
    return plane.T[::-1, ::-1]


def _as_plane(image: np.ndarray) -> np.ndarray:
    return image[::-1, ::-1].T


def mine_volume(
    miner: Miner,
    case: str,
    volume: np.ndarray,
    mask: np.ndarray,
    num_classes: int,
    axis: int = 2,
    window: tuple[float, float] | None = None,
    min_kept: float = 0.5,
) -> MinedVolume:
    """Mine the slices of one volume.

    A slice that is not kept, or in which the 3D network sees nothing, has the 3D network's own mask in the label: a
    hole would teach background.

    Args:
        miner: makes each slice's label.
        case: the volume's name.
        volume: (H, W, D) intensities in RAS order.
        mask: (H, W, D) class indices of the 3D network.
        num_classes: K.
        axis: the slices lie along it.
        window: see ``to_gray``.
        min_kept: the volume counts when at least this share of the slices with structures was kept.

    Raises:
        UserError: ``min_kept`` is no share, or the miner selects points by a confidence that a mask does not have.
    """
    if not 0 <= min_kept <= 1:
        raise UserError(f"min_kept is {min_kept}; it is a share of slices, between 0 and 1.")
    if miner.prompts.point_selection == "confidence":
        raise UserError("masks of volumes have no confidence: set point_selection to 'distance'.")
    gray = np.moveaxis(to_gray(volume, window), axis, 0)
    planes = np.moveaxis(mask, axis, 0)
    label = np.array(mask, dtype=np.uint8)
    along = np.moveaxis(label, axis, 0)
    mined = []
    for index in np.flatnonzero(planes.any(axis=(1, 2))):
        seen = as_image(planes[index])
        probabilities = (seen == np.arange(num_classes)[:, None, None]).astype(np.float32)
        image = np.ascontiguousarray(as_image(gray[index]))
        found = miner.mine(f"{case} slice {index}", image, probabilities)
        if found.label is not None:
            along[index] = _as_plane(found.label)
        mined.append(found)
    kept = sum(each.decision == KEPT for each in mined)
    if not mined:
        return MinedVolume(case, None, NOTHING_FOUND)
    if kept == 0 or kept < min_kept * len(mined):
        return MinedVolume(case, None, TOO_FEW, mined)
    return MinedVolume(case, label, KEPT, mined)
