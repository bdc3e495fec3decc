"""Writes the product: the 3D network's weights."""

from __future__ import annotations

import logging
from pathlib import Path

from ignite.engine import Engine, Events
from torch import nn

from mnseg.files import atomic_save

__all__ = ["SaveModelHandler"]

logger = logging.getLogger(__name__)


class SaveModelHandler:
    """Write ``model.pt`` at the end, and ``model_best.pt`` whenever the validation metric has improved.

    Both are plain state dicts of the 3D network. The published tables use the final weights; the best ones are kept
    beside them, chosen on validation cases only.

    Args:
        network: the network to write (the moving average, where there is one).
        ckpt_dir: folder of both files.
        metric: name in ``engine.state.validation``; larger is better.
    """

    def __init__(self, network: nn.Module, ckpt_dir: str | Path, metric: str = "val_dice_3d") -> None:
        self.network = network
        self.ckpt_dir = Path(ckpt_dir)
        self.metric = metric
        self.best = float("-inf")
        self.best_epoch = 0

    def attach(self, engine: Engine) -> None:
        """Attach to a ``CoTrainer``, behind ``CoValidationHandler``."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def __call__(self, engine: Engine) -> None:
        value = getattr(engine.state, "validation", {}).get(self.metric)
        if value is not None and value > self.best:
            self.best, self.best_epoch = value, engine.state.epoch
            atomic_save(self.network.state_dict(), self.ckpt_dir / "model_best.pt")

    def finish(self, engine: Engine) -> None:
        """Write the final weights."""
        path = atomic_save(self.network.state_dict(), self.ckpt_dir / "model.pt")
        logger.info("final 3D network: %s (best on validation: epoch %d, %.4f)", path, self.best_epoch, self.best)

    def state_dict(self) -> dict:
        """The best value so far, so that a continued run does not overwrite a better model."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: dict) -> None:
        """Take over what ``state_dict`` gave."""
        self.best, self.best_epoch = state["best"], state["best_epoch"]
