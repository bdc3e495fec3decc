"""Instance norm with channels last: torch's numbers, sample by sample, in the layout that it was given."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import Tensor, nn

from mnseg.networks.per_sample_norm import PerSampleNorm3d

LARGE = [(2, 8, 32, 32, 16), (1, 3, 33, 32, 18), (1, 130, 26, 26, 26)]
SHAPES = [*LARGE, (1, 8, 4, 4, 8), (3, 8, 5, 3, 7), (2, 1, 4, 6, 8), (2, 200, 3, 2, 2), (2, 3, 8, 8, 8)]


def both(channels: int, affine: bool, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    stock = nn.InstanceNorm3d(channels, affine=affine, dtype=dtype)
    for parameter in stock.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    ours = copy.deepcopy(stock)
    ours.__class__ = PerSampleNorm3d
    return stock, ours


def volumes(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """Samples and channels of different mean and spread."""
    spread = torch.rand(*shape[:2], 1, 1, 1, dtype=torch.float64) + 0.5
    image = torch.randn(shape, dtype=torch.float64) * spread + 5 * torch.randn_like(spread)
    return image.to(dtype).contiguous(memory_format=torch.channels_last_3d)


def results(norm: nn.Module, image: Tensor, grad: Tensor) -> list[Tensor]:
    source = image.clone().requires_grad_()
    out = norm(source)
    return [out, *torch.autograd.grad(out, [source, *norm.parameters()], grad)]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_torch(shape: tuple[int, ...], affine: bool) -> None:
    torch.manual_seed(0)
    stock, ours = both(shape[1], affine)
    image, grad = volumes(shape), torch.randn(shape, dtype=torch.float64)
    expected, found = (results(norm, image, grad) for norm in (stock, ours))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    for result in found[:2]:
        assert result.is_contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), found[0], rtol=0, atol=0)


@pytest.mark.parametrize("common", [0.0, 10.0])
@pytest.mark.parametrize("shape", [(2, 8, 32, 32, 16), (2, 8, 8, 8, 4)], ids=str)
def test_bfloat16_is_rounded_once(shape: tuple[int, ...], common: float) -> None:
    """Also where most of a gradient is what the norm takes away: its mean, and what points along the image."""
    torch.manual_seed(0)
    stock, ours = both(8, True, torch.float32)
    image = volumes(shape, torch.bfloat16)
    normal = nn.functional.instance_norm(image.float())
    grad = (torch.randn(shape) + common * (1 + normal)).bfloat16()
    exact, found = results(stock, image.float(), grad.float()), results(ours, image, grad)
    assert [result.dtype for result in found] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    for one, other in zip(found, exact, strict=True):
        assert (one.float() - other).norm() < 0.003 * other.norm()  # one rounding is 0.17 %


@pytest.mark.parametrize("shape", [(0, 4, 4, 4, 4), (1, 4, 1, 1, 1)], ids=str)
def test_what_torch_refuses_or_passes_is_refused_or_passed(shape: tuple[int, ...]) -> None:
    _, ours = both(4, True, torch.float32)
    image = volumes(shape, torch.float32)
    with pytest.raises(ValueError, match="Expected more than 1 value") if len(image) else contextlib.nullcontext():
        assert not len(ours(image))


def test_other_layouts_and_traces_keep_to_torchs_operators() -> None:
    stock, ours = both(4, True, torch.float32)
    image = torch.randn(2, 4, 4, 4, 4)
    torch.testing.assert_close(ours(image), stock(image))
    last = image.contiguous(memory_format=torch.channels_last_3d)
    traced = torch.jit.trace(ours, last)
    assert "batch_norm" in str(traced.inlined_graph) and "PythonOp" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(last), stock(last))


def test_frozen_parameters_and_images_get_no_gradient() -> None:
    _, ours = both(4, True, torch.float32)
    image = volumes((1, 4, 4, 4, 4), torch.float32)
    ours.bias.requires_grad_(False)
    ours(image).sum().backward()
    assert ours.bias.grad is None and ours.weight.grad is not None and image.grad is None


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_no_number_comes_out_as_none(broken: float) -> None:
    _, ours = both(4, True, torch.float32)
    image = volumes((2, 4, 4, 4, 4), torch.float32)
    image[0, 1, 2, 2, 2] = broken
    out = ours(image)
    assert out[0, 1].isnan().any() and out[1].isfinite().all()
