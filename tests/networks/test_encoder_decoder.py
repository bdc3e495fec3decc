"""Encoder-only models: whose weights arrive, which maps the decoder reads, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    Dinov2Backbone,
    Dinov2Config,
    FocalNetBackbone,
    FocalNetConfig,
    HieraBackbone,
    HieraConfig,
    ResNetBackbone,
    ResNetConfig,
    ResNetForImageClassification,
)

from mnseg.errors import UserError
from mnseg.networks.encoder_decoder import EncoderDecoder2d
from mnseg.networks.feature_maps import choose_feature_maps
from mnseg.networks.plain_pyramid import PlainPyramid
from mnseg.networks.pretrained import load_segmenter

STAGES = {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1]}
MAPS = ["stage1", "stage2", "stage3", "stage4"]
BLOCKS = {"hidden_size": 16, "num_attention_heads": 2, "patch_size": 14, "image_size": 56}


@pytest.fixture
def resnet(tmp_path) -> Path:
    torch.manual_seed(1000)
    ResNetForImageClassification(ResNetConfig(embedding_size=8, **STAGES)).save_pretrained(tmp_path)
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    return tmp_path


def edit_weights(directory: Path, change) -> None:
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def test_the_encoder_is_the_stored_one_and_the_decoder_is_new(resnet, caplog):
    caplog.set_level("INFO")
    stored = load_file(resnet / "model.safetensors")
    loaded = load_segmenter(str(resnet), 3)
    encoder = loaded.model.backbone.state_dict()
    kept = {name.removeprefix("resnet.") for name in stored if name.startswith("resnet.")}
    assert kept == set(encoder)
    assert all(torch.equal(encoder[name], stored[f"resnet.{name}"]) for name in kept)
    assert (loaded.mean, loaded.std) == ((0.5, 0.4, 0.3), (0.2, 0.25, 0.5))
    assert [r.message for r in caplog.records if "decoder with skip connections is appended" in r.message]


def test_norms_that_only_a_backbone_has_start_as_the_identity(tmp_path):
    torch.manual_seed(1000)
    ConvNextForImageClassification(ConvNextConfig(**STAGES)).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    encoder = load_segmenter(str(tmp_path), 3).model.backbone.state_dict()
    new = {name for name in encoder if f"convnext.{name}" not in stored}
    assert new == {f"hidden_states_norms.{m}.{part}" for m in MAPS for part in ("weight", "bias")}
    assert all(torch.all(encoder[name] == name.endswith("weight")) for name in new)
    assert all(torch.equal(value, stored[f"convnext.{name}"]) for name, value in encoder.items() if name not in new)


def test_random_weights_only_when_asked(resnet):
    stored = load_file(resnet / "model.safetensors")
    encoder = load_segmenter(str(resnet), 3, pretrained=False).model.backbone.state_dict()
    matrices = [name for name, value in encoder.items() if value.ndim > 1]
    assert matrices
    assert not any(torch.equal(encoder[name], stored[f"resnet.{name}"]) for name in matrices)


def test_weights_that_do_not_fit_are_named(resnet):
    key = "resnet.encoder.stages.3.layers.0.shortcut.convolution.weight"
    edit_weights(resnet, lambda w: w.update({key: torch.zeros(5, 5, 1, 1)}))
    with pytest.raises(UserError, match=r"stages\.3\.layers\.0\.shortcut\.convolution\.weight \(5, 5, 1, 1\)"):
        load_segmenter(str(resnet), 3)
    edit_weights(resnet, lambda w: w.pop(key))
    with pytest.raises(UserError, match=r"shortcut\.convolution\.weight is missing"):
        load_segmenter(str(resnet), 3)
    (resnet / "model.safetensors").unlink()
    with pytest.raises(UserError, match="set pretrained: false"):
        load_segmenter(str(resnet), 3)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"model_type": "bert", "hidden_size": 8}, "not a segmenter and not an image encoder"),
        ({"model_type": "maskformer"}, "masks with a class each"),
        ({"model_type": "timm_backbone", "backbone": "resnet18"}, "cannot be loaded"),
        ({"model_type": "resnet", "num_channels": 1}, "reads 1 channels"),
    ],
)
def test_models_without_pixel_logits_or_maps_are_refused(config, sentence, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=sentence):
        load_segmenter(str(tmp_path), 3, pretrained=False)


@pytest.mark.parametrize("size", [(32, 32), (33, 50), (7, 96)])
def test_padding_is_repeated_edges_and_leaves_no_trace(size):
    net = EncoderDecoder2d(ResNetBackbone(ResNetConfig(embedding_size=8, out_features=MAPS, **STAGES)), 3).eval()
    x = torch.randn(2, 3, *size)
    padded = F.pad(x, (0, -size[1] % 32, 0, -size[0] % 32), mode="replicate")
    with torch.no_grad():
        out = net(x)
        torch.testing.assert_close(out, net(padded)[..., : size[0], : size[1]])
    assert out.shape == (2, 3, *size)


def test_the_decoder_reads_every_map():
    """Logits follow each of the four maps: a skip connection that is dropped would leave a map without effect."""
    net = EncoderDecoder2d(ResNetBackbone(ResNetConfig(embedding_size=8, out_features=MAPS, **STAGES)), 3)
    maps = [torch.randn(1, c, 32 // 2**i, 32 // 2**i, requires_grad=True) for i, c in enumerate([8, 12, 16, 24])]
    net.head(net.decoder([None, *maps], skip_connect=3)).square().mean().backward()
    assert all(m.grad.abs().max() > 0 for m in maps)


def test_a_hierarchy_gives_the_last_map_of_each_stride():
    backbone = FocalNetBackbone(
        FocalNetConfig(embed_dim=8, hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1], out_features=MAPS)
    )
    maps = choose_feature_maps(backbone)  # its strides are 8, 16, 32, 32
    assert (maps.channels, maps.strides, maps.image_size) == ((16, 32, 64), (8, 16, 32), None)
    assert backbone.out_features == ["stage1", "stage2", "stage4"]


def test_a_plain_transformer_gives_a_map_after_each_quarter():
    config = Dinov2Config(num_hidden_layers=12, **BLOCKS)
    config.out_features = [f"stage{i}" for i in range(1, 13)]
    backbone = Dinov2Backbone(config)
    maps = choose_feature_maps(backbone)
    assert (maps.channels, maps.strides, maps.is_plain) == ((16,) * 4, (14,) * 4, True)
    assert backbone.out_features == ["stage3", "stage6", "stage9", "stage12"]


def test_too_few_blocks_are_named():
    config = Dinov2Config(num_hidden_layers=2, **BLOCKS)
    config.out_features = ["stage1", "stage2"]
    with pytest.raises(UserError, match="2 blocks of one stride"):
        choose_feature_maps(Dinov2Backbone(config))


def test_strides_must_double():
    config = ResNetConfig(embedding_size=8, out_features=["stage1", "stage3", "stage4"], **STAGES)
    with pytest.raises(UserError, match=r"strides \[4, 16, 32\]"):
        choose_feature_maps(ResNetBackbone(config))


def test_an_encoder_of_one_input_size_says_so():
    config = HieraConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], image_size=[64, 64])
    config.out_features = MAPS
    net = EncoderDecoder2d(HieraBackbone(config), 3)
    assert net.image_size == 64
    assert net(torch.randn(1, 3, 64, 64)).shape == (1, 3, 64, 64)


def test_the_pyramid_spans_four_strides():
    pyramid = PlainPyramid([16] * 4)
    maps = pyramid([torch.randn(2, 16, 6, 4) for _ in range(4)])
    assert [tuple(m.shape) for m in maps] == [(2, 4, 24, 16), (2, 8, 12, 8), (2, 16, 6, 4), (2, 16, 3, 2)]
    assert tuple(m.shape[1] for m in maps) == pyramid.channels
