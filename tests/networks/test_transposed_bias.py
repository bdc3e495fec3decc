"""Transposed convolutions with a summed bias: torch's numbers, wherever the fast way is taken and wherever not."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch import nn
from transformers import Dinov2Config, Dinov2Model

from mnseg.networks.build import build_slice_network
from mnseg.networks.channels_last import to_channels_last
from mnseg.networks.transposed_bias import SummedBiasTranspose2d, SummedBiasTranspose3d, to_summed_bias

FAST = "_TransposedBackward"
PLAIN = {"in_channels": 4, "out_channels": 6, "kernel_size": 2, "stride": 2}


def both(kind: type[nn.Module], **settings) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    stock = kind(**{**PLAIN, **settings})
    return stock, to_summed_bias(nn.Sequential(copy.deepcopy(stock)))[0]


def results(layer: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    image = image.clone().requires_grad_()
    out = layer(image)
    grad = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).reshape(out.shape)
    parameters = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    return [out.detach(), *torch.autograd.grad(out, [image, *parameters], grad)]


def image_of(kind: type[nn.Module], last: bool = False) -> torch.Tensor:
    flat = kind is nn.ConvTranspose2d
    image = torch.randn(2, 4, *(5, 6, 7)[: 2 if flat else 3], generator=torch.Generator().manual_seed(1))
    return image.to(memory_format=torch.channels_last if flat else torch.channels_last_3d) if last else image


@pytest.mark.parametrize("kind", [nn.ConvTranspose2d, nn.ConvTranspose3d])
@pytest.mark.parametrize("settings", [
    {}, {"kernel_size": 3, "stride": 1, "padding": 1}, {"kernel_size": 3, "dilation": 2}, {"groups": 2},
    {"kernel_size": 3, "stride": 3, "padding": 2},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("last", [False, True])
def test_output_and_gradients_are_torchs(kind, settings, last):
    stock, ours = both(kind, **settings)
    assert type(ours) in (SummedBiasTranspose2d, SummedBiasTranspose3d)
    image = image_of(kind, last).double()
    assert type(ours.double()(image).grad_fn).__name__ == FAST
    for found, wanted in zip(results(ours, image), results(stock.double(), image), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", [nn.ConvTranspose2d, nn.ConvTranspose3d])
def test_in_bfloat16_it_is_as_exact_as_torch(kind):
    stock, ours = both(kind)
    image, errors = image_of(kind, last=True), []
    exact = results(stock, image)
    for layer in (stock, ours):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = results(layer, image)
        assert found[0].dtype is torch.bfloat16
        assert {part.dtype for part in found[1:]} == {torch.float32}
        errors.append([float((one - other).norm() / other.norm()) for one, other in zip(found, exact, strict=True)])
    assert all(own < max(1.5 * torchs, 0.005) for own, torchs in zip(errors[1], errors[0], strict=True)), errors


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_what_is_frozen_gets_no_gradient(frozen):
    stock, ours = both(nn.ConvTranspose3d)
    for layer in (stock, ours):
        getattr(layer, frozen).requires_grad_(False)
    image = image_of(nn.ConvTranspose3d)
    found, wanted = results(ours, image), results(stock, image)
    assert len(found) == 3
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_the_stock_layer_where_the_fast_way_is_not_made_for():
    stock, ours = both(nn.ConvTranspose3d)
    image = image_of(nn.ConvTranspose3d)
    size = [2 * side + 1 for side in image.shape[2:]]
    odd = {"stride": 2, "kernel_size": 2}
    assert type(both(nn.ConvTranspose3d, **odd, output_padding=1)[1]) is nn.ConvTranspose3d
    assert type(both(nn.ConvTranspose3d, bias=False)[1]) is nn.ConvTranspose3d
    torch.testing.assert_close(ours(image, output_size=size), stock(image, output_size=size))
    torch.testing.assert_close(ours(image[0]), stock(image[0]))  # without a batch
    with torch.no_grad():
        assert torch.equal(ours(image), stock(image))
    with torch.autocast("cpu", dtype=torch.float16):
        assert type(ours(image).grad_fn).__name__ != FAST


def test_a_pyramids_upsamplings_are_such_where_a_slice_network_is_built(tmp_path):
    config = Dinov2Config(image_size=28, patch_size=14, hidden_size=16, num_hidden_layers=4, num_attention_heads=2)
    Dinov2Model(config).save_pretrained(tmp_path)
    network = build_slice_network(str(tmp_path), 2, finetuning="whole", seed=0)
    found = [type(layer) for layer in network.modules() if isinstance(layer, nn.ConvTranspose2d)]
    assert found == [SummedBiasTranspose2d] * 3


def test_a_unets_upsamplings_are_such_and_its_weights_load_into_the_stock_network():
    network = to_channels_last(BasicUNet(3, 1, 2, features=(4, 4, 8, 8, 16, 4)))
    found = [name for name, module in network.named_modules() if isinstance(module, SummedBiasTranspose3d)]
    assert found == [f"upcat_{level}.upsample.deconv" for level in (4, 3, 2, 1)]
    BasicUNet(3, 1, 2, features=(4, 4, 8, 8, 16, 4)).load_state_dict(network.state_dict())
