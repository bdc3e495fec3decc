"""Padding inside the convolution: the numbers of transformers' own padding, for every size of image."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    MobileNetV1Config,
    MobileNetV1Model,
    MobileNetV2Config,
    MobileNetV2ForSemanticSegmentation,
)

from mnseg.networks.build import build_slice_network
from mnseg.networks.same_padding import to_inner_padding

SMALL = {"depth_multiplier": 0.25, "num_labels": 3}


def both(tf_padding: bool = True) -> tuple[MobileNetV2ForSemanticSegmentation, MobileNetV2ForSemanticSegmentation]:
    torch.manual_seed(0)
    config = MobileNetV2Config(tf_padding=tf_padding, output_stride=8, classifier_dropout_prob=0.0, **SMALL)
    stock = MobileNetV2ForSemanticSegmentation(config).double().eval()
    return stock, to_inner_padding(copy.deepcopy(stock))


@pytest.mark.parametrize("size", [(32, 32), (33, 32), (47, 50)])
def test_values_and_gradients_are_those_of_transformers(size: tuple[int, int]) -> None:
    image = torch.randn(2, 3, *size, dtype=torch.float64)
    found = []
    for network in both():
        logits = network(image).logits
        logits.square().sum().backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        found.append([logits.detach(), *gradients])
    assert len(found[0]) == len(found[1]) > 50
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected)


def test_layers_of_stride_2_keep_padding_by_the_images_size() -> None:
    stock, network = both()
    layers = [module for module in network.modules() if hasattr(module, "convolution")]
    outside = {layer.convolution.stride for layer in layers if layer.config.tf_padding}
    inside = {layer.convolution.stride for layer in layers if not layer.config.tf_padding}
    assert (outside, inside) == ({(2, 2)}, {(1, 1)})
    assert network.config.tf_padding and stock.config.tf_padding, "what is saved says how the weights were made"


def test_networks_without_such_layers_stay_as_they_are() -> None:
    stock, network = both(tf_padding=False)
    paddings = [[m.padding for m in n.modules() if isinstance(m, torch.nn.Conv2d)] for n in (stock, network)]
    assert paddings[0] == paddings[1]
    assert to_inner_padding(torch.nn.Conv2d(1, 1, 3)).padding == (0, 0)


def test_mobilenet_v1_has_the_same_layers() -> None:
    torch.manual_seed(0)
    stock = MobileNetV1Model(MobileNetV1Config(depth_multiplier=0.25)).double().eval()
    network = to_inner_padding(copy.deepcopy(stock))
    assert any(not getattr(module, "config", stock.config).tf_padding for module in network.modules())
    image = torch.randn(1, 3, 47, 50, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network(image).last_hidden_state, stock(image).last_hidden_state)


@pytest.mark.parametrize("finetuning", ["whole", "lora"])
def test_the_slice_network_is_built_so(tmp_path, finetuning: str) -> None:
    stock, _ = both()
    stock.float().save_pretrained(tmp_path)
    network = build_slice_network(str(tmp_path), 2, finetuning=finetuning, lora_rank=2).eval()
    layers = [module for module in network.modules() if hasattr(module, "convolution")]
    assert sum(not layer.config.tf_padding for layer in layers) > 10
    volume = torch.randn(1, 1, 33, 32, 2)
    with torch.no_grad():
        actual = network(volume)
        for layer in layers:  # back to transformers' own
            if not layer.config.tf_padding:
                layer.config.tf_padding = True
                for conv in [m for m in layer.convolution.modules() if isinstance(m, torch.nn.Conv2d)]:
                    conv.padding = (0, 0) if conv.kernel_size != (1, 1) else conv.padding
        torch.testing.assert_close(network(volume), actual, atol=1e-5, rtol=1e-4)
