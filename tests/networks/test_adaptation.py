"""Fine-tuning strategies on four families: what trains, what is saved, what merges."""

from __future__ import annotations

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from mnseg.errors import UserError
from mnseg.networks.adaptation import adapt, describe_trainable, encoder_name, merge_adapters
from mnseg.networks.build import build_slice_network
from mnseg.networks.pretrained import load_segmenter

FAMILIES = ["segformer", "upernet", "beit", "mobilenet"]
ENCODERS = {"segformer": "segformer", "upernet": "backbone", "beit": "beit", "mobilenet": "mobilenet_v2"}
families = pytest.mark.parametrize("model_dir", FAMILIES, indirect=True)


def volume(depth: int = 3) -> torch.Tensor:
    return torch.randn(1, 1, 40, 36, depth, generator=torch.Generator().manual_seed(1))


def disturb(network: nn.Module) -> None:
    """Move everything that trains, as an optimizer would: LoRA is no longer the identity."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in network.parameters():
            if p.requires_grad:
                p.add_(0.02 * torch.randn(p.shape, generator=generator))


@families
def test_lora_at_first_leaves_the_output_unchanged(model_dir):
    plain, adapted = (build_slice_network(model_dir, 3, finetuning=s, seed=0).eval() for s in ("whole", "lora"))
    with torch.no_grad():
        torch.testing.assert_close(adapted(volume()), plain(volume()), atol=1e-6, rtol=0)


@families
@pytest.mark.parametrize("strategy", ["lora", "decoder"])
def test_save_and_reload_in_one_state_dict(model_dir, strategy, tmp_path):
    first = build_slice_network(model_dir, 3, finetuning=strategy, seed=0)
    disturb(first)
    first.train()(volume())
    torch.save(first.state_dict(), tmp_path / "net.pt")
    second = build_slice_network(model_dir, 3, finetuning=strategy, seed=1)
    second.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(second.eval()(volume()), first.eval()(volume()), atol=1e-6, rtol=0)


@families
def test_merging_keeps_the_logits(model_dir):
    net = build_slice_network(model_dir, 3, seed=0)
    before = net.eval()(volume()).detach()
    disturb(net)
    with torch.no_grad():
        out = net(volume())
        merged = merge_adapters(net)
        assert (out - before).abs().max() > 1e-3  # the adapters do something
        torch.testing.assert_close(merged(volume()), out, atol=1e-4, rtol=1e-4)
    assert not any(isinstance(m, LoraLayer) for m in merged.modules())
    assert any(isinstance(m, LoraLayer) for m in net.modules())


@families
@pytest.mark.parametrize("strategy", ["lora", "decoder", "whole"])
def test_only_the_intended_parameters_get_gradients(model_dir, strategy, request):
    net = build_slice_network(model_dir, 3, finetuning=strategy, seed=0).train()
    net(volume()).square().mean().backward()
    encoder = encoder_name(net.network_2d)
    assert encoder in ENCODERS.values()
    for name, p in net.network_2d.named_parameters():
        in_encoder = name.startswith(f"{encoder}.")
        wanted = strategy == "whole" or not in_encoder or (strategy == "lora" and (p.ndim <= 1 or ".lora_" in name))
        assert p.requires_grad == wanted, name
        assert wanted or p.grad is None, name
    trained = [n for n, p in net.network_2d.named_parameters() if p.grad is not None]
    assert any("classifier" in n for n in trained)
    assert any(n.startswith(f"{encoder}.") for n in trained) == (strategy != "decoder")


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
