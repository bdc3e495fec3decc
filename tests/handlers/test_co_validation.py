from __future__ import annotations

from math import nan
from types import SimpleNamespace

import torch
from ignite.engine import Events

from mnseg.handlers import CoValidationHandler


class Fake:
    """An evaluator whose key metric is an eighth of the epoch, or what is given for each case and class."""

    def __init__(self, cases: int = 1, details: list[list[float]] | None = None) -> None:
        self.data_loader, self.epochs, self.details = [0] * cases, [], details
        self.state = SimpleNamespace(metric_details={}, key_metric_name="mean_dice")

    def run(self, epoch: int) -> None:
        self.epochs.append(epoch)
        details = torch.tensor(self.details or [[epoch / 8]])
        self.state.metric_details = {"other": torch.tensor([[-1.0]]), "mean_dice": details}


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
    assert seen == [{}, {}, {"val_dice_3d": 0.375}, {}, {}, {"val_dice_3d": 0.75}, {"val_dice_3d": 0.875}]


def test_structures_that_no_scan_has_are_not_measured(make_engine, run):
    """Dice of a structure that is in neither mask is no number; MONAI's mean of nothing would be 0."""
    nothing, some = Fake(2, [[nan, nan], [nan, nan]]), Fake(2, [[0.5, nan], [nan, 1.0]])
    engine = make_engine()
    CoValidationHandler({"val_dice_3d": nothing, "val_dice_2d": some}, 1).attach(engine)
    run(engine, 1)
    assert engine.state.validation == {"val_dice_2d": 0.75}


def test_the_classes_of_a_case_are_averaged_first(make_engine, run):
    """As MONAI's metrics do it; the mean over all three values would be 2/3."""
    engine = make_engine()
    CoValidationHandler({"val_dice_3d": Fake(2, [[0.0, 1.0], [1.0, nan]])}, 1).attach(engine)
    run(engine, 1)
    assert engine.state.validation == {"val_dice_3d": 0.75}
