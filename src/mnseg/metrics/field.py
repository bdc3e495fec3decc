"""Dice, Jaccard, HD95 and ASD as the tables of semi-supervised segmentation papers define them.

Those tables are computed with ``medpy.metric.binary``, whose distances differ from MONAI's: HD95 is ONE 95th percentile
over the surface distances of both directions together, and ASD is one-directional, from the result to the reference.
The surface of a mask is what an erosion with face connectivity (``connectivity=1``) removes, the outside of the
volume counting as background.

medpy raises on empty masks. Here:

==================  ====  =======  =========  =====================
masks               Dice  Jaccard  distances  note
==================  ====  =======  =========  =====================
both empty          1     1        0          ``both empty``
empty prediction    0     0        nan        ``empty prediction``
empty reference     0     0        nan        ``empty reference``
==================  ====  =======  =========  =====================

A distance to nothing has no value, and a substitute (such as the diagonal of the volume) would depend on how the
scan was cropped; so it is nan, and whoever averages must say how many values were left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from mnseg.errors import UserError

__all__ = ["METRIC_NAMES", "field_metrics", "surface_distances"]

METRIC_NAMES = ("dice", "jaccard", "hd95_voxel", "asd_voxel", "hd95_mm", "asd_mm")


def surface_distances(
    result: np.ndarray, reference: np.ndarray, spacing: Sequence[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Distances between the surfaces of two non-empty masks.

    Args:
        result, reference: boolean masks of the same shape, each with at least one voxel set.
        spacing: size of a voxel along each axis in mm; ``None`` measures in voxels.

    Returns:
        For every surface voxel of ``result`` the distance to the nearest one of ``reference``, and the reverse.
    """
    faces = ndimage.generate_binary_structure(result.ndim, 1)
    result_surface = result ^ ndimage.binary_erosion(result, faces)
    reference_surface = reference ^ ndimage.binary_erosion(reference, faces)
    to_reference = ndimage.distance_transform_edt(~reference_surface, sampling=spacing)
    to_result = ndimage.distance_transform_edt(~result_surface, sampling=spacing)
    return to_reference[result_surface], to_result[reference_surface]


def _hd95_and_asd(result: np.ndarray, reference: np.ndarray, spacing: Sequence[float] | None) -> tuple[float, float]:
    forward, backward = surface_distances(result, reference, spacing)
    return float(np.percentile(np.hstack((forward, backward)), 95)), float(forward.mean())


def _crop_to_union(result: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # No margin is needed: what surrounds the bounding box is background, which is also what an erosion sees outside.
    box = ndimage.find_objects((result | reference).astype(np.uint8))[0]
    return result[box], reference[box]


def field_metrics(
    result: np.ndarray, reference: np.ndarray, spacing: Sequence[float] | None = None
) -> dict[str, float | str]:
    """All metrics of one class of one case.

    Args:
        result: predicted mask, any shape and dtype; nonzero is foreground.
        reference: true mask of the same shape.
        spacing: size of a voxel along each axis in mm; ``None`` means 1 mm.

    Returns:
        The keys of :data:`METRIC_NAMES` and ``note`` (empty unless a mask is empty).

    Raises:
        UserError: the masks differ in shape.
    """
    result, reference = np.asarray(result).astype(bool), np.asarray(reference).astype(bool)
    if result.shape != reference.shape:
        raise UserError(
            f"prediction {result.shape} and reference {reference.shape} differ in shape; compare them on one grid"
        )
    sizes = np.count_nonzero(result), np.count_nonzero(reference)
    if not any(sizes):
        return dict.fromkeys(METRIC_NAMES[:2], 1.0) | dict.fromkeys(METRIC_NAMES[2:], 0.0) | {"note": "both empty"}
    if not all(sizes):
        note = "empty reference" if sizes[0] else "empty prediction"
        return dict.fromkeys(METRIC_NAMES[:2], 0.0) | dict.fromkeys(METRIC_NAMES[2:], float("nan")) | {"note": note}
    result, reference = _crop_to_union(result, reference)
    overlap = np.count_nonzero(result & reference)
    voxel = _hd95_and_asd(result, reference, None)
    isotropic_1mm = spacing is None or all(s == 1 for s in spacing)
    mm = voxel if isotropic_1mm else _hd95_and_asd(result, reference, spacing)
    values = (2 * overlap / sum(sizes), overlap / (sum(sizes) - overlap), *voxel, *mm)
    return dict(zip(METRIC_NAMES, values, strict=True)) | {"note": ""}
