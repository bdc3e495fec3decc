"""Channels last: the same numbers, in the layout that it claims, with weights for the stock network."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.nets import BasicUNet, DynUNet, UNet
from torch import nn

from mnseg.networks.channels_last import to_channels_last
from mnseg.networks.narrowing_convolution import NarrowingConv3d, is_narrowing

NETWORKS = {
    "BasicUNet": lambda: BasicUNet(3, 1, 3, features=(2, 2, 4, 4, 8, 2)),
    "batch norm": lambda: BasicUNet(3, 1, 3, features=(2, 2, 4, 4, 8, 2), norm="batch"),
    "DynUNet": lambda: DynUNet(3, 1, 3, [3, 3, 3], [1, 2, 2], [2, 2], filters=[2, 4, 4]),
    "UNet": lambda: UNet(3, 1, 3, channels=(4, 8), strides=(2,)),
}


def results(network: nn.Module, image: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    output = network(image)
    output = output[0] if isinstance(output, (list, tuple)) else output
    network.zero_grad()
    (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)).sum().backward()
    return output.detach(), {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_outputs_and_gradients_are_those_of_the_stock_network(name, batch_size):
    stock = NETWORKS[name]().double()
    image = torch.randn(batch_size, 1, 32, 32, 32, dtype=torch.float64)
    ours = to_channels_last(copy.deepcopy(stock))
    for mode in (True, False):
        wanted, wanted_gradients = results(stock.train(mode), image)
        found, gradients = results(ours.train(mode), image)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
        assert gradients.keys() == wanted_gradients.keys()
        for key, gradient in wanted_gradients.items():
            torch.testing.assert_close(gradients[key], gradient, rtol=1e-8, atol=1e-6 * float(gradient.abs().max()))
    fresh = NETWORKS[name]().double()
    fresh.load_state_dict(ours.state_dict())
    torch.testing.assert_close(results(fresh.eval(), image)[0], results(ours.eval(), image)[0])


def test_the_decoders_convolutions_are_the_narrowing_ones():
    network = to_channels_last(BasicUNet(3, 1, 3, features=(8, 16, 32, 64, 128, 8)))
    found = [name for name, module in network.named_modules() if isinstance(module, NarrowingConv3d)]
    assert found == [f"upcat_{level}.convs.conv_0.conv" for level in (4, 3, 2, 1)]


@pytest.mark.parametrize("other", [
    {"stride": 2}, {"padding": 0}, {"dilation": 2}, {"groups": 2}, {"padding": "same"}, {"padding_mode": "circular"},
    {"kernel_size": 1, "padding": 0}, {"out_channels": 3}, {"kernel_size": (3, 3, 2)},
], ids=str)  # fmt: skip
def test_convolutions_for_which_it_is_not_made(other):
    settings = {"in_channels": 4, "out_channels": 2, "kernel_size": 3, "padding": 1}
    assert is_narrowing(nn.Conv3d(**settings))
    assert not is_narrowing(nn.Conv3d(**{**settings, **other}))


def test_roles_are_exchanged_in_bfloat16_too_with_torchs_precision():
    torch.manual_seed(0)
    stock = nn.Conv3d(16, 8, 3, padding=1).to(memory_format=torch.channels_last_3d)
    ours = to_channels_last(nn.Sequential(copy.deepcopy(stock)))[0]
    image = torch.randn(2, 16, 8, 8, 8).to(memory_format=torch.channels_last_3d)
    grad, errors = torch.randn(2, 8, 8, 8, 8), []
    exact = torch.autograd.grad(stock(image), list(stock.parameters()), grad)
    for conv in (stock, ours):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = conv(image)
        found = torch.autograd.grad(out, list(conv.parameters()), grad.bfloat16())
        errors.append([float((one - other).norm() / other.norm()) for one, other in zip(found, exact, strict=True)])
    assert type(out.grad_fn).__name__ == "_NarrowingConvolutionBackward"
    assert all(own < max(1.5 * torchs, 0.005) for own, torchs in zip(errors[1], errors[0], strict=True)), errors


def test_a_frozen_convolution_passes_the_gradient_on():
    conv = to_channels_last(nn.Sequential(nn.Conv3d(4, 2, 3, padding=1)))[0].requires_grad_(False)
    image = torch.randn(1, 4, 5, 5, 5, requires_grad=True)
    conv(image).sum().backward()
    assert image.grad.abs().sum() > 0 and conv.weight.grad is None and conv.bias.grad is None


def test_no_norm_leaves_the_layout():
    network = to_channels_last(NETWORKS["BasicUNet"]())
    layouts = {}
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv3d, nn.InstanceNorm3d)) and name != "final_conv":  # behind it comes the loss
            module.register_forward_hook(lambda _, __, out, name=name: layouts.__setitem__(
                name, out.is_contiguous(memory_format=torch.channels_last_3d)))  # fmt: skip
    network(torch.randn(2, 1, 32, 32, 32))
    assert layouts and all(layouts.values()), layouts


def test_not_wanted_and_two_dimensional_networks_stay():
    stock = NETWORKS["BasicUNet"]()
    assert to_channels_last(stock, False) is stock and type(stock.conv_0.conv_0.adn.N) is nn.InstanceNorm3d
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4))
    to_channels_last(flat)
    assert flat[0].weight.is_contiguous() and type(flat[1]) is nn.InstanceNorm2d


def test_running_statistics_are_left_alone():
    network = nn.Sequential(nn.Conv3d(1, 4, 3), nn.InstanceNorm3d(4, track_running_stats=True))
    assert type(to_channels_last(network)[1]) is nn.InstanceNorm3d
