"""Losses and gradients that break, are clipped, or are rounded."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from torch import nn

from mnseg.engines import NonFiniteLossError
from mnseg.engines.soundness import require_finite_weights
from mnseg.engines.training_state import TrainingState
from mnseg.errors import UserError
from mnseg.handlers import CheckpointHandler
from mnseg.losses import CoTrainingLoss, PseudoLabelLoss
from network_weights import changed, state_of


class Poisoned(nn.Module):
    """A network whose answer, or whose gradient, becomes NaN at the n-th training step."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 3, 1)
        self.step, self.what, self.calls = step, what, 0

    def forward(self, x):
        self.calls += self.training
        logits = self.conv(x)
        if self.calls == self.step and self.training:
            if self.what == "loss":
                return logits * float("nan")
            logits.register_hook(lambda grad: grad * float("nan"))
        return logits


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_broken_step_stops_before_it_does_harm(co_training, tmp_path, what):
    """Step 5 is the first of epoch 3; the checkpoint of epoch 2 stays, the state of the moment is kept beside it."""
    torch.manual_seed(1)
    networks = Poisoned(5, what), nn.Conv3d(1, 3, 1)
    state = TrainingState(tmp_path / "checkpoint.pt", {"g": networks[0], "f": networks[1]}, {})
    run = co_training(networks=networks, handlers=(CheckpointHandler(state, interval=1),))
    kept: dict = {}

    @run.trainer.on(Events.EPOCH_COMPLETED(once=2))
    def keep(engine):
        kept.update(weights=state_of(run.g), file=state.path.read_bytes())

    with pytest.raises(NonFiniteLossError) as caught:
        run.trainer.run()
    message = str(caught.value)
    assert f"3D network's {what} is nan at epoch 3, iteration 5" in message
    cases = message.split("(cases ")[1].split(")")[0].split(", ")
    assert len(cases) == 4 and set(cases) <= {item["case"] for item in run.items}
    assert not changed(run.g, kept["weights"]), "no step was taken"
    assert state.path.read_bytes() == kept["file"]
    stopped = torch.load(tmp_path / "stopped.pt", weights_only=True)
    assert stopped["engine"]["epoch"] == 3
    assert all(torch.isfinite(value).all() for value in stopped["objects"]["g"].values())


@pytest.mark.parametrize("which", ["3D", "2D"])
def test_broken_weights_are_refused_before_the_first_step(co_training, which):
    networks = nn.Conv3d(1, 3, 1), nn.Conv3d(1, 3, 1)
    nn.init.constant_(networks[which == "2D"].bias, float("inf"))
    run = co_training(networks=networks)
    with pytest.raises(UserError, match=rf"The {which} network begins with weights that are not finite \(bias\)"):
        run.trainer.run()
    assert run.trainer.state.iteration == 0


def test_so_are_weights_that_a_later_run_of_a_trainer_begins_with(co_training):
    """A federated site's trainer runs again with new weights."""
    run = co_training()
    trainer = run.trainer
    whole, trainer.state.max_epochs = trainer.state.max_epochs, 1
    trainer.run()
    trainer.state.max_epochs = whole
    with torch.no_grad():
        next(run.f.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="The 2D network begins with weights that are not finite"):
        trainer.run()


def test_statistics_are_weights_and_other_buffers_are_not():
    network = nn.Sequential(nn.BatchNorm3d(2))
    network.register_buffer("mask", torch.full((2,), float("-inf")))
    require_finite_weights(network, "It")
    network[0].running_var[1] = float("nan")
    with pytest.raises(UserError, match=r"It begins with weights that are not finite \(0.running_var\)"):
        require_finite_weights(network, "It")


def test_an_ordinary_error_is_not_swallowed(co_training, tmp_path):
    """ignite drops an exception to which a handler listens."""
    state = TrainingState(tmp_path / "checkpoint.pt", {}, {})
    run = co_training(handlers=(CheckpointHandler(state, interval=100),))

    @run.trainer.on(Events.ITERATION_COMPLETED(once=3))
    def fail(engine):
        raise ZeroDivisionError("on purpose")

    with pytest.raises(ZeroDivisionError, match="on purpose"):
        run.trainer.run()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("amp_dtype", [None, "float16"])
def test_gradients_are_clipped(co_training, amp_dtype):
    """Plain gradient descent with rate 1 moves all weights together by the norm of the gradient.

    With float16 the gradients come 65536 times too large: the limit holds for what they are without that scale.
    """
    moved = {}
    for limit in (None, 1e-3):
        run = co_training(
            stage_1=1, stage_2=0, epoch_length=1, optimizer=torch.optim.SGD, learning_rate=1.0, max_grad_norm=limit,
            amp_dtype=amp_dtype,
        )  # fmt: skip
        before = nn.utils.parameters_to_vector(run.g.parameters()).detach().clone()
        run.trainer.run()
        moved[limit] = float((nn.utils.parameters_to_vector(run.g.parameters()).detach() - before).norm())
    assert moved[None] > 0.01
    assert moved[1e-3] == pytest.approx(1e-3, rel=1e-2)


def test_bfloat16_runs_and_learns_the_same_things(co_training):
    dtypes = set()
    full, mixed = co_training(), co_training(amp_dtype="bfloat16")
    mixed.g.register_forward_hook(lambda module, args, output: dtypes.add(output.dtype))
    full.trainer.run()
    mixed.trainer.run()
    assert dtypes == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in mixed.g.parameters())
    for one, other in zip(full.batches, mixed.batches, strict=True):
        assert other.output == pytest.approx(one.output, rel=0.1)


def test_pseudo_labels_of_a_rounded_teacher_sum_to_1(co_training):
    """In bfloat16 the softmax would round the probabilities of a voxel one by one, so that their sum misses 1."""

    class Spy(PseudoLabelLoss):
        def forward(self, logits, pseudo_label):
            sums.append(pseudo_label.sum(dim=1))
            return super().forward(logits, pseudo_label)

    sums: list = []
    loss = CoTrainingLoss(unlabeled=Spy())
    run = co_training(stage_1=0, stage_2=2, mode="fixed", num_unlabeled=2, amp_dtype="bfloat16", loss=loss)
    run.trainer.run()
    assert len(sums) == 4
    for total in sums:
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)


def test_float16_skips_a_step_that_overflows(co_training):
    run = co_training(amp_dtype="float16", stage_2=2)
    run.trainer.scalers["3d"]._init_scale = 2.0**40  # every gradient overflows until the scaler has backed off
    before = state_of(run.g)
    run.trainer.run()
    assert run.trainer.scalers["3d"].get_scale() < 2.0**40
    assert all(torch.isfinite(value).all() for value in run.g.state_dict().values())
    assert not [n for n in changed(run.g, before) if n.endswith("0.weight")]
