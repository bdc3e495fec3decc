"""Refreshes the pseudo-foreground that steers the crops of unlabeled scans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.inferers import Inferer
from torch import nn
from torch.utils.data import Dataset

from mnseg.data.pseudo_foreground import PseudoForeground, sample_foreground
from mnseg.distributed import gather, num_processes, rank

__all__ = ["PseudoForegroundHandler"]


class PseudoForegroundHandler:
    """Predict unlabeled scans with the 3D network and keep a sample of the foreground voxels (M&N, Sec. 3.1).

    Runs at the start of an epoch that draws unlabeled patches, when ``interval`` epochs have passed since the last
    time. At most ``max_cases`` scans are predicted at a time, those that have waited longest first, so the cost does
    not grow with the pool. Attach it behind ``LRGSamplingHandler``.

    Args:
        store: filled here, read by ``RandForegroundCropd``.
        dataset: deterministic part of the data, items with ``image`` ``(C, H, W, D)`` and ``case``.
        indices: dataset indices of the unlabeled scans.
        network: the 3D network.
        inferer: sliding window.
        interval: epochs between two refreshes.
        max_cases: scans a refresh; None: all.
        limit: most voxel indices kept a scan.
    """

    def __init__(
        self,
        store: PseudoForeground,
        dataset: Dataset,
        indices: Sequence[int],
        network: nn.Module,
        inferer: Inferer,
        interval: int = 50,
        max_cases: int | None = 64,
        limit: int = 2048,
    ) -> None:
        self.store = store
        self.dataset = dataset
        self.indices = list(indices)
        self.network = network
        self.inferer = inferer
        self.interval = interval
        self.max_cases = max_cases
        self.limit = limit

    def attach(self, engine: Engine) -> None:
        """Attach to a ``CoTrainer``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        if self.indices and engine.state.num_unlabeled and self._is_due(engine.state.epoch):
            self.refresh(engine)

    def _is_due(self, epoch: int) -> bool:
        last = max(self.store.refreshed.values(), default=None)
        return last is None or epoch - last >= self.interval

    def _stalest(self) -> list[tuple[int, str]]:
        cases = [(index, self.dataset.data[index]["case"]) for index in self.indices]
        cases.sort(key=lambda pair: self.store.refreshed.get(pair[1], -1))
        return cases[: self.max_cases]

    @torch.no_grad()
    def refresh(self, engine: Engine) -> None:
        """Predict the scans whose turn it is, divided over the processes."""
        network = self.network.eval()
        mine = self._stalest()[rank() :: num_processes()]
        for samples in gather({case: self._predict(index, network, engine) for index, case in mine}):
            for case, sample in samples.items():
                self.store.update(case, sample, engine.state.epoch)

    def _predict(self, index: int, network: nn.Module, engine: Engine) -> np.ndarray:
        image = torch.as_tensor(self.dataset[index]["image"])[None].to(engine.state.device)
        with engine.autocast():
            mask = self.inferer(image, network)[0].argmax(dim=0)
        return sample_foreground(mask.cpu().numpy(), self.limit, seed=engine.state.epoch)
