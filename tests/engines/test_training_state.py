"""Saving and loading a run."""

from __future__ import annotations

import contextlib

import pytest
import torch
from ignite.engine import Events

from mnseg.data.pseudo_foreground import PseudoForeground
from mnseg.engines.training_state import TrainingState
from mnseg.errors import UserError
from mnseg.handlers import CheckpointHandler, ResumeHandler

SETTINGS = {"batch_size": 4, "spacing": None, "patch_size": [6, 6, 4]}


def objects_of(run) -> dict:
    return {
        "network": run.g,
        "network_2d": run.f,
        "optimizer": run.optimizers[0],
        "optimizer_2d": run.optimizers[1],
        "ema": None,
        "pseudo_foreground": PseudoForeground(),
    }


def saved(run, path, settings=SETTINGS) -> TrainingState:
    state = TrainingState(path, objects_of(run), settings)
    state.save(run.trainer)
    return state


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(co_training, tmp_path):
    """Stopped in the middle of epoch 7, continued from the checkpoint of epoch 6, all in all bitwise equal."""
    unbroken = co_training()
    unbroken.trainer.run()

    def start():
        run = co_training()
        state = TrainingState(tmp_path / "checkpoint.pt", objects_of(run), SETTINGS)
        ResumeHandler(state).attach(run.trainer)
        CheckpointHandler(state, interval=3).attach(run.trainer)
        return run

    broken = start()

    @broken.trainer.on(Events.ITERATION_COMPLETED(once=13))
    def fail(engine):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken.trainer.run()
    continued = start()
    continued.trainer.run()
    assert [b.epoch for b in continued.batches] == [7, 7, 8, 8, 9, 9, 10, 10]
    assert continued.batches == unbroken.batches[12:]
    for name in ("g", "f"):
        one, other = getattr(unbroken, name).state_dict(), getattr(continued, name).state_dict()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert continued.trainer.state.unlabeled_seen == unbroken.trainer.state.unlabeled_seen
    assert continued.trainer.state.iteration == unbroken.trainer.state.iteration

    again = start()
    again.trainer.run()
    assert again.batches == [], "a finished run has nothing left to do"


def test_best_metric_is_kept(co_training, tmp_path):
    run = co_training()
    run.trainer.state.best_metric, run.trainer.state.best_metric_epoch = 0.9, 3
    state = saved(run, tmp_path / "c.pt")
    run.trainer.state.best_metric = -1
    state.load(run.trainer)
    assert (run.trainer.state.best_metric, run.trainer.state.best_metric_epoch) == (0.9, 3)


def test_the_scale_of_the_loss_is_kept(co_training, tmp_path):
    """From its initial value a continued float16 run would skip the steps again that found the right one."""
    run = co_training(amp_dtype="float16", stage_1=1, stage_2=0, epoch_length=1)
    run.trainer.scalers["2d"]._init_scale = 2.0**40  # overflows: the first step lowers it
    run.trainer.run()
    saved(run, tmp_path / "c.pt")
    other = co_training(amp_dtype="float16")
    TrainingState(tmp_path / "c.pt", objects_of(other), SETTINGS).load(other.trainer)
    assert other.trainer.scalers["2d"].get_scale() == run.trainer.scalers["2d"].get_scale() == 2.0**39
    assert other.trainer.scalers["3d"].get_scale() == 2.0**16


def test_other_settings_are_refused_and_named(co_training, tmp_path):
    run = co_training()
    saved(run, tmp_path / "c.pt")
    other = TrainingState(tmp_path / "c.pt", objects_of(run), {**SETTINGS, "batch_size": 5, "seed": 1})
    with pytest.raises(UserError, match="batch_size 4 then, 5 now; seed not set then, 1 now") as caught:
        other.load(run.trainer)
    assert "resume" in str(caught.value) and "run_dir" in str(caught.value) and str(tmp_path) in str(caught.value)
    assert "spacing" not in str(caught.value)


@pytest.mark.parametrize(("then", "now", "refused"), [
    ({"learning_rate_final": 0.0, "gamma": [0.8, 1.2]}, {"learning_rate_final": 0, "gamma": (0.8, 1.2)}, ""),
    ({"gamma": [0.8, 1.2]}, {"gamma": [0.8, 1.25]}, "gamma"),
    ({"loss": '{"a": 0.0, "b": true}'}, {"loss": '{"b": true, "a": 0}'}, ""),
    ({"model_2d": "1e5"}, {"model_2d": "100000"}, "model_2d"),
    ({"mix_share": None}, {"mix_share": 0.5}, "mix_share"),
    ({}, {"mix_share": 0.5}, "mix_share not set then, 0.5 now"),
    ({}, {"optimizer_def": '{"_target_": "torch.optim.AdamW"}'}, ""),  # an older checkpoint says nothing about it
    ({"optimizer_def": f"{'x' * 90} betas 1, {'y' * 90}"}, {"optimizer_def": f"{'x' * 90} betas 2, {'y' * 90}"},
     r"optimizer_def \.\.\.x{13} betas 1, y{37}\.\.\. then, \.\.\.x{13} betas 2, y{37}\.\.\. now"),
])  # fmt: skip
def test_settings_are_compared_by_what_they_mean(co_training, tmp_path, then, now, refused):
    run = co_training()
    TrainingState(tmp_path / "c.pt", objects_of(run), {**SETTINGS, **then}).save(run.trainer)
    other = TrainingState(tmp_path / "c.pt", objects_of(run), {**SETTINGS, **now})
    with pytest.raises(UserError, match=refused) if refused else contextlib.nullcontext():
        other.load(run.trainer)


@pytest.mark.parametrize(("then", "now", "refused"), [
    (None, "auto", False), ("auto", "bfloat16", False), ("bfloat16", None, False), (None, "float16", True),
])  # fmt: skip
def test_another_precision_goes_on_but_for_float16(co_training, tmp_path, then, now, refused):
    run = co_training()
    TrainingState(tmp_path / "c.pt", objects_of(run), {**SETTINGS, "amp_dtype": then}).save(run.trainer)
    other = TrainingState(tmp_path / "c.pt", objects_of(run), {**SETTINGS, "amp_dtype": now})
    with pytest.raises(UserError, match="amp_dtype") if refused else contextlib.nullcontext():
        other.load(run.trainer)


def test_another_network_is_refused_in_one_sentence(co_training, tmp_path):
    run = co_training()
    saved(run, tmp_path / "c.pt")
    objects = {**objects_of(run), "network": torch.nn.Conv3d(1, 3, 1)}
    with pytest.raises(UserError, match="The network in .*c.pt does not fit") as caught:
        TrainingState(tmp_path / "c.pt", objects, SETTINGS).load(run.trainer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_unreadable_file(co_training, tmp_path, content):
    path = tmp_path / "c.pt"
    if content is None:
        torch.save({"something": "else"}, path)
    else:
        path.write_bytes(content)
    run = co_training()
    with pytest.raises(UserError, match="c.pt cannot be read .* resume to False") as caught:
        TrainingState(path, objects_of(run), SETTINGS).load(run.trainer)
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)


def test_nothing_is_unpickled(co_training, tmp_path):
    class Danger:
        def __reduce__(self):
            return (open, (str(tmp_path / "proof"), "w"))

    torch.save({"settings": Danger()}, tmp_path / "c.pt")
    run = co_training()
    with pytest.raises(UserError):
        TrainingState(tmp_path / "c.pt", objects_of(run), SETTINGS).load(run.trainer)
    assert not (tmp_path / "proof").exists()


def test_all_in_the_checkpoint_comes_back_on_the_cpu(co_training, tmp_path, monkeypatch):
    """The pseudo-foreground is numpy: loaded onto a GPU it could not be taken over."""
    run = co_training()
    state = saved(run, tmp_path / "c.pt")
    original, devices = torch.load, []

    def spy(*args, **kwargs):
        devices.append(kwargs["map_location"])
        return original(*args, **kwargs)

    monkeypatch.setattr(torch, "load", spy)
    state.load(run.trainer)
    assert devices == ["cpu"]
