"""Shares of unlabeled patches, losses, micro-batches, settings that contradict each other."""

from __future__ import annotations

import copy
from math import cos, floor, pi

import pytest
import torch
from torch import nn

from mnseg.errors import UserError
from mnseg.losses import CoTrainingLoss, PseudoLabelLoss, SupervisedLoss
from network_weights import changed


@pytest.mark.parametrize("batch_size", [5, 4, 2])
def test_b_u_follows_equation_10_over_a_whole_run(co_training, batch_size):
    """Eq. 10 with the cosine written out, checked on the batches themselves."""
    stage_1, stage_2 = 3, 24
    run = co_training(stage_1=stage_1, stage_2=stage_2, batch_size=batch_size, epoch_length=1)
    run.trainer.run()
    assert [b.epoch for b in run.batches] == list(range(1, stage_1 + stage_2 + 1))
    for batch in run.batches:
        assert batch.b_l + batch.b_u == batch_size
        if batch.epoch <= stage_1:
            assert batch.b_u == 0 and batch.student == "both"
        else:
            progress = (batch.epoch - stage_1 - 1) / stage_2
            expected = floor((1 - cos(pi * progress)) / 2 * batch_size + 1e-9)
            assert batch.b_u == min(expected, batch_size - 1)
    numbers = [b.b_u for b in run.batches]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(batch_size))
    assert run.trainer.state.unlabeled_seen == sum(numbers)


def test_losses_in_the_output_are_those_of_the_student(co_training):
    run = co_training(mode="fixed", num_unlabeled=2)
    run.trainer.run()
    for batch in run.batches:
        expected = {
            "both": {"loss_labeled_3d", "loss_labeled_2d"},
            "3d": {"loss_labeled_3d", "loss_unlabeled_3d"},
            "2d": {"loss_labeled_2d", "loss_unlabeled_2d"},
        }
        assert set(batch.output) == expected[batch.student]
        assert all(isinstance(value, float) and value > 0 for value in batch.output.values())


def gradients(co_training, micro_batch_size: int | None, b_u: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    networks = tuple(nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 1)) for _ in range(2))
    run = co_training(
        stage_1=0,
        stage_2=1,
        epoch_length=1,
        batch_size=5,
        mode="fixed",
        num_unlabeled=b_u,
        networks=networks,
        loss=CoTrainingLoss(SupervisedLoss(w_dice=0), PseudoLabelLoss(w_dice=0)),
        micro_batch_size=micro_batch_size,
    )
    run.trainer.run()
    result = {name: p.grad for name, p in run.g.named_parameters()}
    return result | {name: torch.tensor(value) for name, value in run.batches[0].output.items()}


@pytest.mark.parametrize("b_u", [0, 2, 4])
def test_micro_batches_accumulate_the_gradient_of_the_batch(co_training, b_u):
    whole = gradients(co_training, None, b_u)
    assert whole["0.weight"].abs().max() > 1e-4
    for size in (1, 2, 3, 7):
        parts = gradients(co_training, size, b_u)
        assert parts.keys() == whole.keys()
        for name, value in whole.items():
            assert torch.allclose(parts[name], value, atol=1e-6), (size, name)


@pytest.mark.parametrize("size", [None, 1, 2])
def test_undrawn_classes_reach_the_labeled_loss_of_both_networks(co_training, size):
    """Item 1 of the two labeled ones lacks class 2; whatever the micro-batches, its mask stays with its patch."""

    class Spy(SupervisedLoss):
        def forward(self, logits, label, ignored=None):
            seen.extend(zip(label.flatten(1).sum(1).tolist(), ignored.tolist(), strict=True))
            return super().forward(logits, label, ignored)

    seen: list = []
    run = co_training(stage_1=1, stage_2=2, mode="fixed", num_unlabeled=2, micro_batch_size=size,
                      loss=CoTrainingLoss(Spy()))
    run.items[1]["label"].clamp_(max=1)
    run.items[1]["ignored_mask"] = [False, False, True]
    expected = {int(item["label"].sum()): item.get("ignored_mask", [False] * 3) for item in run.items[:2]}
    assert len(expected) == 2
    run.trainer.run()
    # Two labeled patches a batch in stage 2, four in stage 1; an epoch has two batches, stage 1 trains both networks.
    assert len(seen) == 2 * 2 * 4 + 2 * 2 * 2
    assert all(expected[total] == ignored for total, ignored in seen)
    assert any(ignored[2] for _, ignored in seen)


def test_micro_batches_bound_what_passes_at_once(co_training):
    run = co_training(mode="fixed", num_unlabeled=3, micro_batch_size=2)
    sizes = []
    for network in (run.g, run.f):
        network.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    run.trainer.run()
    assert max(sizes) == 2


def test_uniform_batches_without_labels(co_training):
    run = co_training(labeled=1, unlabeled=11, mode="uniform", stage_2=12)
    run.trainer.run()
    stage_2 = [b for b in run.batches if b.student != "both"]
    without = [b for b in stage_2 if b.b_l == 0]
    assert without and len(without) < len(stage_2)
    for batch in without:
        assert set(batch.output) == {f"loss_unlabeled_{batch.student}"}
    assert all(b.b_l == 4 for b in run.batches if b.student == "both"), "stage 1 draws labels alone"
    assert run.trainer.state.unlabeled_seen == sum(b.b_u for b in run.batches)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"stage_1": 3, "stage_2": -1}, "stage_1_epochs"),
        ({"roles": "both"}, "roles"),
        ({"micro_batch_size": 0}, "micro_batch_size"),
        ({"amp_dtype": "float8"}, "amp_dtype"),
    ],
)
def test_contradicting_settings(co_training, options, key):
    with pytest.raises(UserError, match=f"^{key} is "):
        co_training(**options)


def test_same_seed_same_weights(co_training):
    one, other = co_training(), co_training()
    one.trainer.run()
    torch.rand(17)  # the global generator's state does not matter
    other.trainer.run()
    assert not changed(one.g, copy.deepcopy(other.g.state_dict()))
    assert not changed(one.f, copy.deepcopy(other.f.state_dict()))
