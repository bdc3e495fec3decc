"""The moving average of the 3D network moves when that network has learned."""

from __future__ import annotations

from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler

__all__ = ["MovingAverageHandler"]


class MovingAverageHandler:
    """Attach ignite's ``EMAHandler`` to the iterations in which the 3D network learns.

    In the epochs in which it only teaches, the average would go on moving toward weights that stand still, and forget
    about twice as fast as ``ema_momentum`` says.

    Args:
        ema: the average, or None: nothing is attached. (MONAI wants ``train::handlers`` to be a list of components, so
            an object that other parts of the config refer to cannot stand in it itself.)
    """

    def __init__(self, ema: EMAHandler | None) -> None:
        self.ema = ema

    def attach(self, engine: Engine) -> None:
        """Attach to a ``CoTrainer``."""
        if self.ema is not None:
            learned = Events.ITERATION_COMPLETED(event_filter=lambda trainer, _: trainer.state.student != "2d")
            self.ema.attach(engine, event=learned)
