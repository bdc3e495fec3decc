"""The next batch is made while the current one is learned from, without a worker process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from monai.data import DataLoader

__all__ = ["PrefetchLoader", "has_spare_cores"]

END = object()


def has_spare_cores(device: torch.device | str) -> bool:
    """Whether a second thread can make batches without holding up the training.

    A thread computes with a team of as many OpenMP threads as the training has. Where both teams together are larger
    than the processor, their threads fall asleep between operations, and a step takes a third longer. A training on a
    GPU leaves the processor's cores alone.
    """
    if torch.device(device).type != "cpu":
        return True
    allowed = getattr(os, "sched_getaffinity", None)
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    return 2 * torch.get_num_threads() <= cores


class PrefetchLoader(DataLoader):
    """MONAI's ``DataLoader`` that, without workers, makes one batch ahead in a thread.

    Of an epoch that is read to its end, batches, their order and their random draws are those of ``DataLoader``: one
    thread makes them, one after the other, and nothing is drawn before the first batch is asked for, so that what an
    epoch's handlers set holds for all of it. Who leaves an epoch early waits for the batch that is being made.
    Worker processes (``num_workers``) would be started and fed anew each epoch, which for short epochs takes longer
    than what they hide. MONAI's own ``ThreadDataLoader`` ends an epoch without a word where a scan cannot be read.

    Args:
        ahead: False: MONAI's ``DataLoader``. See :func:`has_spare_cores`.
        others: those of ``DataLoader``.

    Raises:
        whatever making a batch raises, at that batch.
    """

    def __init__(self, *args: Any, ahead: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ahead = ahead

    def __iter__(self) -> Iterator[Any]:
        batches = super().__iter__()
        if self.num_workers or not self.ahead:
            yield from batches
            return
        with ThreadPoolExecutor(1, "next batch") as thread:
            coming = thread.submit(next, batches, END)
            while (batch := coming.result()) is not END:
                coming = thread.submit(next, batches, END)
                yield batch
