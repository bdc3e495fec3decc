"""Learning rates of both networks, set once an epoch."""

from __future__ import annotations

from collections.abc import Sequence

from ignite.engine import Engine, Events
from torch.optim import Optimizer

from mnseg.engines.stages import learning_rate_factor

__all__ = ["TwoStageLRHandler"]


class TwoStageLRHandler:
    """``lr = lr_final + (lr_initial - lr_final) * factor(epoch)``: warm-up and cosine, restarted for stage 2.

    The rate is a function of the epoch, so it needs no state of its own. ``lr_initial`` is the rate that each
    optimizer was built with; it stays in the parameter groups as ``initial_lr``.

    Args:
        optimizers: of the 3D and the 2D network.
        stage_1_epochs: length of stage 1.
        stage_2_epochs: length of stage 2.
        warmup_epochs: linear warm-up at the start of stage 1.
        lr_final: rate at the end of either stage.
        restart: False: one cosine over both stages.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        stage_1_epochs: int,
        stage_2_epochs: int,
        warmup_epochs: int = 0,
        lr_final: float = 0.0,
        restart: bool = True,
    ) -> None:
        self.optimizers = list(optimizers)
        self.stage_1_epochs = stage_1_epochs
        self.stage_2_epochs = stage_2_epochs
        self.warmup_epochs = warmup_epochs
        self.lr_final = lr_final
        self.restart = restart
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer; attach it before ``LRGSamplingHandler``, which reads the rate."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        factor = learning_rate_factor(
            engine.state.epoch, self.stage_1_epochs, self.stage_2_epochs, self.warmup_epochs, self.restart
        )
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr_final + (group["initial_lr"] - self.lr_final) * factor
