"""A stock evaluator with one metric, for validation while training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from monai.engines import SupervisedEvaluator
from monai.handlers import IgniteMetricHandler, from_engine
from monai.inferers import Inferer
from monai.metrics import compute_dice
from monai.metrics.utils import do_metric_reduction
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
            dice = compute_dice(p[None], t[None].to(p.device), include_background=False)
            self.values.append(dice.to(t.device))

    def get_buffer(self) -> Tensor:
        return torch.cat(self.values)

    def aggregate(self) -> Tensor:
        return do_metric_reduction(self.get_buffer(), "mean")[0]


def dice_evaluator(
    device: torch.device | str, data_loader: DataLoader, network: nn.Module, inferer: Inferer, postprocessing: Callable
) -> SupervisedEvaluator:
    """``SupervisedEvaluator`` whose key metric is MONAI's mean Dice over the foreground classes.

    It is the mean over the cases of this process, computed on the training grid (after orientation and spacing);
    evaluate.json measures on the scan's own grid.
    """
    metric = IgniteMetricHandler(_OwnCases(), output_transform=from_engine(["pred", "label"]))
    return SupervisedEvaluator(
        device=device,
        val_data_loader=data_loader,
        network=network,
        inferer=inferer,
        postprocessing=postprocessing,
        key_val_metric={"mean_dice": metric},
    )
