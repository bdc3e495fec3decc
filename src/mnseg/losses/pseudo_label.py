"""Eq. 4 of the M&N paper: the loss on unlabeled patches, against the teacher's soft pseudo-labels."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from mnseg.losses.supervised import soft_dice_loss

__all__ = ["PseudoLabelLoss"]


class PseudoLabelLoss(nn.Module):
    """``L_u = w_kl * KL(P || M_hat) + w_dice * softDice(M_hat, P)`` (M&N, Eq. 4).

    The divergence is summed over classes and averaged over voxels. Both terms vanish where ``softmax(logits) == P``.

    Args:
        w_kl: weight of the Kullback-Leibler divergence (nats).
        w_dice: weight of the soft Dice loss.
    """

    def __init__(self, w_kl: float = 1.0, w_dice: float = 1.0) -> None:
        super().__init__()
        self.w_kl = w_kl
        self.w_dice = w_dice
        self.dice = soft_dice_loss()

    def forward(self, logits: Tensor, pseudo_label: Tensor) -> Tensor:
        """Return the scalar loss.

        Args:
            logits: ``(B, K, H, W, D)`` scores of the student.
            pseudo_label: ``(B, K, H, W, D)`` probabilities of the teacher; no gradient flows into them.
        """
        log_probabilities = logits.float().log_softmax(dim=1)
        target = pseudo_label.detach().float()
        voxels = log_probabilities[:, :1].numel()
        divergence = functional.kl_div(log_probabilities, target, reduction="sum") / voxels
        return self.w_kl * divergence + self.w_dice * self.dice(log_probabilities.exp(), target)
