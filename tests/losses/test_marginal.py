"""Labels in which some structures were not drawn: the marginal loss against numbers and merges by hand."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor

from mnseg.losses import CoTrainingLoss, PseudoLabelLoss, SupervisedLoss
from mnseg.losses.marginal import marginal_log_probabilities

SHAPE = (3, 4, 5)


def scores(batch: int, classes: int) -> Tensor:
    return torch.randn(batch, classes, *SHAPE, generator=torch.Generator().manual_seed(3)) * 2


def labels(batch: int, values: list[int]) -> Tensor:
    drawn = torch.randint(len(values), (batch, 1, *SHAPE), generator=torch.Generator().manual_seed(4))
    return torch.tensor(values)[drawn]


def mask(*rows: str) -> Tensor:
    """``"..x"`` is a patch of three classes without the third."""
    return torch.tensor([[character == "x" for character in row] for row in rows])


def volume(values: Tensor) -> Tensor:
    """(K, N) -> (1, K, N, 1, 1)."""
    return values[None, :, :, None, None]


def test_by_hand():
    """A background voxel predicted (0.5, 0.3, 0.2) and a voxel of class 1 predicted (0.1, 0.6, 0.3); 2 not drawn."""
    logits = volume(torch.tensor([[0.5, 0.1], [0.3, 0.6], [0.2, 0.3]]).log())
    label, ignored = volume(torch.tensor([[0, 1]])), mask("..x")
    cross_entropy = -(log(0.5 + 0.2) + log(0.6)) / 2
    assert SupervisedLoss(w_dice=0)(logits, label, ignored).item() == pytest.approx(cross_entropy, abs=1e-6)
    # background: 2*0.7 / (0.7^2 + 0.4^2 + 1); class 1: 2*0.6 / (0.3^2 + 0.6^2 + 1); no third term
    dice = 1 - (1.4 / 1.65 + 1.2 / 1.45) / 2
    assert SupervisedLoss(w_ce=0)(logits, label, ignored).item() == pytest.approx(dice, abs=1e-5)


def test_a_complete_and_a_partial_patch_by_hand():
    """Class 2 counts in the first patch alone: its Dice sums only that patch's voxel."""
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]])  # a voxel each
    logits, label = probabilities.log()[:, :, None, None, None], torch.tensor([2, 1])[:, None, None, None, None]
    loss = SupervisedLoss(w_ce=0)(logits, label, mask("...", "..x"))
    # background 0.5 and 0.4, nowhere in the label; class 1: 2*0.6 / (0.3^2 + 0.6^2 + 1); class 2: 2*0.2 / (0.2^2 + 1)
    assert loss.item() == pytest.approx(1 - (0 + 1.2 / 1.45 + 0.4 / 1.04) / 3, abs=1e-4)


@pytest.mark.parametrize("weights", [(1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize(("row", "kept"), [("...x", [0, 1, 2]), (".x..", [0, 2, 3]), (".xx.", [0, 3])])
def test_equals_the_ordinary_loss_of_a_network_with_the_classes_merged(weights, row, kept):
    logits, label = scores(2, 4), labels(2, kept)
    probabilities = logits.softmax(dim=1)
    undrawn = [k for k in range(4) if k not in kept]
    merged = torch.cat([probabilities[:, [0, *undrawn]].sum(1, keepdim=True), probabilities[:, kept[1:]]], dim=1)
    renumbered = torch.zeros_like(label)
    for new, old in enumerate(kept):
        renumbered[label == old] = new
    expected = SupervisedLoss(*weights)(merged.log(), renumbered)
    assert SupervisedLoss(*weights)(logits, label, mask(row, row)).item() == pytest.approx(expected.item(), abs=1e-5)


def test_nothing_ignored_is_bit_identical_in_value_and_gradient():
    results = []
    for ignored in (None, torch.zeros(2, 4, dtype=torch.bool)):
        logits = scores(2, 4).requires_grad_()
        loss = SupervisedLoss()(logits, labels(2, [0, 1, 2, 3]), ignored)
        loss.backward()
        results.append((loss.detach(), logits.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_background_and_the_undrawn_class_may_share_their_probability_as_they_like():
    label, ignored = labels(1, [0, 1]), mask("..x")
    probabilities = scores(1, 3).softmax(dim=1)
    moved = probabilities.clone()
    moved[:, 2] += 0.7 * moved[:, 0]
    moved[:, 0] *= 0.3
    losses = [SupervisedLoss()(p.log(), label, ignored).item() for p in (probabilities, moved)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    complete = [SupervisedLoss()(p.log(), label).item() for p in (probabilities, moved)]
    assert complete[1] - complete[0] > 0.1, "as background it would be unlearned"


def test_the_patches_of_other_scans_still_teach_the_class():
    """No gradient into the class's Dice from the partial patch, but from the complete one."""
    label = torch.cat([labels(1, [0, 1, 2]), labels(1, [0, 1])])
    logits = scores(2, 3).requires_grad_()
    SupervisedLoss()(logits, label, mask("...", "..x")).backward()
    where = label[1, 0] == 0
    odds = logits.detach()[1, :, where].softmax(0)
    gradient = logits.grad[1, :, where]
    # Both logits move in proportion to their probability: their ratio, background against class 2, stays as it is.
    torch.testing.assert_close(gradient[2] / odds[2], gradient[0] / odds[0], atol=1e-5, rtol=1e-3)
    assert logits.grad[0, 2].abs().max() > 1e-3


def test_probabilities_still_sum_to_one():
    log_probabilities = scores(3, 4).log_softmax(dim=1)
    ignored = mask("....", "..x.", ".x.x")
    merged = marginal_log_probabilities(log_probabilities, ignored)
    torch.testing.assert_close(merged.exp().sum(dim=1), torch.ones(3, *SHAPE))
    assert torch.equal(merged[0], log_probabilities[0])
    assert torch.equal(merged[1, 1], log_probabilities[1, 1])
    assert (merged[1, 2].exp() == 0).all() and (merged[2, 3].exp() == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_certain_answers_give_finite_losses_and_gradients(dtype):
    logits = (scores(2, 3) * 100).to(dtype).requires_grad_()
    loss = SupervisedLoss()(logits, labels(2, [0, 1]), mask("..x", "..x"))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all() and logits.grad.abs().sum() > 0


def test_only_the_labeled_part_of_a_batch_is_partial():
    logits, label = scores(3, 3), labels(2, [0, 1])
    pseudo = scores(1, 3).softmax(dim=1)
    ignored = mask("..x", "...")
    parts = CoTrainingLoss()(logits, label, pseudo, ignored)
    assert parts.labeled.item() == SupervisedLoss()(logits[:2], label, ignored).item()
    assert parts.labeled.item() != SupervisedLoss()(logits[:2], label).item()
    assert parts.unlabeled.item() == PseudoLabelLoss()(logits[2:], pseudo).item()
