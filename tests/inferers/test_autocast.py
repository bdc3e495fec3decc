"""AutocastInferer: the windows in the training's precision, their mean in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from mnseg.engines.precision import amp_dtype_of
from mnseg.errors import UserError
from mnseg.inferers import AutocastInferer

TRAIN = Path(__file__).resolve().parents[2] / "bundles" / "mn_cotraining" / "configs" / "train.json"
WINDOWS = {"roi_size": (4, 4, 4), "sw_batch_size": 3, "overlap": 0.5}


class Watched(nn.Module):
    """A convolution that notes in what it computed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv3d(1, 2, 3, padding=1)
        self.seen: set[torch.dtype] = set()

    def forward(self, x: Tensor) -> Tensor:
        found = self.layer(x)
        self.seen.add(found.dtype)
        return found


@pytest.fixture
def scan() -> Tensor:
    return torch.rand((1, 1, 7, 6, 5), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_windows_are_computed_in_bfloat16_and_averaged_in_float32(scan):
    network = Watched()
    found = AutocastInferer(**WINDOWS, amp_dtype="bfloat16")(scan, network)
    assert network.seen == {torch.bfloat16}
    assert found.dtype is torch.float32

    def rounded(windows: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(windows).float()

    torch.testing.assert_close(found, SlidingWindowInferer(**WINDOWS)(scan, rounded), rtol=0, atol=0)
    full = SlidingWindowInferer(**WINDOWS)(scan, network)
    assert 0 < (found - full).abs().max() < 0.02
    assert (found != found.bfloat16().float()).any()  # the mean of several windows is not rounded again


@torch.no_grad()
@pytest.mark.parametrize("name", [None, "auto"])
def test_without_mixed_precision_it_is_monais(scan, monkeypatch, name):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)  # a processor without bfloat16
    network = Watched()
    found = AutocastInferer(**WINDOWS, amp_dtype=name)(scan, network)
    assert network.seen == {torch.float32}
    assert torch.equal(found, SlidingWindowInferer(**WINDOWS)(scan, network))


def test_an_unknown_name_is_refused(scan):
    with pytest.raises(UserError, match="amp_dtype is 'half'"):
        AutocastInferer(**WINDOWS, amp_dtype="half")(scan, Watched())


@pytest.mark.parametrize("name", [None, "auto", "bfloat16"])
def test_training_validates_in_its_own_precision(name):
    parser = ConfigParser(ConfigParser.load_config_file(TRAIN))
    parser["amp_dtype"] = name
    inferer = parser.get_parsed_content("validate::inferer")
    assert amp_dtype_of(inferer.amp_dtype, "cpu") is amp_dtype_of(name, "cpu")
