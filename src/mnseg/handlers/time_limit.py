"""Ends a training that is given the computer for a while only, behind an epoch and with a checkpoint."""

from __future__ import annotations

import logging
import time

from ignite.engine import Engine, Events

from mnseg.distributed import gather, rank
from mnseg.engines.training_state import TrainingState

__all__ = ["STOPPED", "TimeLimitHandler"]

logger = logging.getLogger(__name__)

START = time.monotonic()
STOPPED = 75  # the exit code of "try again later" (sysexits.h), by which a script knows that there is more to train


class TimeLimitHandler:
    """Behind the first epoch that ends later than ``minutes`` after mnseg was imported: save, and leave Python.

    ignite's ``TimeLimit`` ends a run within an epoch, of which a continued run knows nothing, and as if it were done.
    Attach it behind ``CheckpointHandler``.

    Args:
        training_state: where the checkpoint lies and what it holds.
        minutes: of this start, with reading and caching the scans; None: no limit.

    Raises:
        SystemExit: when the time is over, with ``STOPPED``; never behind the last epoch. Of several processes torchrun
            makes its own exit code, 1.
    """

    def __init__(self, training_state: TrainingState, minutes: float | None = None) -> None:
        self.training_state = training_state
        self.minutes = minutes

    def attach(self, engine: Engine) -> None:
        """Attach to a ``CoTrainer``."""
        if self.minutes is not None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        over = time.monotonic() - START >= 60 * self.minutes
        # Processes that train together end together.
        if engine.state.epoch >= engine.state.max_epochs or not any(gather(over)):
            return
        if rank() == 0:
            self.training_state.save(engine)
            logger.info(
                "stopped behind epoch %d of %d, as max_minutes is %g: the same command goes on",
                engine.state.epoch, engine.state.max_epochs, self.minutes,
            )  # fmt: skip
        gather(None)  # the launcher ends all processes when the first one leaves: not while one of them writes
        # ignite would call it an error, behind the line that says how to go on.
        engine.logger.addFilter(lambda record: "terminating due to exception" not in record.getMessage())
        raise SystemExit(STOPPED)
