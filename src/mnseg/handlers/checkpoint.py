"""Saves the training state."""

from __future__ import annotations

import logging

from ignite.engine import Engine, Events

from mnseg.engines.soundness import NonFiniteLossError
from mnseg.engines.training_state import TrainingState

__all__ = ["CheckpointHandler"]

logger = logging.getLogger(__name__)


class CheckpointHandler:
    """Save the training state every ``interval`` epochs and after the last one. Attach it last.

    The file is replaced in one step, so a killed process leaves the previous checkpoint whole. After a NaN or infinite
    loss the state of that moment goes to ``stopped.pt`` beside it; the good checkpoint is never touched by an error.

    Args:
        training_state: where the checkpoint lies and what it holds.
        interval: epochs between two checkpoints.
    """

    main_process_only = True

    def __init__(self, training_state: TrainingState, interval: int = 10) -> None:
        self.training_state = training_state
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """Attach to a ``CoTrainer``."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.on_exception)

    def __call__(self, engine: Engine) -> None:
        if engine.state.epoch % self.interval == 0 or engine.state.epoch == engine.state.max_epochs:
            self.training_state.save(engine)

    def on_exception(self, engine: Engine, error: BaseException) -> None:
        """Keep the state in which the loss broke, for a look at it."""
        if isinstance(error, NonFiniteLossError):
            path = self.training_state.save(engine, self.training_state.path.with_name("stopped.pt"))
            logger.error("the state before the failing step was saved to %s", path)
