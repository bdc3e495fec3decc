from __future__ import annotations

import logging

import pytest
import torch
from ignite.engine import Events

from mnseg.handlers import SaveModelHandler


@pytest.fixture
def network():
    return torch.nn.Conv3d(1, 1, 1)


def attach(engine, network, folder, values):
    """The network's bias tells the epoch; `values` are the validation results by epoch."""

    @engine.on(Events.EPOCH_COMPLETED)
    def train(engine):
        torch.nn.init.constant_(network.bias, float(engine.state.epoch))
        value = values.get(engine.state.epoch)
        engine.state.validation = {} if value is None else {"val_dice_3d": value, "val_dice_2d": 1.0}

    SaveModelHandler(network, folder).attach(engine)


def bias(path) -> float:
    return float(torch.load(path, weights_only=True)["bias"])


def test_best_and_final(make_engine, run, network, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    engine = make_engine()
    attach(engine, network, tmp_path, {1: 0.2, 3: 0.6, 4: 0.6, 5: 0.5})
    run(engine, 6)
    assert bias(tmp_path / "model_best.pt") == 3, "a tie keeps the earlier one"
    assert bias(tmp_path / "model.pt") == 6
    assert (engine.state.best_metric, engine.state.best_metric_epoch) == (0.6, 3)
    assert "epoch 3, 0.6000" in caplog.text


def test_a_continued_run_does_not_overwrite_a_better_model(make_engine, run, network, tmp_path):
    (tmp_path / "model_best.pt").write_text("better")
    engine = make_engine(best_metric=0.9, best_metric_epoch=7)
    attach(engine, network, tmp_path, {1: 0.8})
    run(engine, 2)
    assert (tmp_path / "model_best.pt").read_text() == "better"
    assert engine.state.best_metric_epoch == 7


@pytest.mark.parametrize("values", [{}, {1: float("nan")}])
def test_without_a_measured_value_there_is_no_best_model(make_engine, run, network, tmp_path, values, caplog):
    caplog.set_level(logging.INFO)
    engine = make_engine()
    attach(engine, network, tmp_path, values)
    run(engine, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]
    assert "not measured" in caplog.text


def test_an_error_writes_no_final_model(make_engine, run, network, tmp_path):
    engine = make_engine()
    attach(engine, network, tmp_path, {})

    @engine.on(Events.ITERATION_COMPLETED(once=3))
    def fail(engine):
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        run(engine, 4)
    assert list(tmp_path.iterdir()) == []
