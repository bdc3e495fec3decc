"""Eq. 5: shares of the batch."""

from __future__ import annotations

import pytest
import torch

from mnseg.losses import CoTrainingLoss, PseudoLabelLoss, SupervisedLoss

LOGITS = torch.linspace(-2, 2, 4 * 3 * 8).sin().view(4, 3, 2, 2, 2)
LABEL = (torch.arange(4 * 8) % 3).view(4, 1, 2, 2, 2)
PSEUDO = torch.linspace(0, 3, 4 * 3 * 8).cos().view(4, 3, 2, 2, 2).softmax(dim=1)


@pytest.mark.parametrize(("b_l", "weights"), [(1, (0.25, 0.75)), (2, (0.5, 0.5)), (3, (0.75, 0.25))])
def test_parts_are_weighted_by_their_share(b_l, weights):
    parts = CoTrainingLoss()(LOGITS, LABEL[:b_l], PSEUDO[b_l:])
    assert parts.labeled.item() == pytest.approx(SupervisedLoss()(LOGITS[:b_l], LABEL[:b_l]).item())
    assert parts.unlabeled.item() == pytest.approx(PseudoLabelLoss()(LOGITS[b_l:], PSEUDO[b_l:]).item())
    expected = weights[0] * parts.labeled.item() + weights[1] * parts.unlabeled.item()
    assert parts.total.item() == pytest.approx(expected, abs=1e-6)


def test_a_part_with_constant_value_by_hand():
    """L_l = 2, L_u = 10, b_l = 1, b_u = 3: 2/4 + 30/4 = 8."""

    class Constant(torch.nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def forward(self, logits, target):
            return torch.tensor(self.value)

    parts = CoTrainingLoss(Constant(2.0), Constant(10.0))(LOGITS, LABEL[:1], PSEUDO[1:])
    assert parts.total.item() == 8.0


@pytest.mark.parametrize("pseudo", [None, PSEUDO[:0]])
def test_labels_alone(pseudo):
    parts = CoTrainingLoss()(LOGITS, LABEL, pseudo)
    assert parts.unlabeled is None
    assert parts.total.item() == parts.labeled.item() == SupervisedLoss()(LOGITS, LABEL).item()


def test_no_labels():
    parts = CoTrainingLoss()(LOGITS, LABEL[:0], PSEUDO)
    assert parts.labeled is None
    assert parts.total.item() == parts.unlabeled.item()


def test_total_is_full_precision_with_bfloat16_scores():
    parts = CoTrainingLoss()(LOGITS.bfloat16(), LABEL[:2], PSEUDO[2:])
    assert parts.total.dtype == torch.float32


def test_counts_that_do_not_add_up():
    with pytest.raises(ValueError, match="4 predictions for 2 labels and 1 pseudo-labels"):
        CoTrainingLoss()(LOGITS, LABEL[:2], PSEUDO[:1])
    with pytest.raises(ValueError, match="0 predictions"):
        CoTrainingLoss()(LOGITS[:0], LABEL[:0], None)
