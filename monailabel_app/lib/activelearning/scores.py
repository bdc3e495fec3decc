"""scores.json of a version, as the scoring step (`mnseg.score_pool`) wrote it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ScoreReader", "Scores", "newest_scores"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scores:
    """What a version says about the scans.

    Args:
        version: its name.
        disagreement: image id -> 0..1; None: neither network sees anything in it.
        features: image id -> vector, standardised over all scans and divided by the root of its length, so that a
            distance of 1 is a difference of one standard deviation in every number.
        faults: image id -> why it could not be scored.
    """

    version: str = ""
    disagreement: dict[str, float | None] = field(default_factory=dict)
    features: dict[str, np.ndarray] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, version: str, path: str | Path) -> Scores:
        """From a file.

        Raises:
            OSError, ValueError, KeyError, TypeError: it is missing or not what the scoring step writes.
        """
        scans = json.loads(Path(path).read_text(encoding="utf-8"))["scans"]
        scored = {name: record["disagreement"] for name, record in scans.items() if "disagreement" in record}
        vectors = {name: record["features"] for name, record in scans.items() if "features" in record}
        faults = {name: str(record["fault"]) for name, record in scans.items() if "fault" in record}
        return cls(version, {k: None if v is None else float(v) for k, v in scored.items()}, _standardized(vectors),
                   faults)  # fmt: skip


def _standardized(vectors: dict[str, list[float]]) -> dict[str, np.ndarray]:
    if not vectors:
        return {}
    table = np.array(list(vectors.values()), dtype=float)  # ragged: ValueError
    if table.ndim != 2 or not np.isfinite(table).all():
        raise ValueError("the features of all scans must be equally many finite numbers")
    spread = table.std(axis=0)
    table = (table - table.mean(axis=0)) / np.where(spread > 1e-9, spread, 1) / np.sqrt(max(1, table.shape[1]))
    return dict(zip(vectors, table, strict=True))


class ScoreReader:
    """The newest scores, read again only when the file is another one. A broken file counts as none.

    Args:
        source: gives a version's name and its scores.json, None when there are no scores; such as `newest_scores`.
            Called at every request.
    """

    def __init__(self, source: Callable[[], tuple[str, Path] | None]) -> None:
        self.source = source
        self._lock = threading.Lock()
        self._key: tuple[str, str, int, int] | None = None
        self._scores: Scores | None = None

    def __call__(self) -> Scores | None:
        """None when there are none."""
        found = self.source()
        if found is None:
            return None
        version, path = found
        try:
            stat = Path(path).stat()
        except OSError:
            return None
        key = (version, str(path), stat.st_mtime_ns, stat.st_size)
        with self._lock:
            if key != self._key:
                self._key, self._scores = key, _read_or_none(version, path)
            return self._scores


def newest_scores(registry: Any) -> tuple[str, Path] | None:
    """Name and scores of the published version; as long as it has none, of the newest version that has.

    A version is scored after it is published, which takes a while or fails. One that is kept back knows the scans too.
    """
    published = registry.published()
    if published is not None and published.scores.is_file():
        return published.name, published.scores
    return next(((version.name, version.scores) for version in reversed(registry.versions())
                 if version.scores.is_file()), None)


def _read_or_none(version: str, path: str | Path) -> Scores | None:
    try:
        return Scores.read(version, path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s is unusable (%s: %s): scans are offered without scores", path, type(error).__name__, error)
        return None
