from __future__ import annotations

import json

import pytest
import torch
from ignite.engine import Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnseg.handlers import HistoryHandler


def attach(engine, folder) -> HistoryHandler:
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    optimizers = {name: torch.optim.SGD(parameters, lr=rate) for name, rate in (("3d", 0.1), ("2d", 0.2))}

    @engine.on(Events.EPOCH_COMPLETED)
    def publish(engine):
        engine.state.validation = {"val_dice_3d": 0.5} if engine.state.epoch == 2 else {}

    handler = HistoryHandler(folder, optimizers)
    handler.attach(engine)
    return handler


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_one_line_an_epoch(make_engine, run, tmp_path):
    engine = make_engine(stage_1=1, num_unlabeled=1.25, unlabeled_seen=7)
    attach(engine, tmp_path)
    run(engine, 3)
    records = lines(tmp_path)
    assert [r["epoch"] for r in records] == [1, 2, 3]
    assert [(r["stage"], r["student"]) for r in records] == [(1, "both"), (2, "3d"), (2, "2d")]
    assert [r.get("val_dice_3d") for r in records] == [None, 0.5, None]
    for record in records:
        assert record["num_unlabeled"] == 1.25 and record["num_labeled"] == 2.75
        assert record["unlabeled_seen"] == 7
        assert (record["lr_3d"], record["lr_2d"]) == (0.1, 0.2)
        assert record["loss_labeled_3d"] == 2.0, "mean of 1 and 3"
        assert record["seconds"] >= 0
        assert "loss_unlabeled_3d" not in record


def test_the_same_in_tensorboard(make_engine, run, tmp_path):
    engine = make_engine(stage_1=1)
    attach(engine, tmp_path)
    run(engine, 3)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss_labeled_3d")] == [(1, 2.0), (2, 2.0), (3, 2.0)]
    assert [e.step for e in events.Scalars("val_dice_3d")] == [2]
    assert {"stage", "lr_3d", "lr_2d", "num_unlabeled", "unlabeled_seen"} <= set(events.Tags()["scalars"])


def test_a_continued_run_cuts_back_to_its_checkpoint(make_engine, run, tmp_path):
    kept = [json.dumps({"epoch": epoch, "old": True}) for epoch in range(1, 6)]
    (tmp_path / "history.jsonl").write_text("\n".join([*kept, '{"epoch": 6, "lo']))
    engine = make_engine()

    @engine.on(Events.STARTED)
    def resume(engine):
        engine.state.epoch, engine.state.iteration = 3, 6

    attach(engine, tmp_path)
    run(engine, 5)
    assert [(r["epoch"], r.get("old", False)) for r in lines(tmp_path)] == [
        (1, True),
        (2, True),
        (3, True),
        (4, False),
        (5, False),
    ]


def test_a_new_run_starts_a_new_file(make_engine, run, tmp_path):
    (tmp_path / "history.jsonl").write_text('{"epoch": 1, "old": true}\n')
    engine = make_engine()
    attach(engine, tmp_path)
    run(engine, 1)
    assert ["old" in r for r in lines(tmp_path)] == [False]


def test_an_error_still_flushes_tensorboard(make_engine, run, tmp_path):
    engine = make_engine()
    attach(engine, tmp_path)

    @engine.on(Events.ITERATION_COMPLETED(once=5))
    def fail(engine):
        raise ValueError("on purpose")

    engine.add_event_handler(Events.EXCEPTION_RAISED, _raise)
    with pytest.raises(ValueError, match="on purpose"):
        run(engine, 4)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("loss_labeled_3d")] == [1, 2]


def _raise(engine, error):
    raise error
