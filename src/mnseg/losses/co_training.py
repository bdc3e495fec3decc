"""Eq. 5 of the M&N paper: labeled and unlabeled loss, weighted by their share of the batch."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from mnseg.losses.pseudo_label import PseudoLabelLoss
from mnseg.losses.reduction import joint_count
from mnseg.losses.supervised import SupervisedLoss

__all__ = ["CoTrainingLoss", "LossParts"]


class LossParts(NamedTuple):
    """The co-training loss, its two parts, and the patches that each was made of (all processes' together).

    A part is None where the batch has no patch of its kind.
    """

    total: Tensor
    labeled: Tensor | None
    unlabeled: Tensor | None
    num_labeled: int
    num_unlabeled: int


class CoTrainingLoss(nn.Module):
    """``L_c = b_l / (b_l + b_u) * L_l + b_u / (b_l + b_u) * L_u`` (M&N, Eq. 5).

    Args:
        labeled: loss of the labeled patches (Eq. 1).
        unlabeled: loss of the unlabeled patches (Eq. 4).
    """

    def __init__(self, labeled: nn.Module | None = None, unlabeled: nn.Module | None = None) -> None:
        super().__init__()
        self.labeled = SupervisedLoss() if labeled is None else labeled
        self.unlabeled = PseudoLabelLoss() if unlabeled is None else unlabeled

    def forward(
        self, logits: Tensor, label: Tensor, pseudo_label: Tensor | None = None, ignored: Tensor | None = None
    ) -> LossParts:
        """Return the loss of a batch whose labeled patches come first.

        Args:
            logits: ``(b_l + b_u, K, H, W, D)`` scores of the student.
            label: ``(b_l, 1, H, W, D)`` class indices of the first ``b_l`` patches; ``b_l`` may be 0.
            pseudo_label: ``(b_u, K, H, W, D)`` probabilities for the rest; None or empty when ``b_u`` is 0.
            ignored: ``(b_l, K)`` bool, the classes that each label leaves undrawn; None: all labels are complete.

        Raises:
            ValueError: when the numbers of patches do not add up.
        """
        b_l = label.shape[0]
        b_u = 0 if pseudo_label is None else pseudo_label.shape[0]
        if b_l + b_u != logits.shape[0] or b_l + b_u == 0:
            raise ValueError(f"{logits.shape[0]} predictions for {b_l} labels and {b_u} pseudo-labels")
        if pseudo_label is None:
            pseudo_label = logits.new_zeros((0, *logits.shape[1:]))
        partial = () if ignored is None else (ignored,)
        # Another process's part of the joint batch may hold patches of a kind that this one lacks.
        n_l, n_u = joint_count(b_l, logits.device), joint_count(b_u, logits.device)
        labeled = self.labeled(logits[:b_l], label, *partial) if n_l else None
        unlabeled = self.unlabeled(logits[b_l:], pseudo_label) if n_u else None
        total = logits.new_zeros((), dtype=logits.float().dtype)
        if labeled is not None:
            total = total + labeled * (n_l / (n_l + n_u))
        if unlabeled is not None:
            total = total + unlabeled * (n_u / (n_l + n_u))
        return LossParts(total, labeled, unlabeled, n_l, n_u)
