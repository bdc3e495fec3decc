"""floor.py: operations, bytes and rates against values counted by hand."""

from __future__ import annotations

import json
from argparse import Namespace

import floor
import pytest
import step
import torch
from floor import Counted, Rates, StepCounts, _shares, floor_of, measured_rates
from ignite.engine import Engine
from torch import nn
from torch.autograd import DeviceType

from mnseg.engines.precision import amp_dtype_of


def test_floor_is_the_slower_of_both():
    rates = Rates("float32", operations=100.0, bandwidth=10.0)
    assert floor_of(Counted(operations=50, saved_bytes=1, weight_bytes=1), rates)["floor_s"] == 0.5
    assert floor_of(Counted(operations=50, saved_bytes=4, weight_bytes=2), rates) == {
        "operations_s": 0.5, "bytes_s": 1.0, "floor_s": 1.0,
    }  # fmt: skip


def test_rates_are_of_this_machine():
    rates = measured_rates(torch.device("cpu"), torch.float32)
    assert 1e9 < rates.operations < 1e13 and 1e8 < rates.bandwidth < 1e12


@pytest.mark.parametrize(("product", "convolution"), [(1.0, 4.0), (4.0, 1.0)])
def test_the_rate_is_that_of_the_faster_library(monkeypatch, product, convolution):
    """A product of 2048 takes 2 * 2048^3 operations, the convolution 2 * 9 * 256^2 * 8 * 32^2."""
    seconds = iter([product, convolution, 1.0])
    monkeypatch.setattr(floor, "_best", lambda *_: next(seconds))
    rates = measured_rates(torch.device("cpu"), torch.float32)
    assert rates.operations == max(2 * 2048**3 / product, 2 * 9 * 256**2 * 8 * 32**2 / convolution)
    assert rates.bandwidth == 2 * 2**28


def test_a_convolution_and_its_backward_by_hand():
    """2 -> 3 channels, 1x1x1, on 4x4x4 voxels; the input needs no gradient: twice 2*2*3*64 operations."""
    network = nn.Conv3d(2, 3, 1, bias=False)
    frozen = nn.Conv3d(2, 2, 1, bias=False).requires_grad_(False)
    image = torch.randn(1, 2, 4, 4, 4)
    engine = Engine(lambda _, __: network(image).sum().backward())
    counts = StepCounts(lambda _: "step", lambda _: [network], lambda _: [network, frozen])
    counts.attach(engine)
    engine.run(range(2), max_epochs=1)
    row = counts.rows["step"]
    assert row.operations == 2 * (2 * 2 * 3 * 64)
    assert row.saved_bytes == image.numel() * 4, "the weight is counted apart"
    assert row.weight_bytes == 6 * 4 * 10 + 4 * 4 * 2
    assert row.shares is not None and sum(row.shares.values()) == pytest.approx(1)


def test_a_second_update_in_the_memory_of_the_first_counts_too():
    network, updates = nn.Conv3d(2, 3, 1, bias=False), 2

    def step(_, __):
        for _ in range(updates):
            network(torch.ones(1, 2, 4, 4, 4)).sum().backward()

    engine = Engine(step)
    counts = StepCounts(lambda _: "step", lambda _: [network], lambda _: [network])
    counts.attach(engine)
    engine.run(range(1), max_epochs=1)
    assert counts.rows["step"].saved_bytes == updates * 2 * 64 * 4


@pytest.mark.parametrize(("conv", "forward"), [
    (nn.Conv2d(4, 4, 3, groups=4, bias=False), 2 * 4 * 9 * 6 * 6),
    (nn.Conv2d(4, 6, 3, groups=2, bias=False), 2 * 6 * 2 * 9 * 6 * 6),
    (nn.ConvTranspose2d(4, 2, 2, stride=2, bias=False), 2 * 4 * 2 * 4 * 8 * 8),
])  # fmt: skip
def test_groups_and_transposed_convolutions_by_hand(conv, forward):
    """Forward, gradient of the input and gradient of the weight ask for the same; two samples of 8x8."""
    image = torch.randn(2, 4, 8, 8, requires_grad=True)
    engine = Engine(lambda _, __: conv(image).sum().backward())
    counts = StepCounts(lambda _: "step", lambda _: [conv], lambda _: [conv])
    counts.attach(engine)
    engine.run(range(1), max_epochs=1)
    assert counts.rows["step"].operations == 3 * 2 * forward


def test_every_kind_of_step_has_a_floor(tmp_path, capsys):
    out = tmp_path / "out.json"
    tiny = ["network_def#features=[4, 4, 8, 8, 16, 4]", "batch_size=3"]
    argv = ["--steps", "1", "--unlabeled", "2", "--unlabeled-cases", "2", "--volumes", "1", "--device", "cpu"]
    assert step.main([*argv, "--floor", "--set", *tiny, "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    rows = {row["name"]: row for row in found["rows"]}
    assert len(rows) == 7 and all(0 < row["floor_s"] < row["median_s"] for row in rows.values())
    both, alone = rows["labeled step, both"], [rows[f"labeled step, {name} alone"] for name in ("3D", "2D")]
    assert both["operations"] == sum(row["operations"] for row in alone)
    assert rows["3D student, b_u 2"]["operations"] > rows["labeled step, 3D alone"]["operations"]
    assert found["rates"]["dtype"] == ("bfloat16" if amp_dtype_of("auto", "cpu") else "float32"), "as cpu.json trains"
    assert "measured/floor" in capsys.readouterr().out


def test_on_a_gpu_a_kernel_counts_once():
    """Its operator has its time, and it is an event of its own."""
    def event(key, device, on_device):
        return Namespace(key=key, device_type=device, self_device_time_total=on_device, self_cpu_time_total=50.0)

    events = [event("aten::cudnn_convolution", DeviceType.CPU, 30.0), event("aten::copy_", DeviceType.CPU, 10.0),
              event("sm90_xmma_fprop_gemm", DeviceType.CUDA, 30.0), event("Memcpy", DeviceType.CUDA, 10.0)]  # fmt: skip
    shares = _shares(Namespace(key_averages=lambda: events))
    assert shares["convolutions and products"] == 0.75 and shares["copies"] == 0.25


def test_products_may_be_as_imprecise_as_convolutions(monkeypatch):
    """cuDNN's TF32 is on by default, that of products is off; afterwards it is as it was."""
    seen = []
    monkeypatch.setattr(floor, "_best", lambda *_: seen.append(torch.backends.cuda.matmul.allow_tf32) or 1.0)
    before = torch.backends.cuda.matmul.allow_tf32
    measured_rates(torch.device("cpu"), torch.float32)
    assert seen[:2] == [torch.backends.cudnn.allow_tf32] * 2 and len(seen) == 3
    assert torch.backends.cuda.matmul.allow_tf32 == before
