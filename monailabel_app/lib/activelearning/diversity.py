"""An order of scans: the most interesting first, but no look-alikes one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from scipy.spatial.distance import cdist

__all__ = ["Ranked", "drawn", "greedy_order", "spread_order", "typical_distance"]

SAMPLE = 400


@dataclass(frozen=True)
class Ranked:
    """A scan in an order.

    Args:
        name: image id.
        value: interest after the discount for look-alikes.
        distance: to the nearest scan that is labeled, taken, or before it in the order, in units of the distance at
            which scans usually have their nearest neighbor; None: not known.
    """

    name: str
    value: float
    distance: float | None


def drawn(name: str) -> float:
    """A number in (0, 1) that is drawn for a scan once and for all, from its name."""
    return (int.from_bytes(sha256(name.encode()).digest()[:6], "big") + 0.5) / 2**48


def typical_distance(features: Mapping[str, np.ndarray]) -> float:
    """Median distance of a scan to its nearest neighbor; of at most ``SAMPLE`` scans, to all.

    1 when there are fewer than two scans or half of them are equal.
    """
    if len(features) < 2:
        return 1.0
    names = sorted(features, key=drawn)
    table = np.array([features[name] for name in names])
    distances = cdist(table[:SAMPLE], table)
    distances[np.arange(len(distances)), np.arange(len(distances))] = np.inf
    return float(np.median(distances.min(axis=1))) or 1.0


def greedy_order(
    interest: Mapping[str, float], features: Mapping[str, np.ndarray], taken: Sequence[str], typical: float
) -> Iterator[Ranked]:
    """Always the scan with the largest ``interest * (1 - exp(-2 (d / typical)^2))`` next; lazily, one after another.

    d is the distance to the nearest scan that is taken or stands before it. So the interest decides between scans that
    are as unlike as usual (d = typical: 0.86 of it is left), a near copy is worth almost nothing for now, and its worth
    does not depend on the scale of either number. A scan without features gets the median discount of the others: being
    unknown is neither a merit nor a fault.

    Args:
        interest: of the scans to order, at least 0.
        features: standardised vectors, also of taken scans; some may be missing.
        taken: labeled scans, and those that are open.
        typical: from ``typical_distance``.
    """
    names = sorted(interest)
    values = np.array([interest[name] for name in names], dtype=float)
    has = np.array([name in features for name in names], dtype=bool)
    width = len(next(iter(features.values()))) if features else 0
    table = np.array([features.get(name, np.zeros(width)) for name in names]).reshape(len(names), width)
    nearest = np.full(len(names), np.inf)
    near = [features[name] for name in taken if name in features]
    if near and len(names):
        nearest = cdist(table, np.array(near)).min(axis=1)
    left = np.ones(len(names), dtype=bool)
    while left.any():
        discount = 1 - np.exp(-2 * (nearest / typical) ** 2)
        known = left & has
        discount[~has] = np.median(discount[known]) if known.any() else 1.0
        worth = np.where(left, values * discount, -np.inf)
        # Of scans that are worth nothing now, all of them copies say, the interest alone decides, then the name.
        best = max(np.flatnonzero(left), key=lambda i: (worth[i], values[i]))
        distance = float(nearest[best] / typical) if has[best] and np.isfinite(nearest[best]) else None
        yield Ranked(names[best], float(worth[best]), distance)
        left[best] = False
        if has[best]:
            nearest = np.minimum(nearest, cdist(table, table[best : best + 1])[:, 0])


def spread_order(names: Sequence[str], taken: Sequence[str]) -> Iterator[str]:
    """Without scores: always the scan that is farthest, in the sorted list of all names, from those taken or given.

    Names carry patient, site and date more often than not, so neighbors in the list are alike. With nothing taken the
    first name comes first.
    """
    every = sorted({*names, *taken})
    place = {name: float(i) for i, name in enumerate(every)}
    order = sorted(names)
    at = np.array([place[name] for name in order])
    nearest = np.full(len(order), np.inf)
    for name in taken:
        nearest = np.minimum(nearest, np.abs(at - place[name]))
    left = np.ones(len(order), dtype=bool)
    while left.any():
        best = int(np.argmax(np.where(left, nearest, -1.0)))
        yield order[best]
        left[best] = False
        nearest = np.minimum(nearest, np.abs(at - at[best]))
