"""Which slices of a patch the 2D network learns from in a step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["draw_slices"]


def draw_slices(network: nn.Module, image: Tensor, stride: int) -> dict[str, Any]:
    """One of the network's axes, and along it every ``stride``-th slice from an offset; both are drawn anew.

    Args:
        network: a ``SliceNetwork``; another one (a second 3D network) has no slices.
        image: ``(B, C, H, W, D)``.
        stride: at least 1.

    Returns:
        ``axis`` (0, 1 or 2) and ``positions`` along it, for the network's call; empty: it learns from all slices.
    """
    axes = getattr(network, "slice_axes", ())
    if not axes or (len(axes) == 1 and stride == 1):
        return {}
    axis = axes[int(torch.randint(len(axes), ()))] if len(axes) > 1 else axes[0]
    depth = image.shape[2 + axis]
    offset = int(torch.randint(min(stride, depth), ())) if stride > 1 else 0
    return {"axis": axis, "positions": torch.arange(offset, depth, stride, device=image.device)}
