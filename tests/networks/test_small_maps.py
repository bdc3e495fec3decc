"""Mixed precision on a CPU: the gradients that oneDNN spoils, and what is left as it is."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from monai.networks.nets import BasicUNet, DynUNet
from torch import nn

from mnseg.networks.channels_last import to_channels_last
from mnseg.networks.small_maps import to_exact_small_maps


def gradients(network: nn.Module, image: torch.Tensor, mixed: bool) -> list[torch.Tensor]:
    network.zero_grad()
    image = image.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        output = network(image)
    generator = torch.Generator().manual_seed(1)
    output.float().backward(torch.randn(output.shape, generator=generator))
    return [output.detach().float(), image.grad, *(parameter.grad for parameter in network.parameters())]


# In bfloat16 the first two give wrong gradients for all maps of (2, ...) and (2 to 4, ...), the third ends the process.
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (5, 1), (3, 2), (1, 1), (7, 2)])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_gradients_of_small_maps_are_those_of_full_precision(dimensions, kernel, stride):
    kind = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    conv = to_exact_small_maps(kind(8, 16, kernel, stride, padding=kernel // 2))
    for shape in itertools.product((1, 2, 4, 5, 7) if dimensions == 2 else (1, 2, 5), repeat=dimensions):
        image = torch.randn(2, 8, *shape)
        for exact, found in zip(gradients(conv, image, False), gradients(conv, image, True), strict=True):
            assert (found - exact).norm() <= 0.02 * exact.norm(), shape


def test_a_network_with_small_maps_has_the_gradients_of_full_precision():
    torch.manual_seed(0)
    network = to_exact_small_maps(to_channels_last(BasicUNet(3, 1, 2, features=(8, 16, 32, 64, 128, 8))))
    for _ in range(3):  # what is wrong is read from memory that nobody wrote, and is not the same each time
        image = torch.randn(2, 1, 32, 32, 16)
        exact, found = (gradients(network, image, mixed) for mixed in (False, True))
    deepest = dict(network.named_parameters())["down_4.convs.conv_1.conv.weight"]
    place = 2 + [parameter is deepest for parameter in network.parameters()].index(True)
    assert found[place].isfinite().all() and all(part.isfinite().all() for part in found)
    assert found[place].norm() == pytest.approx(float(exact[place].norm()), rel=0.2)


def test_larger_maps_are_convolved_in_bfloat16_and_small_ones_are_not():
    conv = to_exact_small_maps(nn.Conv3d(4, 4, 3, padding=1))
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(torch.randn(1, 4, 3, 3, 3)).dtype is torch.bfloat16
        assert conv(torch.randn(1, 4, 3, 2, 3)).dtype is torch.float32
    assert conv(torch.randn(1, 4, 3, 3, 3)).dtype is torch.float32


@pytest.mark.parametrize("network", [
    BasicUNet(3, 1, 3, features=(2, 2, 4, 4, 8, 2)),
    DynUNet(3, 1, 3, [3, 3, 3], [1, 2, 2], [2, 2], filters=[2, 4, 4]),
], ids=["BasicUNet", "DynUNet"])  # fmt: skip
def test_nothing_changes_without_mixed_precision(network):
    stock = to_channels_last(network).eval()
    ours = to_exact_small_maps(to_exact_small_maps(copy.deepcopy(stock)))
    image = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours(image), stock(image))
        assert torch.equal(copy.deepcopy(ours)(image), stock(image))
    assert ours.state_dict().keys() == stock.state_dict().keys()
    stock.load_state_dict(ours.state_dict())
