"""OpenVINOInferer: the answer is MONAI's, whatever the network, the weights and the thread."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import BasicUNet, DynUNet
from torch import nn

from mnseg.errors import UserError
from mnseg.inferers import openvino as module
from mnseg.inferers.openvino import OpenVINOInferer

SETTINGS = {"roi_size": (32, 32, 32), "sw_batch_size": 2, "overlap": 0.5}
OVERLAY = Path(__file__).resolve().parents[2] / "configs" / "inference" / "openvino.json"

needs_openvino = pytest.mark.skipif(not module.has_openvino, reason="openvino is not installed")


def unet(features: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return BasicUNet(3, 1, 3, features=(features, features, 8, 8, 16, features)).eval()


def dyn_unet() -> nn.Module:
    torch.manual_seed(0)
    return DynUNet(3, 1, 3, (3, 3, 3), (1, 2, 2), (2, 2), filters=(4, 8, 16)).eval()


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@needs_openvino
@pytest.mark.parametrize("make", [unet, dyn_unet])
def test_logits_are_those_of_monai(make, threads):
    network, volume = make(), torch.randn(1, 1, 40, 34, 49)
    with torch.inference_mode():
        expected = SlidingWindowInferer(**SETTINGS)(volume, network)
        found = OpenVINOInferer(**SETTINGS)(volume, network)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert (found.argmax(1) == expected.argmax(1)).float().mean() > 0.9999


@needs_openvino
def test_changed_weights_are_compiled_anew_and_equal_ones_are_not(monkeypatch, threads):
    made, original = [], module._compile
    monkeypatch.setattr(module, "_compile", lambda *args: (made.append(args[1]), original(*args))[1])
    network, volume = unet(), torch.randn(1, 1, 32, 32, 64)
    inferer = OpenVINOInferer(**SETTINGS)
    with torch.no_grad():
        inferer(volume, network)
        inferer(volume, network)
        one, two = (1, 1, 32, 32, 32), (2, 1, 32, 32, 32)
        assert made == ([two, one] if threads == 1 else [one]), "a shape each; side by side, one window's"
        network.load_state_dict({name: value * 0.5 for name, value in network.state_dict().items()})
        torch.testing.assert_close(inferer(volume, network), SlidingWindowInferer(**SETTINGS)(volume, network),
                                   rtol=1e-3, atol=1e-4)  # fmt: skip


@needs_openvino
def test_threads_share_it():
    network, volumes = unet(), [torch.randn(1, 1, 32, 32, 32) for _ in range(4)]
    inferer, plain = OpenVINOInferer(**SETTINGS), SlidingWindowInferer(**SETTINGS)

    def run(inferer, volume):
        with torch.no_grad():
            return inferer(volume, network)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda volume: run(inferer, volume), volumes))
    for volume, logits in zip(volumes, found, strict=True):
        torch.testing.assert_close(logits, run(plain, volume), rtol=1e-3, atol=1e-4)


# As the app does: two shapes are compiled, the weights change, a child process ends, and Python hears of it.
CHILDREN_END = """
import faulthandler, signal, subprocess
import torch
from monai.networks.nets import BasicUNet
from mnseg.inferers.openvino import OpenVINOInferer

faulthandler.enable()
signal.signal(signal.SIGCHLD, lambda *_: None)
network = BasicUNet(3, 1, 2, features=(4, 4, 4, 4, 4, 4)).eval()
inferer = OpenVINOInferer(roi_size=(32, 32, 32), sw_batch_size=2, overlap=0.5)
with torch.no_grad():
    for _ in range(3):
        inferer(torch.zeros(1, 1, 32, 32, 64), network)
        subprocess.run(["true"])
        network.load_state_dict({name: value * 0.5 for name, value in network.state_dict().items()})
compiled = inferer._prepared[1].runs
assert len(compiled) == 2 and None not in compiled.values(), compiled
del inferer, compiled
subprocess.run(["true"])
print("alive")
"""


@needs_openvino
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="signal stacks are Linux's")
def test_signals_are_survived_after_networks_were_let_go():
    done = subprocess.run([sys.executable, "-c", CHILDREN_END], env={**os.environ, "OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr[-2000:]


@needs_openvino
def test_networks_of_several_threads_are_all_compiled(caplog):
    networks = [unet() for _ in range(4)]

    def compiled(network):
        inferer = OpenVINOInferer(**SETTINGS)
        with torch.no_grad():
            inferer(torch.randn(1, 1, 32, 32, 64), network)
        return inferer._prepared[1]

    with ThreadPoolExecutor(4) as pool, caplog.at_level(logging.WARNING):
        made = list(pool.map(compiled, networks))
    assert all(run is not None for each in made for run in {**each.runs, **each.shared}.values()), caplog.text


class Strange(nn.Module):
    """A part of it is computed where no compiler looks: it would be taken for a constant."""

    def forward(self, windows):
        return torch.cat([windows, torch.from_numpy(windows.numpy() + 1)], dim=1)


class Refused(nn.Module):
    def forward(self, windows):
        if torch.jit.is_tracing():
            raise RuntimeError("not for tracing")
        return torch.cat([windows, windows + 1], dim=1)


@needs_openvino
@pytest.mark.parametrize("network", [Strange(), Refused()])
def test_what_openvino_does_not_know_torch_runs(caplog, network):
    volume = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        found = OpenVINOInferer(**SETTINGS)(volume, network)
    torch.testing.assert_close(found, torch.cat([volume, volume + 1], dim=1))


@needs_openvino
@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_where_the_cpu_has_it(monkeypatch, native):
    monkeypatch.setattr(module, "amp_dtype_of", lambda *_: torch.bfloat16 if native else None)
    hints, core = [], module._core()

    class Core:
        def compile_model(self, model, device, settings):
            hints.append(settings["INFERENCE_PRECISION_HINT"])
            return core.compile_model(model, device, settings)

    monkeypatch.setattr(module, "_core", Core)
    network, volume = unet(), torch.randn(1, 1, 40, 34, 49)
    with torch.inference_mode():
        expected = SlidingWindowInferer(**SETTINGS)(volume, network)
        found = OpenVINOInferer(**SETTINGS, bfloat16=True)(volume, network)
    assert set(hints) == {"bf16" if native else "f32"}
    assert (found - expected).norm() < (0.03 if native else 1e-3) * expected.norm()


@needs_openvino
def test_a_wrong_network_is_found_out_in_bfloat16_too(monkeypatch, caplog):
    monkeypatch.setattr(module, "amp_dtype_of", lambda *_: torch.bfloat16)
    volume = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        found = OpenVINOInferer(**SETTINGS, bfloat16=True)(volume, Strange())
    torch.testing.assert_close(found, torch.cat([volume, volume + 1], dim=1))
    assert "logits are" in caplog.text


@needs_openvino
def test_with_gradients_torch_runs_it():
    network, volume = unet(), torch.randn(1, 1, 32, 32, 32)
    assert OpenVINOInferer(**SETTINGS)(volume, network).requires_grad


@needs_openvino
def test_the_overlay_fits_the_bundles_configs():
    root = OVERLAY.parents[2] / "bundles" / "mn_cotraining" / "configs"
    for name in ("inference.json", "evaluate.json"):
        parser = ConfigParser()
        parser.read_config([str(root / name), str(OVERLAY)])
        inferer = parser.get_parsed_content("inferer")
        assert isinstance(inferer, OpenVINOInferer) and inferer.overlap == parser.get_parsed_content("overlap")


def test_without_openvino_it_is_said(monkeypatch):
    monkeypatch.setattr(module, "has_openvino", False)
    with pytest.raises(UserError, match=r"pip install 'mnseg\[openvino\]'"):
        OpenVINOInferer(**SETTINGS)
