"""BFloat16Inferer: MONAI's masks but for rounding, in bfloat16 where the device has it, and nowhere else."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import BasicUNet, DynUNet
from torch import nn

from mnseg.inferers import BFloat16Inferer, bfloat16

SETTINGS = {"roi_size": (32, 32, 32), "sw_batch_size": 2, "overlap": 0.5}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=[torch.bfloat16, None], ids=["with instructions", "without"])
def dtype(request, monkeypatch):
    monkeypatch.setattr(bfloat16, "amp_dtype_of", lambda name, device: request.param)
    return request.param


def unet() -> nn.Module:
    torch.manual_seed(0)
    return BasicUNet(3, 1, 3, features=(4, 4, 8, 8, 16, 4)).eval()


def dyn_unet() -> nn.Module:
    torch.manual_seed(0)
    return DynUNet(3, 1, 3, (3, 3, 3), (1, 2, 2), (2, 2), filters=(4, 8, 16)).eval()


@pytest.mark.parametrize("make", [unet, dyn_unet])
def test_logits_are_those_of_monai_but_for_rounding(make, dtype):
    network, volume = make(), torch.randn(1, 1, 40, 34, 49)
    kept = copy.deepcopy(network.state_dict())
    strides = [parameter.stride() for parameter in network.parameters()]
    with torch.inference_mode():
        expected = SlidingWindowInferer(**SETTINGS)(volume, network)
        found = BFloat16Inferer(**SETTINGS)(volume, network)
    assert found.dtype is torch.float32
    off = float((found - expected).norm() / expected.norm())
    assert (off == 0) if dtype is None else (0 < off < 0.02)
    assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.98
    # Nothing has happened to the network, which is used elsewhere too.
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    assert [parameter.stride() for parameter in network.parameters()] == strides
    assert {type(module).__module__.split(".")[0] for module in network.modules()} <= {"monai", "torch"}


def test_changed_weights_are_taken_up(monkeypatch):
    monkeypatch.setattr(bfloat16, "amp_dtype_of", lambda *_: torch.bfloat16)
    network, volume, inferer = unet(), torch.randn(1, 1, 32, 32, 64), BFloat16Inferer(**SETTINGS)
    with torch.no_grad():
        before = inferer(volume, network)
        ready = inferer._prepared
        inferer(volume, network)
        assert inferer._prepared is ready, "equal weights are prepared once"
        network.load_state_dict({name: value * 0.5 for name, value in network.state_dict().items()})
        after, expected = inferer(volume, network), SlidingWindowInferer(**SETTINGS)(volume, network)
    assert (after - expected).norm() < 0.02 * expected.norm()
    assert (after - before).norm() > 0.1 * expected.norm()


def test_threads_share_it(dtype):
    network, volumes = unet(), [torch.randn(1, 1, 32, 32, 32) for _ in range(4)]
    inferer = BFloat16Inferer(**SETTINGS)

    def run(volume):
        with torch.inference_mode():
            return inferer(volume, network)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, volumes))
    assert all(torch.equal(run(volume), logits) for volume, logits in zip(volumes, found, strict=True))


def test_with_gradients_it_is_monai(dtype):
    network, volume = unet(), torch.randn(1, 1, 32, 32, 32)
    found = BFloat16Inferer(**SETTINGS)(volume, network)
    assert found.requires_grad and torch.equal(found, SlidingWindowInferer(**SETTINGS)(volume, network))


class Shifted(nn.Module):
    """Several outputs and an argument, as MONAI's inferer passes them through."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3, padding=1)

    def forward(self, windows, shift=0.0):
        return self.conv(windows) + shift, self.conv(windows).relu()


def test_arguments_and_several_outputs_pass_through(dtype):
    network, volume = Shifted().eval(), torch.randn(1, 1, 32, 32, 48)
    with torch.no_grad():
        expected = SlidingWindowInferer(**SETTINGS)(volume, network, shift=3.0)
        found = BFloat16Inferer(**SETTINGS)(volume, network, shift=3.0)
    assert len(found) == 2 and all((a - b).norm() <= 0.05 * b.norm() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("change", [lambda network: network.train(), lambda network: network.double()])
def test_what_it_is_not_made_for_is_left_to_monai(monkeypatch, change):
    monkeypatch.setattr(bfloat16, "amp_dtype_of", lambda *_: torch.bfloat16)
    network = change(unet())
    volume = torch.randn(1, 1, 32, 32, 32, dtype=next(network.parameters()).dtype)
    with torch.no_grad():
        found = BFloat16Inferer(**SETTINGS)(volume, network)
        assert torch.equal(found, SlidingWindowInferer(**SETTINGS)(volume, network))


def test_weights_that_were_made_in_inference_mode(monkeypatch):
    monkeypatch.setattr(bfloat16, "amp_dtype_of", lambda *_: torch.bfloat16)
    volume, inferer = torch.randn(1, 1, 32, 32, 32), BFloat16Inferer(**SETTINGS)
    with torch.inference_mode():
        network = unet()
        before = inferer(volume, network)
        for parameter in network.parameters():
            parameter.mul_(0.5)
        expected = SlidingWindowInferer(**SETTINGS)(volume, network)
        found = inferer(volume, network)
    assert (found - expected).norm() < 0.02 * expected.norm() and not torch.equal(found, before)


@pytest.mark.parametrize("name", ["bfloat16", "openvino_bfloat16"])
@pytest.mark.parametrize("config", ["inference.json", "evaluate.json"])
def test_the_overlays_fit_the_bundles_configs(name, config):
    if name.startswith("openvino"):
        pytest.importorskip("openvino")
    parser = ConfigParser()
    configs = ROOT / "bundles" / "mn_cotraining" / "configs"
    parser.read_config([str(configs / config), str(ROOT / "configs" / "inference" / f"{name}.json")])
    parser["patch_size"], parser["overlap"] = [32, 32, 16], 0.25
    inferer = parser.get_parsed_content("inferer")
    assert (tuple(inferer.roi_size), inferer.overlap) == ((32, 32, 16), 0.25)
    assert isinstance(inferer, BFloat16Inferer) == (name == "bfloat16")
