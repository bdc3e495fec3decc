"""Loading 2D segmenters: what arrives, and every way in which it may not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import SegformerForSemanticSegmentation

from mnseg.errors import UserError
from mnseg.networks import hub, pretrained, segmenters
from mnseg.networks.build import build_slice_network
from mnseg.networks.input_normalization import IMAGENET_MEAN
from mnseg.networks.licenses import NVIDIA_LICENSE, is_restrictive, license_of
from mnseg.networks.pretrained import load_segmenter


@pytest.fixture
def segformer(models_dir, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(models_dir / "segformer", tmp_path / "segformer"))


def edit_json(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_weights(directory: Path, change) -> None:
    path = directory / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_weights_arrive_and_only_the_head_is_new(segformer):
    stored = SegformerForSemanticSegmentation.from_pretrained(segformer).state_dict()
    loaded = load_segmenter(str(segformer), 3)
    state = loaded.model.state_dict()
    assert state.keys() == stored.keys()
    differing = {k for k, v in state.items() if not torch.equal(v, stored[k])}
    assert differing == {"decode_head.classifier.weight", "decode_head.classifier.bias"}
    assert state["decode_head.classifier.weight"].shape[0] == 3
    assert loaded.mean == (0.5, 0.4, 0.3)
    assert loaded.std == (0.2, 0.25, 0.5)
    assert loaded.image_size is None


def test_random_weights_only_when_asked(segformer):
    stored = SegformerForSemanticSegmentation.from_pretrained(segformer).state_dict()
    state = load_segmenter(str(segformer), 3, pretrained=False).model.state_dict()
    matrices = [k for k, v in stored.items() if v.ndim > 1 and "classifier" not in k]
    assert matrices
    assert not any(torch.equal(state[k], stored[k]) for k in matrices)


def test_rescaling_is_folded_into_mean_and_std(segformer):
    """x in [0, 1] -> 2x - 1, said as x255 * (1 / 127.5), then minus 1."""
    edit_json(
        segformer / "preprocessor_config.json", rescale_factor=1 / 127.5, image_mean=[1, 1, 1], image_std=[1, 1, 1]
    )
    loaded = load_segmenter(str(segformer), 3)
    assert loaded.mean == pytest.approx((0.5, 0.5, 0.5))
    assert loaded.std == pytest.approx((0.5, 0.5, 0.5))


def test_no_normalisation_and_no_rescaling(segformer):
    edit_json(segformer / "preprocessor_config.json", do_rescale=False, do_normalize=False)
    loaded = load_segmenter(str(segformer), 3)
    assert loaded.mean == (0, 0, 0)
    assert loaded.std == pytest.approx((1 / 255,) * 3)


def test_missing_preprocessor_means_imagenet_with_a_warning(segformer, caplog):
    (segformer / "preprocessor_config.json").unlink()
    assert load_segmenter(str(segformer), 3).mean == IMAGENET_MEAN
    assert "preprocessor_config.json" in caplog.text


def test_missing_weight_is_named(segformer):
    edit_weights(segformer, lambda w: w.pop("decode_head.linear_fuse.weight"))
    with pytest.raises(UserError, match=r"decode_head\.linear_fuse\.weight is missing"):
        load_segmenter(str(segformer), 3)


def test_weight_of_another_shape_is_named(segformer):
    edit_weights(segformer, lambda w: w.update({"decode_head.linear_fuse.weight": torch.zeros(7, 7, 1, 1)}))
    with pytest.raises(UserError, match=r"decode_head\.linear_fuse\.weight \(7, 7, 1, 1\)"):
        load_segmenter(str(segformer), 3)


def test_encoder_only_weights_start_a_new_decoder_and_say_so(segformer, caplog):
    def drop(weights):
        for key in [k for k in weights if k.startswith("decode_head.")]:
            del weights[key]

    edit_weights(segformer, drop)
    load_segmenter(str(segformer), 3)
    assert "encoder only" in caplog.text


def test_damaged_and_absent_weights(segformer):
    path = segformer / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="pretrained: false"):
        load_segmenter(str(segformer), 3)
    path.unlink()
    with pytest.raises(UserError, match="pretrained: false"):
        load_segmenter(str(segformer), 3)
    load_segmenter(str(segformer), 3, pretrained=False)


def test_not_a_segmenter(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 8}))
    with pytest.raises(UserError, match="not a segmenter"):
        load_segmenter(str(tmp_path), 3)


def test_empty_directory_and_unreachable_hub(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"config\.json"):
        load_segmenter(str(tmp_path), 3)
    monkeypatch.setattr(hub, "hub_reachable", lambda: False)
    with pytest.raises(UserError, match="give a local directory"):
        load_segmenter("nobody/has-this-model", 3)


@pytest.mark.parametrize("name", ["/nowhere/weights", "./weights", "weights/of/mine", "~/weights"])
def test_a_directory_that_does_not_exist_is_not_looked_for_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(hub, "cached_file", None)
    monkeypatch.setattr(pretrained.AutoConfig, "from_pretrained", None)
    with pytest.raises(UserError, match=f"directory {name} does not exist"):
        load_segmenter(name, 3)


def test_tiny_segformer_has_no_weights_to_load():
    with pytest.raises(UserError, match="pretrained: false"):
        load_segmenter("segformer-tiny-random", 3)
    with pytest.raises(UserError, match="num_classes"):
        load_segmenter("segformer-tiny-random", 1, pretrained=False)


def test_licence_from_card_config_and_origin(segformer):
    assert license_of(str(segformer)) is None
    edit_json(segformer / "config.json", _name_or_path="nvidia/mit-b0")
    assert "NVIDIA" in license_of(str(segformer))
    edit_json(segformer / "config.json", license="apache-2.0")
    assert license_of(str(segformer)) == "apache-2.0"
    (segformer / "README.md").write_text("---\ntags: [x]\nlicense: other\nlicense_name: 'house'\n---\nlicense: mit\n")
    assert license_of(str(segformer)) == "other (house)"


def test_restrictive_licence_warns_once(segformer):
    (segformer / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    with pytest.warns(UserWarning, match="cc-by-nc-4.0") as caught:
        for _ in range(2):
            assert load_segmenter(str(segformer), 3).licence == "cc-by-nc-4.0"
    assert len([w for w in caught if "licence" in str(w.message)]) == 1


@pytest.mark.parametrize(
    ("licence", "expected"),
    [("apache-2.0", False), ("mit", False), (None, False), ("cc-by-nc-sa-4.0", True), ("other", True)]
    + [(NVIDIA_LICENSE, True), ("cc-by-4.0", False)],
)
def test_which_licences_restrict(licence, expected):
    assert is_restrictive(licence) is expected


@pytest.mark.parametrize("model_dir", ["mobilenet"], indirect=True)
def test_mobilenet_momentum_and_input_range(model_dir):
    loaded = load_segmenter(model_dir, 3)
    assert {m.momentum for m in loaded.model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.01}
    assert loaded.mean == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize("model_dir", ["mobilenet"], indirect=True)
def test_dropping_the_unread_layer_keeps_the_logits(model_dir, monkeypatch):
    x = torch.randn(1, 3, 48, 40)
    trimmed = load_segmenter(model_dir, 21).model.eval()
    monkeypatch.setattr(segmenters, "_drop_unused", lambda model: None)
    full = load_segmenter(model_dir, 21).model.eval()
    with torch.no_grad():
        torch.testing.assert_close(trimmed(x).logits, full(x).logits)


def test_auxiliary_heads_are_left_out(models_dir):
    assert load_segmenter(str(models_dir / "upernet"), 3).model.auxiliary_head is None


def test_build_is_reproducible_and_leaves_the_global_generator_alone(segformer, caplog):
    caplog.set_level("INFO")
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = build_slice_network(str(segformer), 3, seed=3)
    assert torch.equal(torch.rand(1), expected)
    second = build_slice_network(str(segformer), 3, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    trained = sum(p.numel() for p in first.parameters() if p.requires_grad)
    assert f"{trained:,} of" in caplog.text
