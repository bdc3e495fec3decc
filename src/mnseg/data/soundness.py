"""What every reader refuses before it reads: grids that cannot be, headers that claim more than the file can hold."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np

from mnseg.errors import UserError

__all__ = ["refuse_overstated_size", "refuse_unsound_grid", "sound_affine"]

# Deflate makes at most 1032 bytes of one (zlib's documentation); bzip2 more, but not of scans.
MAX_COMPRESSION = 1100


def sound_affine(affine: np.ndarray) -> bool:
    """Whether an affine (4, 4) is finite and can be inverted."""
    return bool(np.isfinite(affine).all()) and np.linalg.matrix_rank(affine[:3, :3]) == 3


def refuse_unsound_grid(path: str | os.PathLike, shape: Sequence[int], affine: np.ndarray) -> None:
    """A `UserError` for a grid without voxels, or an affine that is singular or not finite."""
    if min(shape, default=0) < 1:
        raise UserError(f"{path} has no voxels (shape {'x'.join(str(size) for size in shape)}).")
    if not sound_affine(affine):
        raise UserError(f"{path} has an affine that is singular or not finite; its orientation is unknown.")


def refuse_overstated_size(path: str | os.PathLike, shape: Sequence[int], itemsize: int, stored: int) -> None:
    """A `UserError` for a header that claims more bytes than ``stored`` ones can unpack to: nothing is allocated."""
    claimed = math.prod(int(size) for size in shape) * itemsize
    if claimed > MAX_COMPRESSION * stored:
        raise UserError(f"{path} is damaged: its header claims {claimed:.3g} bytes of voxels "
                        f"({'x'.join(str(size) for size in shape)}), the file has {stored} bytes.")
