"""Promptable models by name, and every way in which there may be none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import SegformerForSemanticSegmentation

from mnseg.errors import UserError
from mnseg.mining import build_promptable
from mnseg.mining.models.sam2 import Sam2
from mnseg.networks import hub
from mnseg.networks.segmenters import tiny_segformer_config


@pytest.fixture
def sam(models_dir, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(models_dir / "sam", tmp_path / "sam"))


def edit_weights(directory: Path, change) -> None:
    path = directory / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_the_hubs_sam2_files_are_sam2(models_dir):
    """They call themselves sam2_video: the same weights with a memory for videos."""
    model = build_promptable(str(models_dir / "sam2_video"))
    assert isinstance(model, Sam2)
    assert model.identity == build_promptable(str(models_dir / "sam2")).identity


def test_identity_follows_weights_and_preprocessing(sam):
    first = build_promptable(str(sam)).identity
    assert build_promptable(str(shutil.copytree(sam, sam.parent / "elsewhere"))).identity == first
    settings = json.loads((sam / "preprocessor_config.json").read_text())
    (sam / "preprocessor_config.json").write_text(json.dumps(settings | {"image_mean": [0.5, 0.5, 0.5]}))
    second = build_promptable(str(sam)).identity
    edit_weights(sam, lambda weights: weights["vision_encoder.patch_embed.projection.bias"].add_(1e-3))
    third = build_promptable(str(sam)).identity
    assert len({first, second, third}) == 3


def test_no_promptable_model(tmp_path):
    SegformerForSemanticSegmentation(tiny_segformer_config(2)).save_pretrained(tmp_path / "segformer")
    with pytest.raises(UserError, match=r"segformer is a segformer model, which is not promptable"):
        build_promptable(str(tmp_path / "segformer"))


def test_no_model_at_all(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="holds no config.json"):
        build_promptable(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "unheard_of"}')
    with pytest.raises(UserError, match=f"{tmp_path} cannot be loaded .*unheard_of"):
        build_promptable(str(tmp_path))
    monkeypatch.setattr(hub, "hub_reachable", lambda: False)
    with pytest.raises(UserError, match="no such directory, and the model hub cannot be reached.*random-walker"):
        build_promptable("facebook/no-such-sam")


def test_weights_that_do_not_arrive(sam):
    (sam / "model.safetensors").rename(sam / "kept")
    with pytest.raises(UserError, match="weights of .*sam cannot be loaded"):
        build_promptable(str(sam))
    (sam / "model.safetensors").write_bytes((sam / "kept").read_bytes()[:-50])
    with pytest.raises(UserError, match="weights of .*sam cannot be loaded"):
        build_promptable(str(sam))
    (sam / "model.safetensors").write_bytes((sam / "kept").read_bytes())

    def drop_decoder(weights):
        for name in [name for name in weights if name.startswith("mask_decoder.")]:
            del weights[name]

    edit_weights(sam, drop_decoder)
    with pytest.raises(UserError, match=r"not those of a SamModel \(mask_decoder\..* and \d+ more missing\)"):
        build_promptable(str(sam))


def test_weights_of_other_shapes(sam):
    edit_weights(sam, lambda weights: weights.update({"vision_encoder.pos_embed": weights["vision_encoder.pos_embed"][
        :, :4].clone()}))
    with pytest.raises(UserError, match="weights of .*sam"):
        build_promptable(str(sam))


def test_settings_of_the_walker_are_not_sams(sam):
    with pytest.raises(UserError, match="takes no beta"):
        build_promptable(str(sam), beta=10)


def test_a_restrictive_license_is_told(sam):
    (sam / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    with pytest.warns(UserWarning, match="cc-by-nc-4.0"):
        build_promptable(str(sam))


def test_a_checkpoint_of_another_program_is_told(tmp_path):
    (tmp_path / "sam_vit_b.pth").write_bytes(b"weights")
    with pytest.raises(UserError, match="sam_vit_b.pth is a file: give a directory in the form of transformers"):
        build_promptable(str(tmp_path / "sam_vit_b.pth"))
