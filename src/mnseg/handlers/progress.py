"""Progress over the whole run, with time left."""

from __future__ import annotations

import sys

from ignite.engine import Engine, Events
from tqdm import tqdm

__all__ = ["ProgressHandler"]


class ProgressHandler:
    """A bar over all iterations of both stages, with the time left and the epoch's stage, student and b_u.

    Where standard error is no terminal, a line is written every ``quiet_seconds`` instead of a moving bar.

    Args:
        quiet_seconds: see above.
    """

    main_process_only = True

    def __init__(self, quiet_seconds: float = 15.0) -> None:
        self.quiet_seconds = quiet_seconds
        self.bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to a ``CoTrainer``."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.close)

    def start(self, engine: Engine) -> None:
        """Open the bar where the run starts or continues."""
        total = engine.state.max_epochs * engine.state.epoch_length
        interval = 0.2 if sys.stderr.isatty() else self.quiet_seconds
        self.bar = tqdm(
            total=total, initial=engine.state.iteration, unit="it", desc="training", mininterval=interval, leave=True
        )

    def __call__(self, engine: Engine) -> None:
        state = engine.state
        text = f"epoch {state.epoch}/{state.max_epochs} stage {state.stage} student {state.student}"
        self.bar.set_postfix_str(f"{text} b_u {state.num_unlabeled:g}", refresh=False)
        self.bar.update()

    def close(self, engine: Engine, error: BaseException | None = None) -> None:
        """Close the bar, at the end or when the run breaks off."""
        if self.bar is not None:
            self.bar.close()
