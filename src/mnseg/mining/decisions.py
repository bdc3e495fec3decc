"""What became of mined images: a CSV with a row for every component, counts, and a stop when nothing is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from mnseg.mining.miner import MinedImage, Miner

__all__ = ["count_decisions", "require_some_kept", "write_decisions"]


def write_decisions(mined: Iterable[MinedImage], path: str | Path) -> Path:
    """Write ``path`` (CSV), whole or not at all; an image without components has one row too."""
    raise NotImplementedError


def count_decisions(mined: Iterable[MinedImage]) -> Counter[str]:
    """How many images met each decision."""
    return Counter(image.decision for image in mined)


def require_some_kept(counts: Mapping[str, int], miner: Miner) -> None:
    """Raise a ``UserError`` with the counts and the setting to change when no image was kept."""
    raise NotImplementedError
