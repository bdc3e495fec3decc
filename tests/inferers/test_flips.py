"""FlipInferer: the mean over mirror images, counted by hand, and never a left that becomes a right."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer
from torch import nn

from mnseg.errors import UserError
from mnseg.inferers import FlipInferer

SETTINGS = {"roi_size": (6, 5, 4), "sw_batch_size": 2, "overlap": 0.5}
OVERLAY = Path(__file__).resolve().parents[2] / "configs" / "inference" / "flips.json"


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv3d(1, 3, 3, padding=1).double()


def test_mean_of_all_mirror_images() -> None:
    volume, net, plain = torch.randn(2, 1, 9, 8, 7).double(), network(), SlidingWindowInferer(**SETTINGS)
    images = [axes for number in range(3) for axes in itertools.combinations((2, 4), number)]
    with torch.no_grad():
        expected = sum(plain(volume.flip(axes), net).flip(axes).softmax(1) for axes in images) / 4
        found = FlipInferer(**SETTINGS, flip_axes=[0, 2])(volume, net)
    torch.testing.assert_close(found.exp(), expected)


def test_a_mirrored_volume_gives_the_mirrored_answer() -> None:
    volume, net, inferer = torch.randn(1, 1, 9, 8, 7).double(), network(), FlipInferer(**SETTINGS)
    with torch.no_grad():
        torch.testing.assert_close(inferer(volume.flip(2, 3), net), inferer(volume, net).flip(2, 3))


def test_sides_are_not_exchanged() -> None:
    names = ["background", "left kidney", "right kidney"]
    assert FlipInferer(**SETTINGS, class_names=names).flip_axes == [1, 2]
    assert FlipInferer(**SETTINGS, class_names=names, orientation="AIL").flip_axes == [0, 1]


def test_without_an_axis_it_is_monais() -> None:
    volume, net = torch.randn(1, 1, 9, 8, 7).double(), network()
    with torch.no_grad():
        found = FlipInferer(**SETTINGS, flip_axes=[])(volume, net)
        assert torch.equal(found, SlidingWindowInferer(**SETTINGS)(volume, net))


def test_no_such_axis() -> None:
    with pytest.raises(UserError, match=r"flip_axes is \[3\]"):
        FlipInferer(**SETTINGS, flip_axes=[3])


def test_the_overlay_makes_it() -> None:
    parser = ConfigParser()
    parser.read_config(str(OVERLAY))
    parser.update({"patch_size": [6, 5, 4], "sw_batch_size": 1, "overlap": 0.5, "orientation": "RAS",
                   "class_names": ["background", "left atrium"]})  # fmt: skip
    assert parser.get_parsed_content("inferer").flip_axes == [1, 2]
