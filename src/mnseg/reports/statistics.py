"""Paired comparison of two methods on the same cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap

from mnseg.errors import UserError

__all__ = ["paired_difference"]


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean of ``a - b`` over cases with a bootstrap interval (bias-corrected and accelerated, Efron 1987).

    Cases are resampled, not single voxels or classes: give one value per case. Pairs in which one value is NaN
    (a distance to an empty mask) are left out. The interval is (nan, nan) below two pairs and shrinks to the mean
    if all differences are equal.

    Args:
        a, b: one value per case, in the same order of cases.
        confidence: coverage of the interval, between 0 and 1.
        resamples: number of bootstrap samples.
        seed: of the resampling; equal input gives an equal interval.

    Returns:
        (mean, low, high) in the unit of the input; the mean is NaN without a pair.

    Raises:
        UserError: if `a` and `b` differ in length.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape or a.ndim != 1:
        raise UserError(f"paired difference of {a.shape} and {b.shape} values: give one value per case in both lists")
    difference = (a - b)[np.isfinite(a - b)]
    if len(difference) == 0:
        return float("nan"), float("nan"), float("nan")
    mean = float(difference.mean())
    if len(difference) < 2:
        return mean, float("nan"), float("nan")
    if np.ptp(difference) == 0:  # BCa divides by the spread
        return mean, mean, mean
    interval = bootstrap(
        (difference,),
        np.mean,
        confidence_level=confidence,
        n_resamples=resamples,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return mean, float(interval.low), float(interval.high)
