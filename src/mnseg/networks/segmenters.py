"""Segmenters of transformers: the class for a configuration, its weights, and a check that all of them arrived."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSemanticSegmentation, PretrainedConfig, SegformerConfig

from mnseg.errors import UserError
from mnseg.networks.hub import first_line, quiet_transformers

__all__ = ["load_semantic_segmenter", "tiny_segformer_config"]

logger = logging.getLogger(__name__)


def load_semantic_segmenter(name: str, config: PretrainedConfig, pretrained: bool, local_only: bool) -> nn.Module:
    """A model of ``AutoModelForSemanticSegmentation``; only its last layer may be new.

    Raises:
        UserError: the weights are not found, damaged, or of other shapes than the configuration says.
    """
    # Auxiliary heads serve a training loss that M&N does not use; UperNet would compute one on every slice.
    if getattr(config, "use_auxiliary_head", False):
        config.use_auxiliary_head = False
    if pretrained:
        model = _from_pretrained(name, config, local_only)
    else:
        model = AutoModelForSemanticSegmentation.from_config(config).float()
    _drop_unused(model)
    return model


def tiny_segformer_config(num_classes: int) -> SegformerConfig:
    """A SegFormer small enough to train from random weights on a CPU."""
    return SegformerConfig(
        hidden_sizes=[16, 32, 64, 128],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 4, 8],
        mlp_ratios=[2, 2, 2, 2],
        decoder_hidden_size=64,
        drop_path_rate=0.0,
        num_labels=num_classes,
    )


def _from_pretrained(name: str, config: PretrainedConfig, local_only: bool) -> nn.Module:
    try:
        with quiet_transformers():
            model, info = AutoModelForSemanticSegmentation.from_pretrained(
                name,
                config=config,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                local_files_only=local_only,
                dtype=torch.float32,
            )
    except Exception as e:  # OSError (no weights), SafetensorError (damaged file), RuntimeError (shapes)
        raise UserError(
            f"The weights of {name} cannot be loaded ({first_line(e)}): set pretrained: false to start from random "
            "weights, or give a local directory."
        ) from e
    _check_fit(name, model, info)
    return model


def _check_fit(name: str, model: nn.Module, info: dict[str, Any]) -> None:
    """Refuse weights that leave anything but the replaced head (or an absent decoder) random."""
    classes = model.config.num_labels
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    wrong = []
    for key, stored, wanted in info["mismatched_keys"]:
        stored, wanted = tuple(stored), tuple(wanted)
        if not (wanted[0] == classes and stored[1:] == wanted[1:]):
            wrong.append(f"{key} {stored} instead of {wanted}")
    missing = {k for k in info["missing_keys"] if not k.endswith("num_batches_tracked")}
    prefix = f"{model.base_model_prefix}." if model.base_model_prefix else "backbone."
    outside = {k for k in shapes if not k.startswith(prefix) and not k.endswith("num_batches_tracked")}
    if missing and missing == outside:
        logger.warning("%s holds an encoder only: its decoder starts from random weights.", name)
    else:
        wrong += [f"{k} is missing" for k in sorted(missing)]
    if wrong:
        shown = ", ".join(wrong[:4]) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else "")
        raise UserError(
            f"The weights of {name} do not fit its config.json ({shown}): set pretrained: false to start from random "
            "weights, or give a local directory whose weights fit."
        )


def _drop_unused(model: nn.Module) -> None:
    """Remove what is computed but never read: MobileNetV2's last 1x1 convolution, its costliest layer."""
    encoder = getattr(model, "mobilenet_v2", None)
    if model.config.model_type == "mobilenet_v2" and encoder is not None:
        encoder.conv_1x1 = nn.Identity()
