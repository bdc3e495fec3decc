"""What crosses between a site and the server, as a file: named tensors, and one number."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.fl.utils.constants import FlStatistics, WeightType
from monai.fl.utils.exchange_object import ExchangeObject
from torch import Tensor

from mnseg.files import atomic_save

__all__ = ["read_update", "write_update"]


def write_update(update: ExchangeObject, path: str | Path) -> Path:
    """Write a site's weights and its number of labeled scans, and nothing else of the object."""
    count = int(update.statistics[FlStatistics.DATA_COUNT])
    return atomic_save({"weights": bare(update.weights), "data_count": count}, path)


def read_update(path: str | Path) -> ExchangeObject:
    """What ``write_update`` wrote; nothing is unpickled."""
    content = torch.load(path, weights_only=True)
    return ExchangeObject(
        weights=content["weights"],
        weight_type=WeightType.WEIGHTS,
        statistics={FlStatistics.DATA_COUNT: content["data_count"]},
    )


def bare(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Plain tensors with memory of their own: a MetaTensor would carry its scan's path, a view what it was cut from."""
    return {name: value.detach().as_subclass(Tensor).cpu().clone() for name, value in weights.items()}
