"""Eq. 4 against numbers computed by hand."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from mnseg.errors import UserError
from mnseg.losses import PseudoLabelLoss

SHAPE = (1, 2, 1, 1, 1)


def loss_of(prediction: list, target: list, **weights: float) -> float:
    logits, pseudo = torch.tensor(prediction).log().view(SHAPE), torch.tensor(target).view(SHAPE)
    return PseudoLabelLoss(**weights)(logits, pseudo).item()


def test_divergence_by_hand_and_in_the_right_direction():
    """KL(P || M): the expectation is taken under the teacher."""
    forward = 0.5 * log(0.5 / 0.8) + 0.5 * log(0.5 / 0.2)
    backward = 0.8 * log(0.8 / 0.5) + 0.2 * log(0.2 / 0.5)
    value = loss_of([0.8, 0.2], [0.5, 0.5], w_dice=0)
    assert value == pytest.approx(forward, abs=1e-6)
    assert abs(value - backward) > 0.02


def test_dice_by_hand():
    # class 0: 2*0.4 / (0.64 + 0.25); class 1: 2*0.1 / (0.04 + 0.25)
    expected = 1 - (0.8 / 0.89 + 0.2 / 0.29) / 2
    assert loss_of([0.8, 0.2], [0.5, 0.5], w_kl=0) == pytest.approx(expected, abs=1e-4)


def test_weights():
    kl, dice = loss_of([0.8, 0.2], [0.5, 0.5], w_dice=0), loss_of([0.8, 0.2], [0.5, 0.5], w_kl=0)
    assert loss_of([0.8, 0.2], [0.5, 0.5], w_kl=2, w_dice=3) == pytest.approx(2 * kl + 3 * dice, abs=1e-6)


def test_summed_over_classes_mean_over_voxels():
    """Twice the voxels, three classes: the divergence of the batch is the mean of the voxels' own."""
    target = torch.rand(2, 3, 2, 3, 4).softmax(dim=1)
    logits = torch.randn(2, 3, 2, 3, 4)
    by_voxel = (target * (target.log() - logits.log_softmax(dim=1))).sum(dim=1)
    assert PseudoLabelLoss(w_dice=0)(logits, target).item() == pytest.approx(by_voxel.mean().item(), abs=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_agreement_costs_nothing_even_for_soft_targets(classes):
    logits = torch.randn(2, classes, 3, 4, 5)
    assert PseudoLabelLoss()(logits, logits.softmax(dim=1)).item() == pytest.approx(0, abs=1e-5)


def test_agreement_is_a_minimum():
    logits = torch.randn(1, 3, 2, 2, 2, requires_grad=True)
    PseudoLabelLoss()(logits, logits.detach().softmax(dim=1)).backward()
    assert logits.grad.abs().max() < 1e-5


def test_hard_targets_give_no_nan():
    target = torch.tensor([1.0, 0.0]).view(SHAPE)
    logits = torch.tensor([3.0, -3.0]).view(SHAPE)
    assert PseudoLabelLoss(w_dice=0)(logits, target).item() == pytest.approx(log(1 + exp(-6)), rel=1e-4)


def test_no_gradient_into_the_pseudo_label():
    teacher = torch.randn(1, 3, 2, 2, 2, requires_grad=True)
    student = torch.randn(1, 3, 2, 2, 2, requires_grad=True)
    PseudoLabelLoss()(student, teacher.softmax(dim=1)).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_scores(dtype):
    logits = (torch.randn(1, 3, 4, 4, 4) * 100).to(dtype)
    target = torch.randn(1, 3, 4, 4, 4).softmax(dim=1).to(dtype)
    loss = PseudoLabelLoss()(logits, target)
    assert loss.dtype == torch.float32
    assert loss.item() == PseudoLabelLoss()(logits.float(), target.float()).item()


def test_uncertain_voxels_are_left_out():
    """Two voxels; the teacher's entropy is ln 2 at the first (left out), 0.325 nats (0.47 ln 2) at the second."""
    target = torch.tensor([[0.5, 0.9], [0.5, 0.1]]).view(1, 2, 2, 1, 1)
    logits = torch.tensor([[0.8, 0.6], [0.2, 0.4]]).log().view(1, 2, 2, 1, 1).requires_grad_()
    loss = PseudoLabelLoss(max_entropy=0.75)(logits, target)
    divergence = 0.9 * log(0.9 / 0.6) + 0.1 * log(0.1 / 0.4)
    dice = 1 - (2 * 0.54 / (0.36 + 0.81) + 2 * 0.04 / (0.16 + 0.01)) / 2
    assert loss.item() == pytest.approx(divergence + dice, abs=1e-4)
    loss.backward()
    assert logits.grad[0, :, 0].abs().max() == 0 < logits.grad[0, :, 1].abs().min()


def test_where_no_voxel_is_certain_there_is_no_loss():
    """The mean over no voxel would be NaN and stop the run."""
    logits = torch.randn(1, 3, 2, 2, 2, requires_grad=True)
    loss = PseudoLabelLoss(w_dice=0, max_entropy=0.5)(logits, torch.full((1, 3, 2, 2, 2), 1 / 3))
    assert loss.item() == 0
    loss.backward()
    assert logits.grad.abs().max() == 0


def test_max_entropy_of_one_counts_every_voxel():
    logits, target = torch.randn(2, 3, 2, 3, 4), torch.rand(2, 3, 2, 3, 4).softmax(dim=1)
    assert torch.allclose(PseudoLabelLoss(max_entropy=1.0)(logits, target), PseudoLabelLoss()(logits, target))


def test_a_share_outside_0_to_1_is_refused():
    with pytest.raises(UserError, match="max_entropy is 1.5"):
        PseudoLabelLoss(max_entropy=1.5)
