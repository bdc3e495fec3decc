"""Small segmenters written to disk as transformers writes them; nothing comes from a hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    BeitConfig,
    BeitForSemanticSegmentation,
    ConvNextConfig,
    SegformerForSemanticSegmentation,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from mnseg.networks.segmenters import tiny_segformer_config
from one_thread import one_thread

OLD_CLASSES = 5


def _beit() -> BeitForSemanticSegmentation:
    config = BeitConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=64,
        patch_size=16,
        out_indices=[1, 2, 3, 4],
        use_relative_position_bias=True,
        num_labels=OLD_CLASSES,
    )
    return BeitForSemanticSegmentation(config)


def _upernet() -> UperNetForSemanticSegmentation:
    backbone = ConvNextConfig(
        hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    return UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=backbone, hidden_size=16, num_labels=OLD_CLASSES)
    )


def _segformer() -> SegformerForSemanticSegmentation:
    return SegformerForSemanticSegmentation(tiny_segformer_config(OLD_CLASSES))


_one_thread = pytest.fixture(scope="package", autouse=True)(one_thread)


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory) -> Path:
    """Directory with segformer/, upernet/ and beit/, each with weights for five classes."""
    root = tmp_path_factory.mktemp("models")
    for name, make in {"segformer": _segformer, "upernet": _upernet, "beit": _beit}.items():
        torch.manual_seed(1000)  # no test's own seed: weights built there must differ from these
        model = make()
        for module in model.modules():  # statistics and gains that differ from their initial values
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.8, 1.2)
        model.save_pretrained(root / name)
        settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.5]}
        (root / name / "preprocessor_config.json").write_text(json.dumps(settings))
    return root


@pytest.fixture
def model_dir(request, models_dir) -> str:
    """Indirect: "segformer", "upernet", "beit" from `models_dir`, "mobilenet" from the shared weights."""
    if request.param == "mobilenet":
        return str(request.getfixturevalue("shared_dir") / "weights" / "deeplabv3_mobilenetv2_voc")
    return str(models_dir / request.param)
