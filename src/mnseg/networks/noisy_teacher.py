"""A teacher that is asked several times about a slightly disturbed image: the mean of its answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mnseg.errors import UserError

__all__ = ["NoisyTeacher"]


class NoisyTeacher(nn.Module):
    """Mean prediction of a network over copies of its input with Gaussian noise, clipped at twice its deviation.

    As UA-MT does it (Yu et al., MICCAI 2019: 8 passes, noise 0.1); the entropy of the mean then tells how sure the
    teacher is. UA-MT's network has dropout as well, which stays off here: stock 3D networks have none by default.

    Args:
        network: ``(B, C, H, W, D) -> (B, K, H, W, D)`` logits.
        passes: how often it is asked.
        noise: standard deviation, in units of the standardized image.

    Raises:
        UserError: for less than one pass or a negative noise.
    """

    def __init__(self, network: nn.Module, passes: int = 4, noise: float = 0.1) -> None:
        super().__init__()
        if passes < 1 or noise < 0:
            raise UserError(f"the teacher's passes ({passes}) must be at least 1 and its noise ({noise}) at least 0.")
        self.network = network
        self.passes = passes
        self.noise = noise

    def forward(self, image: Tensor) -> Tensor:
        """Logarithm of the mean probability ``(B, K, H, W, D)``: its softmax is that mean."""
        total: Tensor | float = 0.0
        for _ in range(self.passes):
            disturbance = (torch.randn_like(image) * self.noise).clamp(-2 * self.noise, 2 * self.noise)
            total = total + self.network(image + disturbance).float().softmax(dim=1)
        return (total / self.passes).clamp_min(torch.finfo(torch.float32).tiny).log()
