"""Sums over the joint batch of all processes, so that a loss is the one that a single process would compute.

Cross-entropy, divergence and Dice are quotients of sums over a batch's voxels. With numerators and denominators summed
over all processes first, every process gets the loss of the joint batch, and the mean that DistributedDataParallel
takes over the processes' gradients is the joint batch's gradient.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from monai.losses import DiceLoss
from monai.losses.utils import compute_tp_fp_fn
from torch import Tensor

from mnseg.distributed import num_processes

__all__ = ["JointDiceLoss", "joint_count", "joint_mean", "joint_sum"]


def joint_sum(value: Tensor) -> Tensor:
    """Sum of a tensor over all processes; the tensor itself when there is one process.

    With ``S = sum_r s_r`` over ``W`` processes, ``dL/dS`` is the same on all of them. The gradient handed to ``s_r`` is
    ``W dL/dS``, which the mean over the processes' parameter gradients turns into ``dL/dS`` times the sum of
    ``ds_r/dparameter``: exact, without a second exchange in the backward pass. All processes must call it.
    """
    processes = num_processes()
    if processes == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total if not value.requires_grad else _Scaled.apply(value, total, processes)


class _Scaled(torch.autograd.Function):
    """Forward: a given total; backward: the gradient of the local value, times the number of processes."""

    @staticmethod
    def forward(ctx, value: Tensor, total: Tensor, processes: int) -> Tensor:
        ctx.processes = processes
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient * ctx.processes, None, None


def joint_mean(values: Tensor) -> Tensor:
    """Mean of all elements over all processes; a process may have none."""
    if num_processes() == 1:
        return values.mean()
    return joint_sum(values.sum()) / joint_count(values.numel(), values.device)


def joint_count(count: int, device: torch.device) -> int:
    """A number summed over all processes."""
    return count if num_processes() == 1 else int(joint_sum(torch.tensor(count, device=device)))


class JointDiceLoss(DiceLoss):
    """MONAI's ``DiceLoss`` with ``batch=True``, its sums taken over the joint batch of all processes.

    Takes what ``soft_dice_loss`` sets: probabilities, targets of the same shape, mean over classes. A process may
    hold an empty part of the batch.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002
        """Scalar loss of ``(B, K, H, W, D)`` probabilities and targets."""
        if num_processes() == 1:
            return super().forward(input, target)
        axes = [0, *range(2, input.ndim)]
        sums = compute_tp_fp_fn(input, target, axes, 2 if self.squared_pred else 1, self.soft_label)
        tp, fp, fn = joint_sum(torch.stack(sums))
        return (1 - (2 * tp + self.smooth_nr) / (2 * tp + fp + fn + self.smooth_dr)).mean()
