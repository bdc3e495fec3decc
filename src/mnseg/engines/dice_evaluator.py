"""A stock evaluator with one metric, for validation while training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.engines import SupervisedEvaluator
from monai.handlers import MeanDice, from_engine
from monai.inferers import Inferer
from torch import nn
from torch.utils.data import DataLoader

__all__ = ["dice_evaluator"]


def dice_evaluator(
    device: torch.device | str, data_loader: DataLoader, network: nn.Module, inferer: Inferer, postprocessing: Callable
) -> SupervisedEvaluator:
    """``SupervisedEvaluator`` whose key metric is MONAI's mean Dice over the foreground classes.

    It is computed on the training grid (after orientation and spacing); evaluate.json measures on the scan's own grid.
    """
    metric = MeanDice(include_background=False, output_transform=from_engine(["pred", "label"]))
    return SupervisedEvaluator(
        device=device,
        val_data_loader=data_loader,
        network=network,
        inferer=inferer,
        postprocessing=postprocessing,
        key_val_metric={"mean_dice": metric},
    )
