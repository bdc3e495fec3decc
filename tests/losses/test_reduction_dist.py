"""Losses of two processes are those of one process with the joint batch, and so are their gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss

from mnseg.distributed import rank
from mnseg.losses import CoTrainingLoss, PseudoLabelLoss
from two_processes import run_both

LOGITS = torch.linspace(-2, 2, 8 * 3 * 8).sin().view(8, 3, 2, 2, 2) * 3
LABEL = (torch.arange(4 * 8) % 3).view(4, 1, 2, 2, 2)
PSEUDO = (torch.linspace(0, 3, 4 * 3 * 8).cos() * 4).view(4, 3, 2, 2, 2).softmax(dim=1)
# Labeled and unlabeled items of the joint batch in either process: equal parts, then parts that lack a kind.
PARTS = {
    "equal": (([0, 2], [0, 2]), ([1, 3], [1, 3])),
    "unequal": (([0], [0, 1, 2]), ([1, 2, 3], [3])),
    "first without labels": (([], [0, 1, 2, 3]), ([0, 1, 2, 3], [])),
}


# Patches without a drawn class 1 (or 2) in the label; the joint batch lacks class 2 only in case "nowhere".
IGNORED = {"none": {}, "one patch": {0: 1}, "nowhere": {0: 2, 1: 2, 2: 2, 3: 2}}


def losses(
    max_entropy: float | None, labeled: list[int], unlabeled: list[int], ignored: dict[int, int] | None = None
) -> tuple[list[float], np.ndarray]:
    """Total, labeled, unlabeled, and the gradient of the total by the joint logits."""
    logits = LOGITS.clone().requires_grad_()
    own = torch.cat([logits[labeled], logits[[4 + i for i in unlabeled]]])
    loss = CoTrainingLoss(unlabeled=PseudoLabelLoss(max_entropy=max_entropy))
    label, mask = LABEL[labeled].clone(), torch.zeros(len(labeled), 3, dtype=torch.bool)
    for place, index in enumerate(labeled):
        if index in (ignored or {}):
            mask[place, ignored[index]] = True
            label[place][label[place] == ignored[index]] = 0
    parts = loss(own, label, PSEUDO[unlabeled] if unlabeled else None, mask if mask.any() else None)
    parts.total.backward()
    values = [float(value.detach()) for value in (parts.total, parts.labeled, parts.unlabeled)]
    return [*values, parts.num_labeled, parts.num_unlabeled], logits.grad.numpy()


def all_parts(process: int) -> list:
    assert rank() == process
    found = [losses(entropy, *part[process]) for part in PARTS.values() for entropy in (None, 0.5)]
    return found + [losses(None, *PARTS["unequal"][process], ignored) for ignored in IGNORED.values()]


@pytest.fixture(scope="module")
def both() -> dict:
    first, second = run_both(all_parts)
    names = [(name, entropy) for name in PARTS for entropy in (None, 0.5)] + list(IGNORED)
    return {name: (a, b) for name, a, b in zip(names, first, second, strict=True)}


@pytest.mark.parametrize("entropy", [None, 0.5])
@pytest.mark.parametrize("part", PARTS)
def test_losses_and_gradient_of_the_joint_batch(both, part, entropy):
    values, gradient = losses(entropy, [0, 1, 2, 3], [0, 1, 2, 3])
    assert np.abs(gradient).sum() > 0.1
    (first, grad_1), (second, grad_2) = both[part, entropy]
    assert first == second, "every process has the joint loss"
    assert first == pytest.approx(values, rel=1e-6)
    # DistributedDataParallel takes the mean over the processes.
    np.testing.assert_allclose((grad_1 + grad_2) / 2, gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", IGNORED)
def test_structures_that_were_not_drawn(both, name):
    """One process's patches may ignore a class that the other's do not."""
    values, gradient = losses(None, [0, 1, 2, 3], [0, 1, 2, 3], IGNORED[name])
    (first, grad_1), (second, grad_2) = both[name]
    assert first == second
    assert first == pytest.approx(values, rel=1e-6)
    np.testing.assert_allclose((grad_1 + grad_2) / 2, gradient, rtol=1e-4, atol=1e-7)


def test_one_process_computes_monais_dice():
    from mnseg.losses.supervised import soft_dice_loss

    stock = DiceLoss(include_background=True, squared_pred=True, batch=True)
    probabilities = LOGITS[4:].softmax(dim=1)
    assert soft_dice_loss()(probabilities, PSEUDO).item() == stock(probabilities, PSEUDO).item()
