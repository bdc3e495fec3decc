"""Validation while training: what counts in the mean Dice."""

from __future__ import annotations

import pytest
import torch
from monai.data import DataLoader
from monai.inferers import SimpleInferer
from monai.transforms import AsDiscreted, Compose
from torch import nn

from mnseg.engines import dice_evaluator


def item(label: list[int], predicted: list[int], **more) -> dict:
    """A scan of one row of voxels; the network hands the image on as its scores."""
    scores = nn.functional.one_hot(torch.tensor(predicted), 3).T.float()
    return {"image": scores[:, :, None, None], "label": torch.tensor(label)[None, :, None, None], **more}


def mean_dice(*items: dict) -> float:
    one_hot = Compose([AsDiscreted(keys=["pred", "label"], argmax=[True, False], to_onehot=3)])
    loader = DataLoader(list(items), batch_size=1)
    evaluator = dice_evaluator("cpu", loader, nn.Identity(), SimpleInferer(), one_hot)
    evaluator.run()
    return evaluator.state.metrics["mean_dice"]


def test_a_structure_that_was_not_drawn_is_not_counted():
    """MONAI averages the classes of a case, then the cases."""
    complete = item([0, 1, 1, 2], [0, 1, 0, 2])  # Dice of class 1: 2/3, of class 2: 1
    partial = item([0, 1, 1, 0], [0, 1, 1, 2], ignored=[2], ignored_mask=[False, False, True])  # class 1: 1
    assert mean_dice(complete) == pytest.approx((2 / 3 + 1) / 2)
    assert mean_dice(complete, partial) == pytest.approx(((2 / 3 + 1) / 2 + 1) / 2)
    assert mean_dice(partial, complete, partial) == pytest.approx((1 + (2 / 3 + 1) / 2 + 1) / 3)
