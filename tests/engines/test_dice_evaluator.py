"""Validation while training: what counts in the mean Dice."""

from __future__ import annotations

import pytest
import torch
from monai.data import DataLoader
from monai.inferers import Inferer, SimpleInferer, SlidingWindowInferer
from monai.transforms import AsDiscreted, Compose
from torch import nn

from mnseg.engines import dice_evaluator
from mnseg.inferers import AutocastInferer
from pretend_gpu import DEVICE, on_pretend_gpu


def item(label: list[int], predicted: list[int], **more) -> dict:
    """A scan of one row of voxels; the network hands the image on as its scores."""
    scores = nn.functional.one_hot(torch.tensor(predicted), 3).T.float()
    return {"image": scores[:, :, None, None], "label": torch.tensor(label)[None, :, None, None], **more}


def mean_dice(*items: dict, device: str = "cpu", inferer: Inferer | None = None) -> float:
    one_hot = Compose([AsDiscreted(keys=["pred", "label"], argmax=[True, False], to_onehot=3)])
    loader = DataLoader(list(items), batch_size=1)
    evaluator = dice_evaluator(device, loader, nn.Identity(), inferer or SimpleInferer(), one_hot)
    evaluator.run()
    return evaluator.state.metrics["mean_dice"]


def test_a_structure_that_was_not_drawn_is_not_counted():
    """MONAI averages the classes of a case, then the cases."""
    complete = item([0, 1, 1, 2], [0, 1, 0, 2])  # Dice of class 1: 2/3, of class 2: 1
    partial = item([0, 1, 1, 0], [0, 1, 1, 2], ignored=[2], ignored_mask=[False, False, True])  # class 1: 1
    assert mean_dice(complete) == pytest.approx((2 / 3 + 1) / 2)
    assert mean_dice(complete, partial) == pytest.approx(((2 / 3 + 1) / 2 + 1) / 2)
    assert mean_dice(partial, complete, partial) == pytest.approx((1 + (2 / 3 + 1) / 2 + 1) / 3)


def test_a_structure_that_a_scan_does_not_have_counts_as_in_evaluate_json():
    """1 where nothing of it is predicted, else 0: not as if it had not been looked at."""
    quiet, loud = item([0, 1, 1, 0], [0, 1, 1, 0]), item([0, 1, 1, 0], [0, 1, 1, 2])
    assert mean_dice(quiet) == pytest.approx(1) and mean_dice(loud) == pytest.approx(0.5)
    undrawn = {"ignored": [2], "ignored_mask": [False, False, True]}
    assert mean_dice(item([0, 1, 1, 0], [0, 1, 0, 2], **undrawn)) == pytest.approx(2 / 3)


def scans() -> list[dict]:
    return [item([0, 1, 1, 2], [0, 1, 0, 2]), item([0, 1, 1, 0], [0, 1, 1, 1])]


def dice_of_scores_outside(device: str) -> tuple[float, list[str]]:
    """What is measured on a device that has room for windows, not for a volume's scores; where each was tried."""
    stock, tried = SlidingWindowInferer.__call__, []

    def short(self, inputs, *args, device=None, **kwargs):
        tried.append(str(device))
        if device is None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return stock(self, inputs, *args, device=device, **kwargs)

    SlidingWindowInferer.__call__ = short
    return mean_dice(*scans(), device=device, inferer=AutocastInferer((2, 1, 1), 2, overlap=0.5)), tried


def test_scores_for_which_a_gpu_has_no_memory_are_compared_on_the_host():
    expected = mean_dice(*scans())
    found, tried = on_pretend_gpu(dice_of_scores_outside, DEVICE)
    assert 0 < expected < 1 and found == pytest.approx(expected)
    assert tried == ["None", "cpu", "None", "cpu"]  # the next scan may be smaller
