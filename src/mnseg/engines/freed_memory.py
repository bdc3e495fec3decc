"""Freed memory stays with the process: a CPU's training step spends less time in the kernel."""

from __future__ import annotations

import ctypes
import logging

__all__ = ["keep_freed_memory"]

logger = logging.getLogger(__name__)

# malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory(wanted: bool = True) -> bool:
    """Tell glibc's allocator to hold on to what is freed, for the rest of this process.

    A training step allocates the same large tensors again and again. By default glibc maps them page by page and gives
    them back to the kernel when they are freed, which then has to clear every page anew. Kept pages are reused; no
    number changes, and the process holds its peak until it ends.

    Args:
        wanted: False: nothing is done.

    Returns:
        Whether it was done; False with another C library than glibc (macOS, Alpine, Windows).
    """
    if not wanted:
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 another library's mallopt may read these numbers differently
        done = bool(library.mallopt(M_TRIM_THRESHOLD, -1) and library.mallopt(M_MMAP_MAX, 0))
    except (AttributeError, OSError, TypeError):
        done = False
    if not done:
        logger.info("keep_freed_memory: this C library's allocator has no such setting; nothing was changed.")
    return done
