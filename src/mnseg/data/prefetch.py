"""The next batch is made while the current one is learned from, without a worker process."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from monai.data import DataLoader

__all__ = ["PrefetchLoader"]

END = object()


class PrefetchLoader(DataLoader):
    """MONAI's ``DataLoader`` that, without workers, makes one batch ahead in a thread.

    Of an epoch that is read to its end, batches, their order and their random draws are those of ``DataLoader``: one
    thread makes them, one after the other, and nothing is drawn before the first batch is asked for, so that what an
    epoch's handlers set holds for all of it. Who leaves an epoch early waits for the batch that is being made.
    Worker processes (``num_workers``) would be started and fed anew each epoch, which for short epochs takes longer
    than what they hide. MONAI's own ``ThreadDataLoader`` ends an epoch without a word where a scan cannot be read.

    Raises:
        whatever making a batch raises, at that batch.
    """

    def __iter__(self) -> Iterator[Any]:
        batches = super().__iter__()
        if self.num_workers:
            yield from batches
            return
        with ThreadPoolExecutor(1, "next batch") as thread:
            coming = thread.submit(next, batches, END)
            while (batch := coming.result()) is not END:
                coming = thread.submit(next, batches, END)
                yield batch
