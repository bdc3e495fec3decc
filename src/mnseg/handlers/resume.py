"""Continues a stopped run when the command is repeated."""

from __future__ import annotations

from ignite.engine import Engine, Events

from mnseg.engines.training_state import TrainingState

__all__ = ["ResumeHandler"]


class ResumeHandler:
    """Load the newest checkpoint, if there is one, when the trainer starts. Attach it first.

    Args:
        training_state: where the checkpoint lies and what it holds.
        enabled: False: start over; the old checkpoint is replaced when the first new one is saved.
    """

    def __init__(self, training_state: TrainingState, enabled: bool = True) -> None:
        self.training_state = training_state
        self.enabled = enabled

    def attach(self, engine: Engine) -> None:
        """Attach to a ``CoTrainer``."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        if self.enabled and self.training_state.path.exists():
            self.training_state.load(engine)
