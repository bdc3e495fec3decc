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


def edge_contrast(image: np.ndarray, label: np.ndarray) -> dict[tuple[int, ...], float]:
    """How much brighter a label's inside is than the 2 voxels around it, in standard deviations (Cohen's d).

    Near 0 for a label that lies at the wrong place: tissue on both sides of its outline is then the same.

    Args:
        image: (H, W, D) in Hounsfield units; clipped to soft tissue, so that air and bone do not decide.
        label: (H, W, D) bool.

    Returns:
        The contrast for the image as it is, under (), and mirrored along one or more axes, under those axes.
    """
    mirrors = [tuple(int(axis) for axis in np.flatnonzero(flags)) for flags in product((0, 1), repeat=3)]
    if not label.any():
        return dict.fromkeys(mirrors, 0.0)
    box = tuple(slice(max(axis.min() - 3, 0), axis.max() + 4) for axis in np.nonzero(label))
    inside = label[box]
    shell = binary_dilation(inside, iterations=SHELL_VOXELS) & ~inside
    return {axes: _contrast(np.flip(image, axes)[box], inside, shell) for axes in mirrors}


def _contrast(image: np.ndarray, inside: np.ndarray, shell: np.ndarray) -> float:
    image = np.clip(image.astype(np.float32), *SOFT_TISSUE_HU)
    within, around = image[inside], image[shell]
    if not around.size:
        return 0.0
    return float((within.mean() - around.mean()) / np.sqrt((within.var() + around.var()) / 2 + 1))


def align_label(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, str | None]:
    """Compare the label with its seven mirror images and return the one that lies on an organ.

    The label as it is stays, unless a mirror image is clearly better.

    Args:
        image: (H, W, D) in Hounsfield units.
        label: (H, W, D), brought to the image's axes by `reoriented`.

    Returns:
        The label, and None when it was right as it is, else what was done or could not be seen.
    """
    contrast = edge_contrast(image, label > 0)
    own, axes = contrast[()], max(contrast, key=contrast.get)
    best = contrast[axes]
    if best - own > CLEARLY_BETTER and best > CREDIBLE:
        names = " and ".join(f"axis {axis}" for axis in axes)
        return np.flip(label, axes), (f"the label's header is wrong: mirrored along {names} it lies on an organ "
                                      f"(edge contrast {best:.2f}), as stated it does not ({own:.2f}); mirrored.")
    if own < CREDIBLE:
        return label, (f"whether the label lies on the organ cannot be seen (edge contrast {own:.2f}); taken as its "
                       "header says, look at it.")
    return label, None
