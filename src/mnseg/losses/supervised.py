"""Eq. 1 of the M&N paper: the loss on labeled patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mnseg.distributed import num_processes
from mnseg.losses.marginal import marginal_log_probabilities, mean_over_drawn
from mnseg.losses.reduction import JointDiceLoss, joint_mean

__all__ = ["SupervisedLoss", "soft_dice_loss"]


def soft_dice_loss() -> JointDiceLoss:
    """Soft Dice on probabilities: background included, summed over the batch, squared denominator.

    The squared denominator makes the loss 0 where the prediction equals a soft target; MONAI's default would give
    0.5 for two classes at prediction = target = (0.3, 0.7).
    """
    return JointDiceLoss(include_background=True, squared_pred=True, batch=True)


class SupervisedLoss(nn.Module):
    """``L_l = w_ce * CE(M_hat, M) + w_dice * softDice(M_hat, M)`` (M&N, Eq. 1).

    Where a reader did not draw some structures, it is the marginal loss (``mnseg.losses.marginal``): their probability
    counts as background's in both terms, and their own Dice is left out.

    Args:
        w_ce: weight of the cross-entropy (mean over voxels, nats).
        w_dice: weight of the soft Dice loss (mean over classes, background included).
    """

    def __init__(self, w_ce: float = 1.0, w_dice: float = 1.0) -> None:
        super().__init__()
        self.w_ce = w_ce
        self.w_dice = w_dice
        self.dice = soft_dice_loss()

    def forward(self, logits: Tensor, label: Tensor, ignored: Tensor | None = None) -> Tensor:
        """Return the scalar loss.

        Args:
            logits: ``(B, K, H, W, D)`` unnormalised scores.
            label: ``(B, 1, H, W, D)`` class indices ``0 .. K-1``.
            ignored: ``(B, K)`` bool, the classes that are not drawn in each patch; never the background, and no voxel
                of the label. None: all are drawn.
        """
        log_probabilities = logits.float().log_softmax(dim=1)
        if ignored is not None:
            log_probabilities = marginal_log_probabilities(log_probabilities, ignored)
        label = label.long()
        cross_entropy = joint_mean(functional.nll_loss(log_probabilities, label[:, 0], reduction="none"))
        one_hot = torch.zeros_like(log_probabilities).scatter_(1, label, 1.0)
        dice = self.dice(log_probabilities.exp(), one_hot)
        if ignored is None and num_processes() > 1:  # another process's patches may ignore some
            ignored = torch.zeros(logits.shape[:2], dtype=torch.bool, device=logits.device)
        if ignored is not None:
            dice = mean_over_drawn(dice, ignored)
        return self.w_ce * cross_entropy + self.w_dice * dice
