"""Every family of 2D networks, tiny and random: trains, comes back from disk, merges; docs list what ran here."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from peft.tuners.lora import LoraLayer
from torch import nn

from mnseg.networks.adaptation import encoder_name, merge_adapters
from mnseg.networks.build import build_slice_network
from mnseg.networks.encoder_decoder import EncoderDecoder2d
from mnseg.networks.unreached import has_unreached_parameters

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/networks.md"

STAGES = {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1]}
WINDOWS = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4, "image_size": 64}
BLOCKS = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 24}
BEIT = BLOCKS | {"image_size": 32, "patch_size": 16, "out_indices": [1, 2, 3, 4], "use_relative_position_bias": True}
MAPS = ["stage1", "stage2", "stage3", "stage4"]
MOBILE = {"image_size": 64, "hidden_sizes": [16, 16, 16], "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16]}

# Name in the docs' table -> class that writes the weights, its configuration.
SEGMENTERS = {
    "SegFormer": ("SegformerForSemanticSegmentation", {
        "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2],
        "mlp_ratios": [2, 2, 2, 2], "decoder_hidden_size": 16,
    }),
    "UperNet + ConvNeXt": ("UperNetForSemanticSegmentation", {
        "backbone_config": {"model_type": "convnext", "out_features": MAPS} | STAGES, "hidden_size": 16,
    }),
    "UperNet + Swin": ("UperNetForSemanticSegmentation", {
        "backbone_config": {"model_type": "swin", "out_features": MAPS} | WINDOWS, "hidden_size": 16,
    }),
    "DPT": ("DPTForSemanticSegmentation", BLOCKS | {
        "image_size": 32, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 8, 16, 16],
        "fusion_hidden_size": 16, "use_auxiliary_head": True,
    }),
    "MobileNetV2 + DeepLabV3": ("MobileNetV2ForSemanticSegmentation", {"depth_multiplier": 0.25}),
    "MobileViT + DeepLabV3": ("MobileViTForSemanticSegmentation", MOBILE | {"aspp_out_channels": 16}),
    "BEiT": ("BeitForSemanticSegmentation", BEIT),
    "Data2Vec": ("Data2VecVisionForSemanticSegmentation", BEIT),
}  # fmt: skip
ENCODERS = {
    "ResNet": ("ResNetForImageClassification", STAGES | {"embedding_size": 8}),
    "ConvNeXt": ("ConvNextForImageClassification", STAGES),
    "DINOv3 ConvNeXt": ("DINOv3ConvNextModel", STAGES),
    "Swin": ("SwinForImageClassification", WINDOWS),
    "FocalNet": ("FocalNetForImageClassification", {"embed_dim": 8, "depths": [1, 1, 1, 1]}),
    "PVTv2": ("PvtV2ForImageClassification", {
        "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2],
    }),
    "Hiera": ("HieraForImageClassification", {
        "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "image_size": [64, 64],
    }),
    "DINOv2": ("Dinov2Model", BLOCKS | {"image_size": 56, "patch_size": 14}),
    "DINOv2 with registers": ("Dinov2WithRegistersModel", BLOCKS | {"image_size": 56, "patch_size": 14}),
    "DINOv3 ViT": ("DINOv3ViTModel", BLOCKS | {"num_register_tokens": 2}),
    "BEiT classifier": ("BeitForImageClassification", BEIT),
}  # fmt: skip
FAMILIES = SEGMENTERS | ENCODERS
VOC = "MobileNetV2 + DeepLabV3, VOC weights"
# Parameters that transformers builds but no logit depends on: tokens of the pretraining task, a norm after the last map
# that is read, blocks after BEiT's last out_index (which counts from the embedding), a residual path of DPT's first
# fusion.
UNUSED = {
    "UperNet + Swin": r"swin\.layernorm\.",
    "DPT": r"dpt\.layernorm\.|fusion_stage\.layers\.0\.residual_layer1\.",
    "BEiT": r"layers\.3\.",
    "Data2Vec": r"layer\.3\.",
    "Swin": r"swin\.layernorm\.",
    "FocalNet": r"focalnet\.layernorm\.",
    "DINOv2": r"mask_token",
    "DINOv2 with registers": r"mask_token",
    "DINOv3 ViT": r"mask_token",
}


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Family -> directory with a tiny random model as transformers saves it."""
    root, written = tmp_path_factory.mktemp("families"), {}

    def write_once(family: str) -> Path:
        if family not in written:
            class_name, settings = FAMILIES[family]
            model_class = getattr(transformers, class_name)
            torch.manual_seed(1000)  # no test's own seed: weights built there must differ from these
            model = model_class(model_class.config_class(num_labels=5, **settings))
            for module in model.modules():  # statistics that differ from their initial values
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.normal_(0, 0.1)
                    module.running_var.uniform_(0.8, 1.2)
            written[family] = root / re.sub(r"\W+", "_", family)
            model.save_pretrained(written[family])
            normalization = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.5]}
            (written[family] / "preprocessor_config.json").write_text(json.dumps(normalization))
        return written[family]

    return write_once


def volume() -> torch.Tensor:
    return torch.randn(1, 1, 40, 36, 2, generator=torch.Generator().manual_seed(1))


def disturb(network: nn.Module) -> None:
    """Move everything that trains, as an optimizer would: LoRA is no longer the identity."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in network.parameters():
            if p.requires_grad:
                p.add_(0.02 * torch.randn(p.shape, generator=generator))


@pytest.mark.parametrize("strategy", ["lora", "decoder", "whole"])
@pytest.mark.parametrize("family", [*FAMILIES, VOC])
def test_trains_reloads_and_merges(family, strategy, write, tmp_path, request):
    if family == VOC:
        directory = str(request.getfixturevalue("shared_dir") / "weights" / "deeplabv3_mobilenetv2_voc")
    else:
        directory = str(write(family))
    net = build_slice_network(directory, 3, finetuning=strategy, seed=0).train()
    assert isinstance(net.network_2d, EncoderDecoder2d) == (family in ENCODERS)
    logits = net(volume())
    assert logits.shape == (1, 3, 40, 36, 2)
    assert logits.isfinite().all()

    logits.square().mean().backward()
    encoder = encoder_name(net.network_2d) + "."
    for name, p in net.network_2d.named_parameters():
        in_encoder = name.startswith(encoder)
        wanted = strategy == "whole" or not in_encoder or (strategy == "lora" and (p.ndim <= 1 or ".lora_" in name))
        assert p.requires_grad == wanted, name
        used = not re.search(UNUSED.get(family, "$^"), name)
        assert (p.grad is not None) == (wanted and used), name
    unreached = any(p.requires_grad and p.grad is None for p in net.parameters())
    assert has_unreached_parameters(net, 1, (40, 36, 2)) == unreached, "what several processes ask beforehand"

    disturb(net)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    again = build_slice_network(directory, 3, finetuning=strategy, seed=1)
    again.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True), strict=True)
    with torch.no_grad():
        expected = net.eval()(volume())
        torch.testing.assert_close(again.eval()(volume()), expected, atol=1e-6, rtol=0)
        assert any(isinstance(m, LoraLayer) for m in net.modules()) == (strategy == "lora")
        if strategy == "lora":
            merged = merge_adapters(net)
            assert not any(isinstance(m, LoraLayer) for m in merged.modules())
            torch.testing.assert_close(merged(volume()), expected, atol=1e-4, rtol=1e-4)


def test_docs_list_what_runs_here():
    rows = re.findall(r"^\| ([^|]+?) \| `(\w+)` \| (own|appended) \|", PAGE.read_text(), re.MULTILINE)
    ran = {(n, c, "own") for n, (c, _) in SEGMENTERS.items()} | {(n, c, "appended") for n, (c, _) in ENCODERS.items()}
    assert set(rows) == ran | {(VOC, FAMILIES["MobileNetV2 + DeepLabV3"][0], "own")}
    assert len(rows) == len(FAMILIES) + 1

