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
    beside them, chosen on validation cases only. The best value is ``engine.state.best_metric``, which the checkpoint
    keeps, so that a continued run does not overwrite a better model.

    Args:
        network: the network to write (the moving average, where there is one).
        ckpt_dir: folder of both files.
        metric: name in ``engine.state.validation``; larger is better.
    """

    main_process_only = True

    def __init__(self, network: nn.Module, ckpt_dir: str | Path, metric: str = "val_dice_3d") -> None:
        self.network = network
        self.ckpt_dir = Path(ckpt_dir)
        self.metric = metric

    def attach(self, engine: Engine) -> None:
        """Attach to a ``CoTrainer``, behind ``CoValidationHandler``."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def __call__(self, engine: Engine) -> None:
        state = engine.state
        value = getattr(state, "validation", {}).get(self.metric)
        if value is not None and value > state.best_metric:
            state.best_metric, state.best_metric_epoch = value, state.epoch
            atomic_save(self.network.state_dict(), self.ckpt_dir / "model_best.pt")

    def finish(self, engine: Engine) -> None:
        """Write the final weights."""
        path = atomic_save(self.network.state_dict(), self.ckpt_dir / "model.pt")
        state = engine.state
        best = f"epoch {state.best_metric_epoch}, {state.best_metric:.4f}" if state.best_metric >= 0 else "not measured"
        logger.info("final model: %s (best on validation: %s)", path, best)
