"""Eq. 4 of the M&N paper: the loss on unlabeled patches, against the teacher's soft pseudo-labels."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional

from mnseg.errors import UserError
from mnseg.losses.reduction import joint_mean, joint_sum
from mnseg.losses.supervised import soft_dice_loss

__all__ = ["PseudoLabelLoss"]


class PseudoLabelLoss(nn.Module):
    """``L_u = w_kl * KL(P || M_hat) + w_dice * softDice(M_hat, P)`` (M&N, Eq. 4).

    The divergence is summed over classes and averaged over voxels. Both terms vanish where ``softmax(logits) == P``.

    Args:
        w_kl: weight of the Kullback-Leibler divergence (nats).
        w_dice: weight of the soft Dice loss.
        max_entropy: voxels at which the teacher's entropy is above this share of ``ln K`` are left out of both terms,
            as in UA-MT (Yu et al., MICCAI 2019), where the share grows from 0.75 to 1. None: all voxels count (M&N).

    Raises:
        UserError: for a share outside (0, 1].
    """

    def __init__(self, w_kl: float = 1.0, w_dice: float = 1.0, max_entropy: float | None = None) -> None:
        super().__init__()
        if max_entropy is not None and not 0 < max_entropy <= 1:
            raise UserError(f"max_entropy is {max_entropy}; it must lie above 0 and not above 1, or be null.")
        self.w_kl = w_kl
        self.w_dice = w_dice
        self.max_entropy = max_entropy
        self.dice = soft_dice_loss()

    def forward(self, logits: Tensor, pseudo_label: Tensor) -> Tensor:
        """Return the scalar loss.

        Args:
            logits: ``(B, K, H, W, D)`` scores of the student.
            pseudo_label: ``(B, K, H, W, D)`` probabilities of the teacher; no gradient flows into them.
        """
        log_probabilities = logits.float().log_softmax(dim=1)
        target = pseudo_label.detach().float()
        if self.max_entropy is not None:
            certain = self._certain(target)
            # Where student and target are both 0, neither term has a value or a gradient.
            divergence = functional.kl_div(log_probabilities * certain, target * certain, reduction="sum")
            divergence = joint_sum(divergence) / joint_sum(certain.sum()).clamp(min=1)
            return self.w_kl * divergence + self.w_dice * self.dice(log_probabilities.exp() * certain, target * certain)
        divergence = joint_mean(functional.kl_div(log_probabilities, target, reduction="none").sum(dim=1))
        return self.w_kl * divergence + self.w_dice * self.dice(log_probabilities.exp(), target)

    def _certain(self, target: Tensor) -> Tensor:
        """``(B, 1, H, W, D)``: 1 where the teacher's entropy is low enough, else 0."""
        entropy = torch.special.entr(target).sum(dim=1, keepdim=True)
        return (entropy <= self.max_entropy * log(target.shape[1])).to(target.dtype)
