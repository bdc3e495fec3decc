from __future__ import annotations

import pytest
import torch
from ignite.engine import Events

from mnseg.engines import NonFiniteLossError
from mnseg.engines.run_lock import RunLock
from mnseg.engines.training_state import TrainingState
from mnseg.handlers import CheckpointHandler, ResumeHandler


@pytest.fixture
def state(tmp_path) -> TrainingState:
    return TrainingState(tmp_path / "checkpoint.pt", {"network": torch.nn.Conv3d(1, 1, 1)}, {"seed": 0})


def epoch_in(path) -> int:
    return torch.load(path, weights_only=True)["engine"]["epoch"]


def test_every_interval_and_after_the_last_epoch(make_engine, run, state, monkeypatch):
    epochs = []
    monkeypatch.setattr(state, "save", lambda engine, path=None: epochs.append(engine.state.epoch))
    engine = make_engine()
    CheckpointHandler(state, interval=3).attach(engine)
    run(engine, 7)
    assert epochs == [3, 6, 7]


def test_only_a_broken_loss_leaves_a_second_file(make_engine, state):
    handler, engine = CheckpointHandler(state), make_engine()
    engine.state.epoch = 4
    engine.state.iteration = 9
    handler.on_exception(engine, KeyboardInterrupt())
    assert list(state.path.parent.iterdir()) == []
    handler.on_exception(engine, NonFiniteLossError("nan"))
    assert [p.name for p in state.path.parent.iterdir()] == ["stopped.pt"]
    assert epoch_in(state.path.with_name("stopped.pt")) == 4


def test_resume_goes_on_behind_the_checkpoint(make_engine, run, state):
    first = make_engine()
    CheckpointHandler(state, interval=2).attach(first)
    run(first, 4)
    second = make_engine()
    ResumeHandler(state).attach(second)
    seen = []
    second.add_event_handler(Events.EPOCH_COMPLETED, lambda e: seen.append((e.state.epoch, e.state.iteration)))
    run(second, 6)
    assert seen == [(5, 10), (6, 12)]


def test_the_folders_are_held_until_the_last_handler_has_written(make_engine, run, state):
    engine, handler = make_engine(), ResumeHandler(state, run_dir=state.path.parent / "run")
    handler.attach(engine)
    held = []
    engine.add_event_handler(Events.COMPLETED, lambda _: held.extend(RunLock._held))
    run(engine, 1)
    assert set(held) >= {state.path.parent, state.path.parent / "run"}
    assert not {state.path.parent, state.path.parent / "run"} & RunLock._held.keys()


def test_resume_off_or_nothing_there(make_engine, run, state):
    for enabled in (True, False):
        engine = make_engine()
        ResumeHandler(state, enabled=enabled).attach(engine)
        run(engine, 1)
        assert engine.state.epoch == 1
        CheckpointHandler(state)(engine)  # there is one when the second engine starts
    assert epoch_in(state.path) == 1


def test_started_over_nothing_of_the_earlier_run_passes_for_the_new_one(make_engine, run, state):
    folder = state.path.parent
    for name in ("checkpoint.pt", "model.pt", "model_best.pt", "notes.txt"):
        (folder / name).write_text(f"old {name}")
    seen = []
    engine = make_engine()
    ResumeHandler(state, enabled=False).attach(engine)
    engine.add_event_handler(Events.STARTED, lambda _: seen.append(state.path.exists()))  # warm_start may read it
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda _: seen.append(sorted(p.name for p in folder.iterdir())))
    CheckpointHandler(state, interval=2).attach(engine)
    run(engine, 2)
    kept = ["checkpoint.pt.previous", "model.pt.previous", "model_best.pt.previous", "notes.txt"]
    assert seen == [True, kept, kept]
    assert (folder / "model_best.pt.previous").read_text() == "old model_best.pt"
    assert epoch_in(state.path) == 2
