"""Counting memory on tensors without data: sums by hand, and what a real step allocates."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from mnseg.networks import folded_norm
from mnseg.planning.live_memory import without_data
from one_thread import one_thread

_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)
KIB = 1024


def test_the_sum_is_the_one_computed_by_hand():
    with without_data([]) as memory, memory:
        a = torch.empty(256, 64)  # 64 KiB
        b = a * 2  # 128 KiB at once
        view = b.view(-1)[:10]
        del a, b
        assert (memory.peak, memory.live) == (128 * KIB, 64 * KIB), "a view keeps its tensor alive"
        del view
        half = torch.empty(256, 64, dtype=torch.bfloat16)
        half.add_(1)
        assert (memory.peak, memory.live) == (128 * KIB, 32 * KIB)


def test_networks_count_with_their_shared_parameters_once():
    first, second = nn.Linear(256, 64, bias=False), nn.Linear(256, 64, bias=False)
    second.weight = first.weight
    with without_data([first, second]) as memory:
        assert memory.live == 64 * KIB
        assert second.weight is first.weight and isinstance(first.weight, FakeTensor)


def test_small_tensors_that_are_made_inside_have_data():
    with without_data([]) as memory, memory:
        positions = torch.arange(1, 9, 4)
        assert positions.tolist() == [1, 5] and 0 <= int(torch.randint(3, ())) < 3
        assert torch.empty(1, 10)[:, positions].shape == (1, 2)


def test_autocast_leaves_in_full_precision_what_a_gpu_does():
    with without_data([]) as memory, memory, torch.autocast("cpu", torch.bfloat16):
        x = torch.empty(2, 8) @ torch.empty(8, 8)
        assert x.dtype == torch.bfloat16
        assert nn.functional.layer_norm(x, (8,)).dtype == x.softmax(dim=1).dtype == torch.float32
        network = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
        checkpoint(network, x.requires_grad_(), use_reentrant=False).sum().backward()
        assert x.grad.dtype == torch.bfloat16


def test_a_gpus_norms_are_not_folded():
    norm, tensor = nn.BatchNorm2d(2).eval(), torch.zeros(1)
    with without_data([]) as memory, memory:
        assert folded_norm._folds(norm, tensor)
        with torch.autocast("cpu", torch.bfloat16):
            assert not folded_norm._folds(norm, tensor)
    with torch.autocast("cpu", torch.bfloat16):
        assert folded_norm._folds(norm, tensor)


def step(network: nn.Module, optimizer: torch.optim.Optimizer, image: torch.Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    network(image).softmax(dim=1).square().mean().backward()
    optimizer.step()


def allocated(network: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Most bytes that a real second step has at once, by torch's profiler: what was there before, and what it takes."""
    step(network, optimizer, torch.randn(2, 1, 32, 32, 32))
    tensors = [*network.parameters(), *(parameter.grad for parameter in network.parameters())]
    tensors += [value for state in optimizer.state.values() for value in state.values()]
    live = peak = sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step(network, optimizer, torch.randn(2, 1, 32, 32, 32))
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def counted(network: nn.Module, make: type[torch.optim.Optimizer]) -> int:
    with without_data([network]) as memory, memory:
        optimizer = make(network.parameters())
        step(network, optimizer, torch.randn(2, 1, 32, 32, 32))
        memory.peak = memory.live
        step(network, optimizer, torch.randn(2, 1, 32, 32, 32))
    return memory.peak


def test_as_much_as_a_real_step_allocates():
    # Whole vectors of channels: fewer are filled up inside a CPU's convolutions, and those copies are not counted.
    network = BasicUNet(3, 1, 2, features=(16, 16, 32, 32, 32, 16))
    real = allocated(network, torch.optim.AdamW(network.parameters()))
    found = counted(network, torch.optim.AdamW)
    assert found == pytest.approx(real, rel=0.02) and real > 2**20


def test_no_mode_is_left_behind():
    before = torch.layer_norm, torch.Tensor.softmax
    with pytest.raises(ValueError, match="stop"), without_data([]) as memory, memory:
        assert torch.layer_norm is not before[0] and isinstance(torch.empty(8192), FakeTensor)
        raise ValueError("stop")
    assert not isinstance(torch.empty(8192), FakeTensor)
    assert (torch.layer_norm, torch.Tensor.softmax) == before
