"""Moving labels between grids that share their voxels: other axis order or direction, other extent, never resampled."""

from __future__ import annotations

import numpy as np

from mnseg.errors import UserError

__all__ = ["index_map", "inside", "label_onto_grid"]

TOLERANCE_VOXELS = 0.1


def index_map(
    affine: np.ndarray, target: np.ndarray, size: tuple[int, ...], what: str
) -> tuple[np.ndarray, np.ndarray]:
    """Whole-number map from indices of one grid to indices of another.

    Args:
        affine: (4, k + 1) index-to-world matrix of a grid with k axes: 3, or 2 for a single slice.
        target: (4, 4) index-to-world matrix of the other grid.
        size: the k numbers of voxels.
        what: the name for the error.

    Returns:
        Matrix (3, k) and offset (3,) with ``target index = matrix @ index + offset``.

    Raises:
        UserError: voxel centers lie more than 0.1 voxel beside those of the other grid.
    """
    exact = (np.linalg.inv(target) @ affine)[:3]
    whole = np.rint(exact).astype(int)
    axes = len(size)
    corners = np.array(list(np.ndindex(*(2,) * axes))) * (np.array(size) - 1)
    beside = np.abs((exact - whole) @ np.column_stack([corners, np.ones(len(corners))]).T).max()
    steps = np.abs(whole[:, :axes])
    if (steps.sum(0) != 1).any() or (steps.sum(1) > 1).any() or beside > TOLERANCE_VOXELS:
        raise UserError(f"{what} does not lie on the voxels of the scan; resample it to the scan's grid first.")
    return whole[:, :axes], whole[:, axes]


def label_onto_grid(
    label: np.ndarray, affine: np.ndarray, shape: tuple[int, int, int], target: np.ndarray, what: str
) -> np.ndarray:
    """A label (X, Y, Z) on another grid with the same voxels; 0 where it does not reach.

    Raises:
        UserError: the voxels are others, or a labeled voxel lies outside of ``shape``.
    """
    matrix, offset = index_map(affine, target, label.shape, what)
    indices = np.nonzero(label)
    placed = np.zeros(shape, label.dtype)
    places = matrix @ np.array(indices) + offset[:, None]
    placed[inside(shape, places, what)] = label[indices]
    return placed


def inside(shape: tuple[int, ...], indices: np.ndarray, what: str) -> tuple[np.ndarray, ...]:
    """Indices (3, N) ready for indexing; a `UserError` when one lies outside of ``shape``."""
    if ((indices < 0) | (indices >= np.array(shape)[:, None])).any():
        raise UserError(f"{what} reaches beyond the scan; is it of another scan?")
    return tuple(indices)
