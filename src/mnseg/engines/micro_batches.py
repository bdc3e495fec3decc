"""How many patches pass a network at once, and what happens where memory does not hold them."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from mnseg.errors import UserError

__all__ = ["MicroBatches", "halve_where_memory_ends", "is_short_of_memory", "unless_memory_ends"]

logger = logging.getLogger(__name__)

Found = TypeVar("Found")

# How CUDA and its libraries say that there is no memory for them. Some say the same of other faults, and say it again
# with one patch.
NO_MEMORY = ("CUDA error: out of memory", "unable to find an engine to execute this computation", "_ALLOC_FAILED",
             "_ALLOCATION_FAILED", "CUDNN_STATUS_NOT_INITIALIZED", "CUBLAS_STATUS_NOT_INITIALIZED",
             "CUDNN_STATUS_NOT_SUPPORTED")  # fmt: skip


class MicroBatches:
    """Parts of a batch that pass a network one after the other.

    Args:
        size: patches of a part; None: the whole batch; "auto": the whole batch, and half as many from then on, again
            and again, where a GPU's memory ends.
        what: passes at once, for the warning.

    Raises:
        UserError: for another size.
    """

    def __init__(self, size: int | str | None, what: str = "patches") -> None:
        whole = isinstance(size, int) and not isinstance(size, bool) and size >= 1
        if not (whole or size in (None, "auto")):
            raise UserError(
                f"micro_batch_size is {size}; it must be at least 1, or null for the whole batch, or auto for as much "
                "of it as the memory holds."
            )
        self.may_halve = size == "auto"
        self.size = size if whole else None
        self.what = what

    def parts(self, total: int) -> list[slice]:
        """Where in a batch of ``total`` patches each part lies."""
        size = self.size or max(total, 1)
        return [slice(start, min(start + size, total)) for start in range(0, total, size)]

    def run(self, compute: Callable[[list[slice]], Found], total: int) -> Found:
        """``compute(parts)``; with "auto" once more with smaller parts as often as memory does not suffice.

        Args:
            compute: begins anew each time that it is called.
            total: patches of the batch.

        Raises:
            RuntimeError: what ``compute`` raises, where there is no memory (``torch.OutOfMemoryError``) with one patch
                at a time, or without "auto".
        """

        def sized(size: int) -> Found:
            if size < total:
                self.size = size
            return compute(self.parts(total))

        size = min(self.size or total, total)
        return halve_where_memory_ends(sized, size, f"{self.what} (micro_batch_size)", self.may_halve)


def is_short_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU's memory did not suffice, by torch's error or by one of its libraries' words."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in NO_MEMORY)


def _free_what_failed() -> None:
    """Give back what a failed attempt had on the GPU; its peak is none of what works."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def unless_memory_ends(compute: Callable[[], Found], otherwise: Callable[[], Found], warning: str) -> Found:
    """``compute()``, and ``otherwise()`` where a GPU's memory does not suffice.

    Raises:
        RuntimeError: what either raises otherwise.
    """
    try:
        return compute()
    except RuntimeError as error:
        if not is_short_of_memory(error):
            raise
    # Behind the handler: as long as the error lives, so do the tensors of the frames that it went through.
    _free_what_failed()
    logger.warning(warning)
    return otherwise()


def halve_where_memory_ends(compute: Callable[[int], Found], size: int, what: str, allowed: bool = True) -> Found:
    """``compute(size)``, and with half of it, rounded up, as long as a GPU's memory does not suffice.

    Args:
        compute: begins anew each time that it is called.
        size: at least 1.
        what: passes at once, for the warning.
        allowed: False: once.

    Raises:
        RuntimeError: what ``compute`` raises, where there is no memory (``torch.OutOfMemoryError``) with a size of 1.
    """
    while True:
        try:
            return compute(size)
        except RuntimeError as error:
            if not allowed or size <= 1 or not is_short_of_memory(error):
                raise
        # Behind the handler, as above.
        _free_what_failed()
        logger.warning("the GPU's memory holds fewer than %d %s: now %d at once", size, what, (size + 1) // 2)
        size = (size + 1) // 2
