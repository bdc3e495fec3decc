"""Where the 3D network sees foreground in unlabeled scans: steers the crops, never enters a loss."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["PseudoForeground", "sample_foreground"]


def sample_foreground(mask: np.ndarray | torch.Tensor, limit: int = 2048, seed: int = 0) -> np.ndarray:
    """Flat indices of at most ``limit`` foreground voxels, an equal share for every class that is present.

    All indices would cost 8 bytes a voxel; a capped sample steers crops as well.

    Args:
        mask: ``(H, W, D)`` or ``(1, H, W, D)`` integer classes, 0 is background.
        limit: most indices kept.
        seed: seed of the draw.

    Returns:
        int64 array, empty when the mask is.
    """
    flat = np.asarray(mask).ravel()
    foreground = np.flatnonzero(flat)
    if foreground.size == 0:
        return foreground
    rng = np.random.default_rng(seed)
    classes = flat[foreground]
    present = np.unique(classes)
    share = max(1, limit // present.size)
    parts = []
    for value in present:
        indices = foreground[classes == value]
        parts.append(rng.choice(indices, share, replace=False) if indices.size > share else indices)
    return np.concatenate(parts)


class PseudoForeground:
    """Foreground voxel indices per unlabeled case, as the 3D network last predicted them.

    One object is shared by the crop, which reads it, and ``PseudoForegroundHandler``, which refreshes it. Data
    loader workers take their copy when an epoch's iterator is made, so they must not be persistent.
    """

    def __init__(self) -> None:
        self.indices: dict[str, np.ndarray] = {}
        self.refreshed: dict[str, int] = {}

    def get(self, case: str) -> np.ndarray | None:
        """Indices of a case; None before its first refresh, empty when nothing was predicted."""
        return self.indices.get(case)

    def update(self, case: str, indices: np.ndarray, epoch: int) -> None:
        """Replace a case's indices and note the epoch."""
        self.indices[case] = indices
        self.refreshed[case] = epoch

    def state_dict(self) -> dict:
        """Tensors and plain values only, so that it loads with ``weights_only``."""
        indices = {case: torch.as_tensor(values) for case, values in self.indices.items()}
        return {"indices": indices, "refreshed": dict(self.refreshed)}

    def load_state_dict(self, state: dict) -> None:
        """Take over what ``state_dict`` gave."""
        self.indices = {case: values.numpy() for case, values in state["indices"].items()}
        self.refreshed = dict(state["refreshed"])
