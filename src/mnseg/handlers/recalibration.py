"""Fits a pretrained 2D network's batch norms to the scans before the first epoch."""

from __future__ import annotations

import logging
from itertools import islice

from ignite.engine import Engine, Events
from torch import nn

from mnseg.distributed import share_buffers
from mnseg.networks.recalibration import recalibrate_batch_norm

__all__ = ["RecalibrationHandler"]

logger = logging.getLogger(__name__)


class RecalibrationHandler:
    """Measure batch-norm statistics on the first labeled batches of a new run; a continued run keeps its own.

    Args:
        network: the 2D network.
        num_batches: batches to measure on; 0: leave the statistics as they were pretrained.
    """

    def __init__(self, network: nn.Module, num_batches: int = 4) -> None:
        self.network = network
        self.num_batches = num_batches

    def attach(self, engine: Engine) -> None:
        """Attach to a ``CoTrainer``, behind ``ResumeHandler``."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        if engine.state.epoch > 0 or self.num_batches < 1:
            return
        batches = (batch["image"].to(engine.state.device) for batch in engine.data_loader)
        count = recalibrate_batch_norm(self.network, islice(batches, self.num_batches))
        share_buffers([self.network])
        if count:
            logger.info("measured %d batch norms of the 2D network on %d labeled batches", count, self.num_batches)
