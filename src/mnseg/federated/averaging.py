"""Federated averaging."""

from __future__ import annotations

from collections.abc import Mapping

from monai.fl.utils.constants import FlStatistics
from monai.fl.utils.exchange_object import ExchangeObject
from torch import Tensor

from mnseg.errors import UserError

__all__ = ["federated_average"]


def federated_average(updates: Mapping[str, ExchangeObject]) -> dict[str, Tensor]:
    """``w = sum_k n_k / n * w_k`` (FedAvg, McMahan et al., AISTATS 2017, Algorithm 1).

    ``n_k`` is site k's number of labeled scans: labels are what the networks learn from, and the numbers of steps, the
    other usual weight, are equal at all sites. Sums are taken in double precision; whole numbers (counters of batch
    norms) are rounded.

    Args:
        updates: site -> its weights, with ``FlStatistics.DATA_COUNT`` among its statistics.

    Raises:
        UserError: when two sites' weights differ in names or shapes.
    """
    first, reference = next(iter(updates.items()))
    for site, update in updates.items():
        _require_alike(reference.weights, update.weights, first, site)
    counts = [update.statistics[FlStatistics.DATA_COUNT] for update in updates.values()]
    average = {}
    for name, like in reference.weights.items():
        total = sum(update.weights[name].double() * n for update, n in zip(updates.values(), counts, strict=True))
        mean = total / sum(counts)
        average[name] = (mean if like.is_floating_point() else mean.round()).to(like.dtype)
    return average


def _require_alike(a: Mapping[str, Tensor], b: Mapping[str, Tensor], site_a: str, site_b: str) -> None:
    shapes_a, shapes_b = ({name: tuple(value.shape) for name, value in state.items()} for state in (a, b))
    for name in [*shapes_a, *shapes_b]:
        if shapes_a.get(name) != shapes_b.get(name):
            raise UserError(
                f"Sites {site_a} and {site_b} have different networks ({name}: {shapes_a.get(name, 'missing')} and "
                f"{shapes_b.get(name, 'missing')}): give all sites the same configuration."
            )
