"""Dilated depthwise convolutions: torch's numbers by another way, and only where it is meant."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from mnseg.networks.fast_convolution import to_fast_convolutions

CONVOLUTIONS = {
    "as in MobileNetV2": {"kernel_size": 3, "dilation": 2, "bias": False},
    "wide steps": {"kernel_size": 3, "dilation": 4, "bias": False},
    "padding and bias": {"kernel_size": 3, "dilation": 2, "padding": 2},
    "two of everything": {"kernel_size": (3, 1), "dilation": (2, 3), "padding": (1, 0)},
    "even kernel": {"kernel_size": 2, "dilation": 3},
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
    ])  # fmt: skip
    assert {type(conv) for conv in to_fast_convolutions(kept)} == {nn.Conv2d}


def test_weights_load_into_the_stock_network() -> None:
    stock, fast = both({"kernel_size": 3, "dilation": 2})
    file = io.BytesIO()
    torch.save(fast.state_dict(), file)
    file.seek(0)
    stock.load_state_dict(torch.load(file, weights_only=True))
    assert stock.state_dict().keys() == fast.state_dict().keys()


def test_bfloat16_takes_the_fast_way_and_gives_what_torch_gives() -> None:
    stock, fast = both({"kernel_size": 3, "dilation": 2})
    stock, fast = stock.float(), fast.float()
    image = torch.randn(32, stock.in_channels, 9, 11)
    results = []
    for conv in (stock, fast):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = conv(image)
        assert out.dtype is torch.bfloat16
        out.backward(torch.ones_like(out))
        results.append(out)
    assert type(results[1].grad_fn).__name__ == "_ConvolutionBackward"
    torch.testing.assert_close(results[1], results[0], rtol=1e-2, atol=1e-2)
    exact = torch.autograd.grad(stock(image).sum(), stock.weight)[0]
    # What adds up over samples and pixels is kept in float32: 1 % is bfloat16's own rounding of image and gradient.
    assert (fast.weight.grad - exact).norm() < 0.01 * exact.norm()


def test_float16_is_left_to_torch() -> None:
    _, fast = both({"kernel_size": 3, "dilation": 2})
    with torch.autocast("cpu", dtype=torch.float16):
        out = fast.float()(torch.randn(1, fast.in_channels, 9, 9))
    assert out.dtype is torch.float16 and type(out.grad_fn).__name__ != "_ConvolutionBackward"
