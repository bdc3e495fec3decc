from __future__ import annotations

from types import SimpleNamespace

from ignite.engine import Events

from mnseg.handlers import CoValidationHandler


class Fake:
    """An evaluator whose key metric is a tenth of the epoch."""

    def __init__(self, cases: int = 1) -> None:
        self.data_loader, self.epochs = [0] * cases, []
        self.state = SimpleNamespace(metrics={}, key_metric_name="mean_dice")

    def run(self, epoch: int) -> None:
        self.epochs.append(epoch)
        self.state.metrics = {"other": -1.0, "mean_dice": epoch / 10}


def test_every_interval_and_in_the_last_epoch(make_engine, run):
    used, empty = Fake(), Fake(cases=0)
    engine = make_engine()
    handler = CoValidationHandler({"val_dice_3d": used, "val_dice_2d": empty, "pseudo_dice_3d": None}, 3)
    handler.attach(engine)
    seen = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: seen.append(dict(e.state.validation)))
    assert engine.state.validation == {}
    run(engine, 7)
    assert used.epochs == [3, 6, 7] and empty.epochs == []
    assert seen == [{}, {}, {"val_dice_3d": 0.3}, {}, {}, {"val_dice_3d": 0.6}, {"val_dice_3d": 0.7}]
