"""Runs the evaluators and publishes what they found."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.metrics.utils import do_metric_reduction

from mnseg.distributed import gather

__all__ = ["CoValidationHandler"]

logger = logging.getLogger(__name__)


class CoValidationHandler:
    """Run evaluators every ``interval`` epochs and in the last one; publish their key metrics.

    ``engine.state.validation`` holds the values measured in this very epoch, by name (say ``val_dice_3d``), and is
    empty in the other epochs. Attach it before the handlers that write them down. Several processes measure their own
    cases each, one of them perhaps none; all get the mean over the cases of all.

    Args:
        evaluators: name -> evaluator with a key metric; those without data are left out.
        interval: epochs between two validations.
    """

    def __init__(self, evaluators: Mapping[str, Evaluator], interval: int) -> None:
        self.evaluators = {name: e for name, e in evaluators.items() if e is not None}
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.state.validation = {}
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        state = engine.state
        state.validation = {}
        if state.epoch % self.interval and state.epoch != state.max_epochs:
            return
        for name, evaluator in self.evaluators.items():
            value = _measure(evaluator, state.epoch)
            if value is not None:
                state.validation[name] = value


def _measure(evaluator: Evaluator, epoch: int) -> float | None:
    """The key metric's mean over the cases of all processes; None where there is no case, or no structure in any."""
    cases = None
    if len(evaluator.data_loader):
        evaluator.run(epoch)
        cases = evaluator.state.metric_details[evaluator.state.key_metric_name].cpu()
    measured = [values for values in gather(cases) if values is not None]
    if not measured or not torch.cat(measured).isfinite().any():
        return None
    return float(do_metric_reduction(torch.cat(measured), "mean")[0])
