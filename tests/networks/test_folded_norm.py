"""Norms inside convolutions: the unfolded network's numbers, statistics and weights."""

from __future__ import annotations

import copy
from statistics import mean

import pytest
import torch
from torch import nn
from transformers import (
    MobileNetV2Config,
    MobileNetV2ForSemanticSegmentation,
    MobileNetV2Model,
    PreTrainedModel,
    ResNetConfig,
    ResNetModel,
)

from mnseg.engines.precision import prepare_for
from mnseg.networks.adaptation import adapt
from mnseg.networks.build import build_slice_network
from mnseg.networks.fast_convolution import _has_clamped, to_fast_convolutions
from mnseg.networks.folded_norm import FoldedBatchNorm2d, FoldedConv2d, FoldedReLU6, fold_norms, let_clamp, unfold_norms
from mnseg.networks.recalibration import recalibrate_batch_norm
from mnseg.networks.small_maps import to_exact_small_maps

MODELS = {
    "mobilenet": lambda: MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.25, output_stride=8)),
    "resnet": lambda: ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], layer_type="basic")
    ),
}


def _prepared(name: str, still: bool = True) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Unfolded and folded, in float64, with norms that do something."""
    torch.manual_seed(0)
    network = MODELS[name]().double()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (norm.bias, norm.running_mean):
                nn.init.uniform_(tensor, -0.5, 0.5)
    network = to_fast_convolutions(adapt(network, "whole", freeze_statistics=still))
    return network, fold_norms(copy.deepcopy(network))


def _found(network: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    source = image.clone().requires_grad_()
    result = network(source).last_hidden_state
    result.pow(2).sum().backward()
    return [result.detach(), source.grad, *(p.grad for p in network.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradients_are_the_unfolded_networks(name: str) -> None:
    stock, folded = _prepared(name)
    kinds = {type(module).__name__ for module in folded.modules()}
    assert {"FoldedConv2d", "FoldedStillBatchNorm2d"} <= kinds and "StillBatchNorm2d" not in kinds
    image = torch.randn(2, 3, 45, 40, dtype=torch.float64)
    expected, actual = (_found(network.train(), image) for network in (stock, folded))
    assert len(expected) == len(actual) == 2 + len(list(stock.parameters()))
    for one, other in zip(expected, actual, strict=True):
        torch.testing.assert_close(other, one)


def test_a_convolution_with_a_bias() -> None:
    torch.manual_seed(0)
    layer = nn.Module()
    layer.convolution, layer.normalization = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)
    layer.normalization.running_mean.normal_()
    layer.eval()
    image = torch.randn(1, 2, 8, 8)
    expected = layer.normalization(layer.convolution(image))
    fold_norms(layer)
    torch.testing.assert_close(layer.normalization(layer.convolution(image)), expected)


def test_depthwise_convolutions_keep_their_backward_pass() -> None:
    _, folded = _prepared("mobilenet")
    dilated = [module for module in folded.modules() if isinstance(module, FoldedConv2d) and max(module.dilation) > 1]
    image = torch.randn(1, dilated[0].in_channels, 8, 8, dtype=torch.float64)
    assert type(dilated[0](image).grad_fn).__name__ == "_ConvolutionBackward"


def test_statistics_that_follow_the_batch_are_folded_in_evaluation_alone() -> None:
    stock, folded = _prepared("mobilenet", still=False)
    assert any(type(module) is FoldedBatchNorm2d for module in folded.modules())
    image = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for mode in (True, False):
        for one, other in zip(_found(stock.train(mode), image), _found(folded.train(mode), image), strict=True):
            torch.testing.assert_close(other, one)
    for name, value in stock.state_dict().items():
        torch.testing.assert_close(folded.state_dict()[name], value)


def test_recalibration_measures_the_same_statistics() -> None:
    stock, folded = _prepared("mobilenet")
    batches = [torch.randn(2, 3, 32, 32, dtype=torch.float64) for _ in range(2)]
    assert recalibrate_batch_norm(stock, batches) == recalibrate_batch_norm(folded, batches) > 50
    for name, value in stock.state_dict().items():
        torch.testing.assert_close(folded.state_dict()[name], value)
    with torch.no_grad():
        torch.testing.assert_close(*(network(batches[0]).last_hidden_state for network in (folded, stock)))


def test_weights_have_one_name_and_load_into_the_stock_network() -> None:
    stock, folded = _prepared("resnet")
    assert list(folded.state_dict()) == list(stock.state_dict())
    assert len(list(folded.parameters())) == len(list(stock.parameters()))
    stock.load_state_dict(folded.state_dict())


def test_a_copy_has_norms_of_its_own() -> None:
    _, folded = _prepared("resnet")
    other, image = copy.deepcopy(folded), torch.randn(1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        before = folded(image).last_hidden_state
        for norm in other.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.weight.mul_(2)
        torch.testing.assert_close(folded(image).last_hidden_state, before)
        assert not torch.allclose(other(image).last_hidden_state, before)


def test_unfolding_takes_it_back() -> None:
    stock, folded = _prepared("mobilenet")
    assert [type(m) for m in unfold_norms(folded).modules()] == [type(m) for m in stock.modules()]


def test_unfolding_takes_it_back_when_small_maps_are_exact_too() -> None:
    stock, folded = _prepared("mobilenet")
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        unfolded = unfold_norms(to_exact_small_maps(folded))
        torch.testing.assert_close(unfolded(image).last_hidden_state, stock(image).last_hidden_state)


def test_mixed_precision_folds_too() -> None:
    stock, folded = _prepared("resnet")
    stock, folded, image = stock.float(), folded.float(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        exact = stock(image).last_hidden_state
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found, left = folded(image).last_hidden_state, stock(image).last_hidden_state
    assert found.dtype is torch.bfloat16
    # No further from the exact numbers than what torch makes of the layers one by one.
    assert (found.float() - exact).norm() < 1.5 * (left.float() - exact).norm()


@pytest.mark.parametrize("small", [False, True])
def test_relu6_is_computed_with_the_convolution_in_bfloat16(small: bool) -> None:
    stock, folded = (network.float() for network in _prepared("mobilenet"))
    prepare_for(torch.bfloat16, torch.device("cpu"), [stock, folded])
    kinds = [type(module).__mro__ for module in folded.modules()]
    assert sum(FoldedReLU6 in kind for kind in kinds) > 30
    image = torch.randn(4, 3, 24 if small else 96, 40 if small else 80)  # three of 24 are the deepest map's rows
    exact = _found(copy.deepcopy(stock).train(), image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        clamped = []
        hook = torch.nn.modules.module.register_module_forward_hook(
            lambda module, _, out: clamped.append(out.clone()) if isinstance(module, FoldedReLU6) else None
        )
        found = _found(folded.train(), image)
        hook.remove()
        left = _found(copy.deepcopy(stock).train(), image)
    assert all(out.min() >= 0 and out.max() <= 6 for out in clamped)
    pairs = [[(one.float(), real) for one, real in zip(each, exact, strict=True)] for each in (found, left)]
    ours, theirs = (
        [float((one - real).norm() / real.norm()) for one, real in each if real.norm() > 0] for each in pairs
    )
    assert mean(ours) < 1.1 * mean(theirs) and max(ours) < 1.1 * max(theirs)


def test_relu6_takes_no_memory_in_full_precision() -> None:
    _, folded = _prepared("mobilenet")
    layer = next(module for module in folded.modules() if isinstance(getattr(module, "activation", None), FoldedReLU6))
    image = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    before = layer.convolution(image)
    assert layer.activation(layer.normalization(before)).data_ptr() == before.data_ptr()


def test_an_activation_of_several_layers_stays() -> None:
    layers = nn.ModuleList(nn.Module() for _ in range(2))
    shared = nn.ReLU6()
    for layer in layers:
        layer.convolution, layer.normalization, layer.activation = nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), shared
    fold_norms(layers)
    let_clamp(layers)
    assert type(shared) is nn.ReLU6 and not any(layer.convolution.clamps for layer in layers)


def test_only_a_trainers_networks_take_no_number_for_nought() -> None:
    _, folded = _prepared("mobilenet")
    weight = next(module for module in folded.float().modules() if isinstance(module, FoldedConv2d)).weight
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        weight.fill_(float("nan"))
        assert folded(image).last_hidden_state.isnan().all()
        assert let_clamp(folded)(image).last_hidden_state.isfinite().all() == _has_clamped()


def test_a_scan_that_is_no_number_gives_no_answer(tmp_path) -> None:
    MobileNetV2ForSemanticSegmentation(MobileNetV2Config(depth_multiplier=0.25)).save_pretrained(tmp_path)
    network = build_slice_network(str(tmp_path), 2, finetuning="whole", seed=0).train()
    prepare_for(torch.bfloat16, torch.device("cpu"), [network])
    volume = torch.randn(1, 1, 64, 64, 3)
    volume[0, 0, 20, 20, 1] = float("nan")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(volume)
    assert logits[..., 1].isnan().any() and logits[..., [0, 2]].isfinite().all()


@pytest.mark.parametrize("finetuning", ["whole", "lora"])
def test_the_slice_network_is_built_so(tmp_path, finetuning: str) -> None:
    stock, _ = _prepared("mobilenet")
    stock.float().save_pretrained(tmp_path)
    network = build_slice_network(str(tmp_path), 2, finetuning=finetuning, lora_rank=2, seed=0)
    folded = [name for name, module in network.named_modules() if hasattr(module, "norm_behind")]
    assert len(folded) > (30 if finetuning == "whole" else 10)
    assert not any("lora" in name or "base_layer" in name for name in folded)
    volume = torch.randn(1, 1, 32, 32, 2)
    with torch.no_grad():
        torch.testing.assert_close(unfold_norms(copy.deepcopy(network))(volume), network(volume), atol=1e-4, rtol=1e-4)
