"""Does a label lie on its CT? Headers are not believed: the scan itself must show an edge where the label ends."""

from __future__ import annotations

from itertools import product

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform
from scipy.ndimage import binary_dilation

__all__ = ["align_label", "edge_contrast", "reoriented"]

SOFT_TISSUE_HU = (-200, 300)
SHELL_VOXELS = 2
# Of a pancreas on its own scan the contrast is about 0.5; of the same label mirrored it was at most 0.3.
CREDIBLE = 0.2
CLEARLY_BETTER = 0.25


def reoriented(voxels: np.ndarray, affine: np.ndarray, target: np.ndarray) -> np.ndarray:
    """``voxels`` (H, W, D), stored with ``affine``, with the axis order and directions of the affine ``target``."""
    return apply_orientation(voxels, ornt_transform(io_orientation(affine), io_orientation(target)))


def edge_contrast(image: np.ndarray, label: np.ndarray) -> float:
    """How much brighter a label's inside is than the 2 voxels around it, in standard deviations (Cohen's d).

    Near 0 for a label that lies at the wrong place: tissue on both sides of its outline is then the same.

    Args:
        image: (H, W, D) in Hounsfield units; clipped to soft tissue, so that air and bone do not decide.
        label: (H, W, D) bool.
    """
    if not label.any():
        return 0.0
    box = tuple(slice(max(axis.min() - 3, 0), axis.max() + 4) for axis in np.nonzero(label))
    image, label = np.clip(image[box].astype(np.float32), *SOFT_TISSUE_HU), label[box]
    inside, shell = image[label], image[binary_dilation(label, iterations=SHELL_VOXELS) & ~label]
    if not shell.size:
        return 0.0
    return float((inside.mean() - shell.mean()) / np.sqrt((inside.var() + shell.var()) / 2 + 1))


def align_label(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Compare the label with its seven mirror images and return the one that lies on an organ.

    The label as it is stays, unless a mirror image is clearly better.

    Args:
        image: (H, W, D) in Hounsfield units.
        label: (H, W, D), brought to the image's axes by `reoriented`.

    Returns:
        The label, and None when it was right as it is, else what was done or could not be seen.
    """
    own = edge_contrast(image, label > 0)
    mirrored = {axes: edge_contrast(np.flip(image, axes), label > 0)  # the label's bounding box stays small
                for axes in (tuple(np.flatnonzero(flags)) for flags in product((0, 1), repeat=3)) if axes}
    axes = max(mirrored, key=mirrored.get)
    best = mirrored[axes]
    if best - own > CLEARLY_BETTER and best > CREDIBLE:
        names = " and ".join(f"axis {axis}" for axis in axes)
        return np.flip(label, axes), (f"the label's header is wrong: mirrored along {names} it lies on an organ "
                                      f"(edge contrast {best:.2f}), as stated it does not ({own:.2f}); mirrored.")
    if own < CREDIBLE:
        return label, (f"whether the label lies on the organ cannot be seen (edge contrast {own:.2f}); taken as its "
                       "header says, look at it.")
    return label, None
