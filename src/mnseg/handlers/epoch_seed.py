"""Randomness as a function of seed and epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import set_rnd
from torch.utils.data import Dataset

from mnseg.distributed import rank

__all__ = ["EpochSeedHandler"]


class EpochSeedHandler:
    """Seed torch, the sampler and the random transforms anew at the start of every epoch.

    What an epoch draws depends on ``(seed, epoch)`` alone, and on the process where several train together. A run that
    continues from a checkpoint therefore draws what the unbroken run would have drawn, and no generator's state has to
    be stored. Attach it before other handlers that draw.

    Args:
        seed: seed of the run.
        dataset: dataset whose random transforms are seeded (worker processes seed theirs from torch's generator).
        sampler: batch sampler with ``set_epoch``.
    """

    def __init__(self, seed: int, dataset: Dataset, sampler: Any) -> None:
        self.seed = seed
        self.dataset = dataset
        self.sampler = sampler

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        # Crops and augmentation differ between processes; the sampler draws one joint batch on all of them.
        place = [rank()] if rank() else []
        epoch_seed = int(np.random.SeedSequence([self.seed, epoch, *place]).generate_state(1)[0])
        torch.manual_seed(epoch_seed)
        set_rnd(self.dataset, epoch_seed)
        self.sampler.set_epoch(epoch)
