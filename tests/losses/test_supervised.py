"""Eq. 1 against numbers computed by hand."""

from __future__ import annotations

from math import log

import pytest
import torch

from mnseg.losses import SupervisedLoss

# One voxel of class 0 predicted (0.8, 0.2), one of class 1 predicted (0.4, 0.6).
PROBABILITIES = torch.tensor([[0.8, 0.4], [0.2, 0.6]])
CROSS_ENTROPY = -(log(0.8) + log(0.6)) / 2
# Dice of class 0: 2 * 0.8 / (0.8^2 + 0.4^2 + 1) = 1.6 / 1.8; of class 1: 2 * 0.6 / (0.2^2 + 0.6^2 + 1) = 1.2 / 1.4.
DICE = 1 - (1.6 / 1.8 + 1.2 / 1.4) / 2


def volume(values: torch.Tensor) -> torch.Tensor:
    """(K, N) -> (1, K, N, 1, 1)."""
    return values[None, :, :, None, None]


def test_cross_entropy_and_dice_by_hand():
    logits, label = volume(PROBABILITIES.log()), volume(torch.tensor([[0, 1]]))
    assert SupervisedLoss(w_dice=0)(logits, label).item() == pytest.approx(CROSS_ENTROPY, abs=1e-5)
    assert SupervisedLoss(w_ce=0)(logits, label).item() == pytest.approx(DICE, abs=1e-5)
    assert SupervisedLoss()(logits, label).item() == pytest.approx(CROSS_ENTROPY + DICE, abs=1e-5)
    assert SupervisedLoss(2, 3)(logits, label).item() == pytest.approx(2 * CROSS_ENTROPY + 3 * DICE, abs=1e-5)


def test_scores_need_no_normalisation():
    label = volume(torch.tensor([[0, 1]]))
    shifted = volume(PROBABILITIES.log()) + torch.tensor([5.0, -3.0])[None, None, :, None, None]
    assert SupervisedLoss()(shifted, label).item() == pytest.approx(CROSS_ENTROPY + DICE, abs=1e-5)


def test_dice_is_summed_over_the_batch():
    """The same two voxels as two items: a Dice an item would be another number, because each lacks a class."""
    logits = PROBABILITIES.log().T[:, :, None, None, None]
    label = torch.tensor([0, 1])[:, None, None, None, None]
    assert SupervisedLoss()(logits, label).item() == pytest.approx(CROSS_ENTROPY + DICE, abs=1e-5)


def test_three_classes_by_hand():
    probabilities = torch.tensor([[0.5, 0.1], [0.3, 0.2], [0.2, 0.7]])
    label = volume(torch.tensor([[0, 2]]))
    cross_entropy = -(log(0.5) + log(0.7)) / 2
    # class 0: 2*0.5 / (0.25 + 0.01 + 1); class 1 is absent: 0 / (0.09 + 0.04); class 2: 2*0.7 / (0.04 + 0.49 + 1)
    dice = 1 - (1.0 / 1.26 + 0 + 1.4 / 1.53) / 3
    loss = SupervisedLoss()(volume(probabilities.log()), label)
    assert loss.item() == pytest.approx(cross_entropy + dice, abs=1e-4)


def test_a_certain_right_answer_costs_nothing_and_a_wrong_one_much():
    label = torch.randint(0, 3, (2, 1, 3, 4, 5))
    right = torch.nn.functional.one_hot(label[:, 0], 3).movedim(-1, 1) * 50.0
    assert SupervisedLoss()(right, label).item() == pytest.approx(0, abs=1e-5)
    assert SupervisedLoss()(right.roll(1, dims=1), label).item() > 50


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_scores_are_handled_in_full_precision(dtype):
    logits = (torch.randn(2, 3, 4, 4, 4) * 100).to(dtype).requires_grad_()
    label = torch.randint(0, 3, (2, 1, 4, 4, 4), dtype=torch.uint8)
    loss = SupervisedLoss()(logits, label)
    assert loss.dtype == torch.float32
    assert loss.item() == SupervisedLoss()(logits.detach().float(), label).item()
    loss.backward()
    assert torch.isfinite(logits.grad).all() and logits.grad.abs().sum() > 0
