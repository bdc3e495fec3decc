"""The segmentation head with spread features: transformers' own numbers and weights."""

from __future__ import annotations

import copy

import torch
from transformers import MobileNetV2Config, MobileNetV2ForSemanticSegmentation

from mnseg.networks.build import build_slice_network
from mnseg.networks.spread_pool import SpreadPoolHead, to_spread_pool


def test_values_gradients_and_weights_are_transformers() -> None:
    torch.manual_seed(0)
    stock = MobileNetV2ForSemanticSegmentation(MobileNetV2Config(depth_multiplier=0.25, num_labels=3)).double().eval()
    ours = to_spread_pool(copy.deepcopy(stock))
    assert type(ours.segmentation_head) is SpreadPoolHead
    image, found = torch.randn(2, 3, 64, 48, dtype=torch.float64), []
    for network in (stock, ours):
        source = image.clone().requires_grad_()
        logits = network(source).logits
        logits.pow(2).sum().backward()
        found.append([logits.detach(), source.grad, *(p.grad for p in network.parameters())])
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected)
    stock.load_state_dict(ours.state_dict())


def test_the_projection_sees_channels_last_where_the_features_are() -> None:
    stock = MobileNetV2ForSemanticSegmentation(MobileNetV2Config(depth_multiplier=0.25, num_labels=3))
    ours, seen = to_spread_pool(stock).eval(), []
    watched = ours.segmentation_head.conv_projection
    for layout in (torch.channels_last, torch.contiguous_format):
        watched.register_forward_pre_hook(lambda _, args, layout=layout: seen.append(
            args[0].is_contiguous(memory_format=layout)))  # fmt: skip
        ours.to(memory_format=layout)(torch.randn(2, 3, 64, 48).to(memory_format=layout))
        watched._forward_pre_hooks.clear()
    assert seen == [True, True]


def test_the_slice_network_is_built_so(tmp_path) -> None:
    config = MobileNetV2Config(depth_multiplier=0.25, num_labels=3)
    MobileNetV2ForSemanticSegmentation(config).save_pretrained(tmp_path)
    network = build_slice_network(str(tmp_path), 2, finetuning="whole", seed=0)
    assert any(type(module) is SpreadPoolHead for module in network.modules())
