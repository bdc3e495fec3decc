"""Fine-tuning strategies on four families: what trains, what is saved, what merges."""

from __future__ import annotations

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import BitConfig, BitForImageClassification

from mnseg.errors import UserError
from mnseg.networks.adaptation import adapt, describe_trainable, encoder_name
from mnseg.networks.build import build_slice_network
from mnseg.networks.pretrained import load_segmenter

FAMILIES = ["segformer", "upernet", "beit", "mobilenet"]
families = pytest.mark.parametrize("model_dir", FAMILIES, indirect=True)


def volume(depth: int = 3) -> torch.Tensor:
    return torch.randn(1, 1, 40, 36, depth, generator=torch.Generator().manual_seed(1))


@families
def test_lora_at_first_leaves_the_output_unchanged(model_dir):
    plain, adapted = (build_slice_network(model_dir, 3, finetuning=s, seed=0).eval() for s in ("whole", "lora"))
    with torch.no_grad():
        torch.testing.assert_close(adapted(volume()), plain(volume()), atol=1e-6, rtol=0)


@families
def test_lora_sits_where_the_structure_says(model_dir):
    plain = load_segmenter(model_dir, 3).model
    encoder = encoder_name(plain)
    expected = {
        f"{encoder}.{name}"
        for name, m in plain.get_submodule(encoder).named_modules()
        if isinstance(m, nn.Linear)
        or (isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.groups == 1 and m.dilation == (1, 1))
    }
    adapted = adapt(load_segmenter(model_dir, 3).model, "lora", rank=64)
    layers = {name: m for name, m in adapted.named_modules() if isinstance(m, LoraLayer)}
    assert set(layers) == expected
    assert expected
    for m in layers.values():
        base = m.get_base_layer()
        narrow = min(base.weight.shape[:2])
        rank = min(64, narrow) if isinstance(base, nn.Linear) else max(1, min(64, narrow // 4))
        assert m.r["default"] == rank
        assert m.scaling["default"] == 1.0


@families
def test_lora_trains_adapters_biases_and_norms_of_the_encoder_and_all_else(model_dir):
    net = adapt(load_segmenter(model_dir, 3).model, "lora", rank=4)
    encoder = f"{encoder_name(net)}."
    for name, p in net.named_parameters():
        assert p.requires_grad == (not name.startswith(encoder) or p.ndim <= 1 or ".lora_" in name), name


@families
def test_every_adapter_has_the_dropout_asked_for(model_dir):
    net = adapt(load_segmenter(model_dir, 3).model, "lora", rank=4, dropout=0.25)
    assert {m.lora_dropout["default"].p for m in net.modules() if isinstance(m, LoraLayer)} == {0.25}


@pytest.mark.parametrize("model_dir", ["segformer", "mobilenet"], indirect=True)
@pytest.mark.parametrize("strategy", ["lora", "decoder", "whole"])
def test_pretrained_statistics_stand_still_whatever_trains(model_dir, strategy):
    net = build_slice_network(model_dir, 3, finetuning=strategy, seed=0)
    before = {k: v.clone() for k, v in net.state_dict().items() if "running_" in k}
    net.eval()
    net.train()(volume())
    moved = {k for k, v in before.items() if not torch.equal(v, net.state_dict()[k])}
    assert before
    assert moved == set()


def test_random_weights_keep_their_batch_norms_learning():
    net = build_slice_network("segformer-tiny-random", 3, pretrained=False, seed=0)
    key = "network_2d.decode_head.batch_norm.running_mean"
    before = net.state_dict()[key].clone()
    net.train()(volume())
    assert not torch.equal(net.state_dict()[key], before)


def test_layers_of_equal_suffix_are_told_apart():
    """peft matches by suffix; a head that repeats the encoder's names must stay free of adapters."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 6))
            self.head = nn.ModuleDict({"encoder": nn.Sequential(nn.Linear(6, 2))})

    net = adapt(Net(), "lora", rank=4)
    assert [n for n, m in net.named_modules() if isinstance(m, LoraLayer)] == ["encoder.0", "encoder.1"]
    assert net.head["encoder"][0].weight.requires_grad


def test_dilated_and_grouped_convolutions_are_left_alone():
    encoder = nn.Sequential(
        nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1, groups=8), nn.Conv2d(8, 8, 1, dilation=2), nn.Conv2d(8, 8, 3)
    )
    net = adapt(nn.ModuleDict({"encoder": encoder, "head": nn.Conv2d(8, 2, 1)}), "lora", rank=16)
    assert [n for n, m in net.named_modules() if isinstance(m, LoraLayer)] == ["encoder.0"]
    assert net["encoder"][0].r["default"] == 2


def test_layers_that_compute_their_weights_are_left_alone():
    """An adapter adds to a layer's weights; of standardized weights (BiT) there is nothing to add to when merging."""
    standardized = BitForImageClassification(
        BitConfig(embedding_size=8, hidden_sizes=[32, 32, 32, 64], depths=[1, 1, 1, 1], num_groups=4)
    )
    net = nn.ModuleDict({"encoder": nn.Sequential(standardized.bit, nn.Linear(8, 8)), "head": nn.Conv2d(8, 2, 1)})
    adapt(net, "lora", rank=4)
    assert [n for n, m in net.named_modules() if isinstance(m, LoraLayer)] == ["encoder.1"]


def test_named_head_and_description():
    net = nn.ModuleDict({"body": nn.Linear(4, 4), "last": nn.Linear(4, 2)})
    adapt(net, "decoder", head="last")
    assert {n for n, p in net.named_parameters() if p.requires_grad} == {"last.weight", "last.bias"}
    assert describe_trainable(net).startswith("10 of 30 parameters train (33.3 %)")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [({"strategy": "lorra"}, "finetuning"), ({"rank": 0}, "lora_rank"), ({"head": "nowhere"}, "nowhere")],
)
def test_bad_arguments_are_named(arguments, word):
    with pytest.raises(UserError, match=word):
        adapt(nn.ModuleDict({"body": nn.Linear(4, 4), "last": nn.Linear(4, 2)}), **arguments)


def test_nothing_to_adapt_is_an_error():
    net = nn.ModuleDict({"encoder": nn.Conv2d(3, 8, 3), "head": nn.Conv2d(8, 2, 1)})
    with pytest.raises(UserError, match="LoRA finds no"):
        adapt(net, "lora")
