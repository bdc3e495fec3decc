"""Is a 2D image small enough? Asked of its header, before its pixels are read.

The bundle `sam_mining` carries a copy of this file, which therefore needs no other of mnseg.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["memory_fault"]

MOST_PIXELS = 64_000_000


def memory_fault(size: tuple[int, int, int], channels: int, num_classes: int) -> str:
    """Why an image is too large, for memory or for anybody's patience; "" where it is not.

    Args:
        size: rows, columns and channels of the file.
        channels: of the network's input.
        num_classes: of the network's output.
    """
    rows, columns, stored = size
    if rows * columns > MOST_PIXELS:
        return (f"has {rows}x{columns} pixels, more than {MOST_PIXELS / 1e6:.0f} million: every reading would take "
                "minutes, make it smaller")
    # float32: image, probabilities, mask; twice, since an image is blurred before it is made smaller
    needed = 2 * 4 * rows * columns * (stored + 2 * channels + 3 * num_classes)
    free = _free_memory()
    if free is None or needed <= free:
        return ""
    return (f"has {rows}x{columns} pixels and would need {needed / 1e9:.3g} GB of memory, of which {free / 1e9:.3g} GB "
            "are free: make it smaller")


def _free_memory() -> int | None:
    """Bytes that the system can give, where it says so (Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
