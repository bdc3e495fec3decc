"""Runs the evaluators and publishes what they found."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from ignite.engine import Engine, Events
from monai.engines import Evaluator

__all__ = ["CoValidationHandler"]

logger = logging.getLogger(__name__)


class CoValidationHandler:
    """Run evaluators every ``interval`` epochs and in the last one; publish their key metrics.

    ``engine.state.validation`` holds the values measured in this very epoch, by name (say ``val_dice_3d``), and is
    empty in the other epochs. Attach it before the handlers that write them down.

    Args:
        evaluators: name -> evaluator with a key metric; those without data are left out.
        interval: epochs between two validations.
    """

    def __init__(self, evaluators: Mapping[str, Evaluator], interval: int) -> None:
        self.evaluators = {name: e for name, e in evaluators.items() if e is not None and len(e.data_loader)}
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
            evaluator.run(state.epoch)
            state.validation[name] = float(evaluator.state.metrics[evaluator.state.key_metric_name])
