"""How far two networks disagree about a scan, and a short description of the scan: what active learning chooses by."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["class_disagreement", "feature_names", "mean_disagreement", "scan_features"]

SPECK = 10.0
PERCENTILES = (1, 10, 25, 50, 75, 90, 99)
MOST_VOXELS = 500_000
OF_IMAGE = tuple(f"p{p}" for p in PERCENTILES)
OF_CLASS = ("log volume", "mean", "std", "x", "y", "z", "size x", "size y", "size z")


def class_disagreement(a: Tensor, b: Tensor, num_classes: int, speck: float = SPECK) -> list[float | None]:
    """Disagreement of two networks about a scan, for each foreground class: 0 (equal masks) to 1 (disjoint ones).

    One minus the Dice of the two masks, with A_c and B_c the voxels that either network gives to class c::

        d_c = (|A_c \\ B_c| + |B_c \\ A_c|) / (|A_c| + |B_c| + speck)

    - Normalised for size: both grow with the object, so that a large organ is not chosen because its surface is large.
      Entropy or the mean difference of probabilities over all voxels mostly measure the object's size.
    - Of masks, not of probabilities: what a softmax leaves on the background, over millions of voxels, says nothing
      about a small structure, and the error that a label would correct is one of masks, too. Soft Dice ranks about as
      well (docs/benchmarks.md) but keeps both networks' maps in memory, and is not 0 for two equal, unsure maps.
    - ``speck`` voxels in the denominator: few voxels that one network alone sees are no whole disagreement (3 voxels:
      0.23, 100 voxels: 0.91), while for a structure of some hundred voxels the term hardly counts.

    Args:
        a, b: masks of the two networks (H, W, D), classes 0..K-1.
        num_classes: K.
        speck: in voxels, see above.

    Returns:
        K - 1 numbers; None for a class that neither network sees: that they agree about nothing proves nothing.
    """
    pairs = torch.bincount((a.long() * num_classes + b.long()).flatten(), minlength=num_classes**2)
    pairs = pairs.reshape(num_classes, num_classes).double()
    sizes, both = (pairs.sum(dim=0) + pairs.sum(dim=1)).tolist(), pairs.diagonal().tolist()
    return [(sizes[c] - 2 * both[c]) / (sizes[c] + speck) if sizes[c] else None for c in range(1, num_classes)]


def mean_disagreement(classes: Sequence[float | None]) -> float | None:
    """Mean over the classes that either network sees; None when they see none.

    A mean over all classes would make scans in which a structure is absent look settled.
    """
    seen = [value for value in classes if value is not None]
    return sum(seen) / len(seen) if seen else None


def scan_features(image: Tensor, mask: Tensor, num_classes: int, spacing: Sequence[float]) -> list[float]:
    """A short vector by which look-alikes are told: two scans of one patient lie close, two scanners apart.

    Percentiles of the standardised intensities (the shape of the histogram: contrast, share of air), the size of the
    field of view, and of each structure that the 3D network sees its volume, intensities, place and extent. These and
    not pooled features of the 3D network's bottleneck: its instance norms give every channel the same mean in every
    window, so that the pooled vector hardly depends on the scan; features of the network would also have other meanings
    in every version, and ask for a place to tap that differs between networks. Units differ: whoever measures
    distances standardises each number over the scans first.

    Args:
        image: (C, H, W, D), as the networks get it.
        mask: (H, W, D), classes 0..K-1; 0 is background.
        num_classes: K.
        spacing: voxel size along H, W, D in mm.

    Returns:
        One number for each of ``feature_names``. A structure that is not seen has volume 0 and zeros.
    """
    values = [float(v) for channel in image for v in np.percentile(_thinned(channel), PERCENTILES)]
    values += [math.log(n * mm) for n, mm in zip(mask.shape, spacing, strict=True)]
    for index in range(1, num_classes):
        values += _of_structure(image[0], mask == index, spacing)
    return values


def feature_names(class_names: Sequence[str], channels: int = 1) -> list[str]:
    """What each number of ``scan_features`` is: intensities without unit, logarithms of mm and of 1 + ml, places as
    shares of the field of view (0..1), extents (standard deviations) in mm."""
    images = [f"image {c} {name}" if channels > 1 else f"image {name}" for c in range(channels) for name in OF_IMAGE]
    fields = [f"log field of view {axis}" for axis in "xyz"]
    return [*images, *fields, *(f"{name} {what}" for name in class_names[1:] for what in OF_CLASS)]


def _thinned(channel: Tensor) -> np.ndarray:
    """At most ``MOST_VOXELS`` voxels on a regular lattice: percentiles of more are the same."""
    step = math.ceil((channel.numel() / MOST_VOXELS) ** (1 / 3))
    return channel[::step, ::step, ::step].cpu().numpy()


def _of_structure(image: Tensor, mask: Tensor, spacing: Sequence[float]) -> list[float]:
    inside = image[mask].double()
    if not len(inside):
        return [0.0] * len(OF_CLASS)
    places, extents = [], []
    for axis, mm in enumerate(spacing):
        weights = mask.sum(dim=[other for other in range(3) if other != axis]).double() / len(inside)
        at = torch.arange(len(weights), device=weights.device) + 0.5
        center = (weights * at).sum()
        places.append(float(center) / len(weights))
        extents.append(float((weights * (at - center).square()).sum().sqrt()) * mm)
    volume = len(inside) * math.prod(spacing) / 1000
    return [math.log1p(volume), float(inside.mean()), float(inside.std(correction=0)), *places, *extents]
