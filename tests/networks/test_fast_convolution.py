"""Depthwise convolutions with dilation or stride: torch's numbers by another way, and only where it is meant."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional

from mnseg.networks.convolution_gradients import Convolution, stock_gradients
from mnseg.networks.fast_convolution import (
    FastConv2d,
    _has_clamped,
    can_clamp,
    clamped_convolution,
    to_fast_convolutions,
)
from mnseg.networks.folded_norm import fold_norms, let_clamp

needs_clamped = pytest.mark.skipif(not _has_clamped(), reason="this processor has no bfloat16 convolutions in oneDNN")

CONVOLUTIONS = {
    "as in MobileNetV2": {"kernel_size": 3, "dilation": 2, "bias": False},
    "wide steps": {"kernel_size": 3, "dilation": 4, "bias": False},
    "padding and bias": {"kernel_size": 3, "dilation": 2, "padding": 2},
    "two of everything": {"kernel_size": (3, 1), "dilation": (2, 3), "padding": (1, 0)},
    "even kernel": {"kernel_size": 2, "dilation": 3},
    "phases below the kernel's size": {"kernel_size": 3, "dilation": 5, "padding": 5},
}
STRIDED = {
    "as in MobileNetV2": {"kernel_size": 3, "stride": 2, "bias": False},
    "padding and bias": {"kernel_size": 3, "stride": 2, "padding": 1},
    "two of everything": {"kernel_size": (5, 3), "stride": (3, 1), "padding": (2, 0)},
    "even kernel": {"kernel_size": 2, "stride": 2},
}


def both(settings: dict) -> tuple[nn.Conv2d, nn.Conv2d]:
    stock = nn.Conv2d(5, 5, groups=5, dtype=torch.float64, **settings)
    fast = to_fast_convolutions(copy.deepcopy(stock))
    assert type(fast) is not nn.Conv2d
    return stock, fast


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("settings", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_values_and_gradients_are_those_of_torch(settings: dict, channels_last: bool) -> None:
    torch.manual_seed(0)
    stock, fast = both(settings)
    image = torch.randn(3, 5, 13, 11, dtype=torch.float64)
    if channels_last:
        image = image.to(memory_format=torch.channels_last)
        stock, fast = (conv.to(memory_format=torch.channels_last) for conv in (stock, fast))
    found = []
    for conv in (stock, fast):
        source = image.clone().requires_grad_()
        result = conv(source)
        result.pow(3).sum().backward()
        found.append([result.detach(), source.grad, *(parameter.grad for parameter in conv.parameters())])
    for expected, actual in zip(*found, strict=True):
        assert actual.shape == expected.shape
        torch.testing.assert_close(actual, expected)


def test_only_what_is_asked_for_is_computed() -> None:
    _, fast = both({"kernel_size": 3, "dilation": 2})
    fast.weight.requires_grad_(False)
    image = torch.randn(1, 5, 9, 9, dtype=torch.float64, requires_grad=True)
    fast(image).sum().backward()
    assert image.grad is not None and fast.weight.grad is None

    fast.weight.requires_grad_(True)
    fast(image.detach()).sum().backward()
    assert fast.weight.grad.abs().sum() > 0


def test_other_convolutions_stay_as_they_are() -> None:
    kept = nn.ModuleList([
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 8, 3, dilation=2, groups=4),
        nn.Conv2d(4, 4, 3, dilation=2, groups=4, stride=2),
        nn.Conv2d(4, 4, 3, dilation=2, groups=4, padding="same"),
        nn.Conv2d(4, 4, 3, dilation=2, groups=4, padding=2, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, stride=2),
        nn.Conv2d(4, 8, 3, stride=2, groups=4),
    ])  # fmt: skip
    assert {type(conv) for conv in to_fast_convolutions(kept)} == {nn.Conv2d}


def test_weights_load_into_the_stock_network() -> None:
    stock, fast = both({"kernel_size": 3, "dilation": 2})
    file = io.BytesIO()
    torch.save(fast.state_dict(), file)
    file.seek(0)
    stock.load_state_dict(torch.load(file, weights_only=True))
    assert stock.state_dict().keys() == fast.state_dict().keys()


def in_bfloat16(conv: nn.Module, image: torch.Tensor, grad: torch.Tensor) -> list[torch.Tensor]:
    """Result and gradients, by autograd's kind of node."""
    source = image.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = conv(source)
    assert out.dtype is torch.bfloat16
    found = torch.autograd.grad(out, [source, *conv.parameters()], grad.to(out.dtype))
    return [out, *found]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("settings", [*CONVOLUTIONS.values(), *STRIDED.values()], ids=str)
def test_bfloat16_takes_the_fast_way_and_is_as_exact_as_torch(settings: dict, channels_last: bool) -> None:
    torch.manual_seed(0)
    stock = nn.Conv2d(8, 8, groups=8, **settings)
    fast = to_fast_convolutions(copy.deepcopy(stock))
    image = torch.randn(7, 8, 21, 18)
    if channels_last:
        image, stock, fast = (each.to(memory_format=torch.channels_last) for each in (image, stock, fast))
    grad = torch.randn_like(stock(image))
    source = image.clone().requires_grad_()
    exact_out = stock(source)
    exact = [exact_out, *torch.autograd.grad(exact_out, [source, *stock.parameters()], grad)]
    found = in_bfloat16(fast, image, grad)
    assert type(found[0].grad_fn).__name__ == "_ConvolutionBackward"
    for one, other in zip(found, exact, strict=True):
        assert one.shape == other.shape
        # What adds up over samples and pixels is kept in float32: 1 % is bfloat16's own rounding.
        assert (one.float() - other).norm() < 0.01 * other.norm()
    assert found[1].stride() == image.stride()


def test_in_full_precision_strides_are_left_to_torch() -> None:
    fast = to_fast_convolutions(nn.Conv2d(4, 4, 3, stride=2, groups=4))
    out = fast(torch.randn(1, 4, 9, 9))
    assert type(fast) is FastConv2d and type(out.grad_fn).__name__ == "ConvolutionBackward0"


@needs_clamped
@pytest.mark.parametrize("kernel", [{"kernel_size": 1}, CONVOLUTIONS["padding and bias"] | {"groups": 4}], ids=str)
def test_a_clamped_convolution_is_relu6_behind_it(kernel: dict) -> None:
    torch.manual_seed(0)
    conv, image = nn.Conv2d(4, 4, **kernel), torch.randn(2, 4, 9, 8).mul(4)
    with torch.no_grad():
        conv.weight.mul_(5)
    weights = [conv.weight, conv.bias]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = functional.relu6(conv(image))
        assert can_clamp(image)
        found = clamped_convolution(conv, image, *weights)
        with torch.no_grad():
            torch.testing.assert_close(clamped_convolution(conv, image, *weights), expected, rtol=0, atol=0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert (found == 6).any() and (found == 0).any() and ((found > 0) & (found < 6)).any()
    grad = torch.randn_like(found)
    for one, other in zip(*(torch.autograd.grad(out, weights, grad) for out in (found, expected)), strict=True):
        assert (one - other).norm() < 0.01 * other.norm()


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_clamped_convolutions_are_for_bfloat16_alone(dtype: torch.dtype | None) -> None:
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        assert not can_clamp(torch.ones(1, 1, 1, 1))


def test_autocast_leaves_other_devices_and_float64_alone() -> None:
    conv = to_fast_convolutions(nn.Conv2d(4, 4, 3, stride=2, groups=4, dtype=torch.float64))
    image = torch.randn(1, 4, 9, 9, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert can_clamp(image.float()) == _has_clamped()
        assert not can_clamp(image) and not can_clamp(torch.ones(1, 1, 1, 1, device="meta"))
        assert conv(image).dtype is torch.float64


def test_a_strided_convolutions_image_gradient_is_computed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """For that oneDNN has a fast kernel; the parameters' is fast in bfloat16."""
    seen = []

    def spy(grad: torch.Tensor, image: torch.Tensor, weight: torch.Tensor, settings: Convolution, wanted: tuple):
        seen.append((wanted, grad.dtype, image.dtype, weight.dtype))
        return stock_gradients(grad, image, weight, settings, wanted)

    monkeypatch.setattr("mnseg.networks.strided_depthwise.stock_gradients", spy)
    conv = to_fast_convolutions(nn.Conv2d(4, 4, 3, stride=2, groups=4))
    in_bfloat16(conv, torch.ones(2, 4, 9, 9), torch.ones(2, 4, 4, 4))
    assert {*seen} == {
        ((False, True, True), *[torch.bfloat16] * 3),
        ((True, False, False), *[torch.float32] * 3),
    }


@pytest.mark.parametrize("settings", [
    {"padding_mode": "reflect", "padding": 2}, {"padding": "same"}, {"padding": "valid"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("mixed", [False, True])
def test_folded_convolutions_with_another_padding_are_torchs(settings: dict, mixed: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Module()
    layer.convolution = nn.Conv2d(4, 4, 3, dilation=2, groups=4, **settings)
    layer.normalization, layer.activation = nn.BatchNorm2d(4), nn.ReLU6()
    stock, folded = layer.eval(), let_clamp(fold_norms(copy.deepcopy(layer)))
    image, results = torch.randn(2, 4, 9, 9), []
    for each in (stock, folded):
        source = image.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            out = each.activation(each.normalization(each.convolution(source)))
        results.append((out, *torch.autograd.grad(out.float().sum(), [source, *each.parameters()])))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, **({"rtol": 0.03, "atol": 0.03} if mixed else {}))


def test_float16_is_left_to_torch() -> None:
    _, fast = both({"kernel_size": 3, "dilation": 2})
    with torch.autocast("cpu", dtype=torch.float16):
        out = fast.float()(torch.randn(1, fast.in_channels, 9, 9))
    assert out.dtype is torch.float16 and type(out.grad_fn).__name__ != "_ConvolutionBackward"
