"""Probabilities for labels in which some structures were not drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from mnseg.losses.reduction import joint_sum

__all__ = ["marginal_log_probabilities", "mean_over_drawn"]


def marginal_log_probabilities(log_probabilities: Tensor, ignored: Tensor) -> Tensor:
    """Add the probabilities of the ignored classes to the background's.

    A voxel that such a label calls background is background or one of the structures that the reader did not draw;
    its probability is the sum of theirs. Put into cross-entropy and Dice it gives the marginal loss of Shi et al.,
    "Marginal loss and exclusion loss for partially supervised multi-organ segmentation", Medical Image Analysis 70,
    2021.

    Args:
        log_probabilities: ``(B, K, H, W, D)`` logarithms of probabilities that sum to 1 over the classes.
        ignored: ``(B, K)`` bool, true for the classes that are not drawn; never true for class 0.

    Returns:
        ``(B, K, H, W, D)``; the ignored classes have probability 0 (``-inf``). Where nothing is ignored the values do
        not change.
    """
    ignored = ignored.view(*ignored.shape, *[1] * (log_probabilities.ndim - 2))
    merged = ignored.clone()
    merged[:, 0] = True
    background = log_probabilities.masked_fill(~merged, float("-inf")).logsumexp(dim=1, keepdim=True)
    return torch.cat([background, log_probabilities.masked_fill(ignored, float("-inf"))[:, 1:]], dim=1)


def mean_over_drawn(dice: Tensor, ignored: Tensor) -> Tensor:
    """Make a Dice loss that is a mean over K classes one over the classes that some patch of the joint batch has.

    A class that no patch has drawn has probability and target 0 throughout, so that it adds 0 to the mean over K.
    """
    drawn = joint_sum((~ignored).sum(dim=0)) > 0
    return dice * (len(drawn) / drawn.sum())
