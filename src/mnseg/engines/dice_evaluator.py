"""A stock evaluator with one metric, for validation while training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.engines import SupervisedEvaluator
from monai.handlers import IgniteMetricHandler, from_engine
from monai.inferers import Inferer
from monai.metrics import compute_dice
from monai.metrics.utils import do_metric_reduction
from monai.transforms import Compose
from torch import Tensor, nn
from torch.utils.data import DataLoader

__all__ = ["dice_evaluator"]


class _OwnCases:
    """Mean Dice over the cases of this process.

    MONAI's ``DiceMetric`` gathers the cases of all processes by itself, and waits for ever for one without a case.
    """

    def __init__(self) -> None:
        self.values: list[Tensor] = []

    def reset(self) -> None:
        self.values = []

    def __call__(self, y_pred: Sequence[Tensor], y: Sequence[Tensor]) -> None:
        for p, t in zip(y_pred, y, strict=True):
            # Scores for which the device has no memory come from the host (AutocastInferer).
            undrawn = t[None, 1:].isnan().flatten(2).any(dim=2)
            dice = compute_dice(p[None], t[None].to(p.device), include_background=False, ignore_empty=False)
            self.values.append(dice.to(t.device).masked_fill(undrawn, torch.nan))

    def get_buffer(self) -> Tensor:
        return torch.cat(self.values)

    def aggregate(self) -> Tensor:
        return do_metric_reduction(self.get_buffer(), "mean")[0]


def _undrawn_to_nan(item: dict[str, Any]) -> dict[str, Any]:
    """One-hot labels (K, H, W, D) become nan in the channels that were not drawn."""
    if "ignored_mask" not in item:
        return item
    mask = torch.tensor([bool(ignored) for ignored in item["ignored_mask"]], device=item["label"].device)
    mask = mask.reshape(-1, *[1] * (item["label"].ndim - 1))
    return item | {"label": torch.where(mask, torch.nan, item["label"])}


def dice_evaluator(
    device: torch.device | str, data_loader: DataLoader, network: nn.Module, inferer: Inferer, postprocessing: Callable
) -> SupervisedEvaluator:
    """``SupervisedEvaluator`` whose key metric is MONAI's mean Dice over the foreground classes.

    It is the mean over the cases of this process, computed on the training grid (after orientation and spacing);
    evaluate.json measures on the scan's own grid. As there, a structure that a scan does not have counts 1, or 0 where
    it is predicted; those of an item's "ignored_mask" are left out.
    """
    metric = IgniteMetricHandler(_OwnCases(), output_transform=from_engine(["pred", "label"]))
    return SupervisedEvaluator(
        device=device,
        val_data_loader=data_loader,
        network=network,
        inferer=inferer,
        postprocessing=Compose([postprocessing, _undrawn_to_nan]),
        key_val_metric={"mean_dice": metric},
    )
