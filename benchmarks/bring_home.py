"""A trained 3D network in half the bytes, for a road that takes small files only."""

from __future__ import annotations

from pathlib import Path

import torch

from mnseg.errors import UserError
from mnseg.files import atomic_save

__all__ = ["LIMIT", "bring_home"]

LIMIT = 16 * 2**20


def bring_home(weights: Path, target: Path, limit: int = LIMIT) -> Path:
    """Write ``model.pt`` with its floating-point tensors in bfloat16; ``load_state_dict`` takes it as it is.

    Raises:
        UserError: the file would be larger than ``limit`` bytes; nothing is written.
    """
    content = torch.load(weights, map_location="cpu", weights_only=True)
    half = {
        name: value.bfloat16().contiguous() if value.is_floating_point() else value for name, value in content.items()
    }
    size = sum(value.numel() * value.element_size() for value in half.values())
    if size > limit:
        raise UserError(f"{weights} has {size / 2**20:.1f} MiB in bfloat16, more than {limit / 2**20:.0f} MiB.")
    return atomic_save(half, target)
