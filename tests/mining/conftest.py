"""Tiny promptable models with random weights, written to disk as transformers writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2PromptEncoderConfig,
    Sam2VideoConfig,
    Sam2VisionConfig,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    Sam3VisionConfig,
    Sam3ViTConfig,
    SamConfig,
    SamHQConfig,
    SamHQMaskDecoderConfig,
    SamHQModel,
    SamHQPromptEncoderConfig,
    SamHQVisionConfig,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
)
from transformers.models.sam3_tracker.configuration_sam3_tracker import (
    Sam3TrackerMaskDecoderConfig,
    Sam3TrackerPromptEncoderConfig,
)

from one_thread import one_thread

EDGE = 64
NORMALIZATION = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "resample": 2}
VISION = {"hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": EDGE, "patch_size": 8, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 48,
          "num_pos_feats": 8}  # fmt: skip
PROMPT = {"hidden_size": 16, "image_size": EDGE, "patch_size": 8, "mask_input_channels": 4}
DECODER = {"hidden_size": 16, "mlp_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
           "iou_head_hidden_dim": 16}  # fmt: skip


def _sam() -> SamModel:
    return SamModel(SamConfig(vision_config=SamVisionConfig(**VISION), prompt_encoder_config=SamPromptEncoderConfig(
        **PROMPT), mask_decoder_config=SamMaskDecoderConfig(**DECODER)))


def _sam_hq() -> SamHQModel:
    return SamHQModel(SamHQConfig(vision_config=SamHQVisionConfig(**VISION), prompt_encoder_config=(
        SamHQPromptEncoderConfig(**PROMPT)), mask_decoder_config=SamHQMaskDecoderConfig(**DECODER, vit_dim=32)))


def _sam2() -> Sam2Model:
    backbone = Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, image_size=[EDGE, EDGE], global_attention_blocks=[3],
        blocks_per_stage=[1, 1, 2, 1], embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[8, 4, 4, 2], window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=16,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip
    prompt = Sam2PromptEncoderConfig(**(PROMPT | {"patch_size": 16}))
    return Sam2Model(Sam2Config(vision_config=vision, prompt_encoder_config=prompt,
                                mask_decoder_config=Sam2MaskDecoderConfig(**DECODER)))


def _sam3() -> Sam3TrackerModel:
    backbone = Sam3ViTConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=EDGE,
        patch_size=16, window_size=2, global_attn_indexes=[1], pretrain_image_size=32,
    )  # fmt: skip
    vision = Sam3VisionConfig(
        backbone_config=backbone, fpn_hidden_size=16, backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]]
    )
    prompt = Sam3TrackerPromptEncoderConfig(**(PROMPT | {"patch_size": 16}))
    return Sam3TrackerModel(Sam3TrackerConfig(vision_config=vision, prompt_encoder_config=prompt,
                                              mask_decoder_config=Sam3TrackerMaskDecoderConfig(**DECODER)))


_one_thread = pytest.fixture(scope="package", autouse=True)(one_thread)


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory) -> Path:
    """Directory with sam/, sam_hq/, sam2/, sam3/, and sam2_video/: SAM 2 as the hub's files describe it."""
    root = tmp_path_factory.mktemp("promptable")
    square = {"size": {"height": EDGE, "width": EDGE}}
    padded = {"size": {"longest_edge": EDGE}, "pad_size": {"height": EDGE, "width": EDGE}}
    families = {"sam": (_sam, padded), "sam_hq": (_sam_hq, padded), "sam2": (_sam2, square), "sam3": (_sam3, square)}
    for name, (make, size) in families.items():
        torch.manual_seed(1000)
        model = make()
        model.save_pretrained(root / name)
        if name == "sam2":
            sam2 = model.config
        (root / name / "preprocessor_config.json").write_text(json.dumps(NORMALIZATION | size))
    parts = {part: getattr(sam2, part) for part in ("vision_config", "prompt_encoder_config",
                                                            "mask_decoder_config")}  # fmt: skip
    Sam2VideoConfig(**parts).save_pretrained(root / "sam2_video")
    for name in ("model.safetensors", "preprocessor_config.json"):
        (root / "sam2_video" / name).write_bytes((root / "sam2" / name).read_bytes())
    return root
