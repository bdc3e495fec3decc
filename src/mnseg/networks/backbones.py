"""Image encoders of transformers: the backbone class for a configuration, and its weights."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING_NAMES as BACKBONES

from mnseg.errors import UserError
from mnseg.networks.hub import first_line, quiet_transformers

__all__ = ["BACKBONES", "load_backbone"]

# A backbone normalizes what it hands out (ConvNeXt, Swin); classifiers have no such layers. They start as the identity
# on normalized maps, so they are new without being random.
NORMS_OF_MAPS = "hidden_states_norms."


def load_backbone(name: str, config: PretrainedConfig, pretrained: bool, local_only: bool) -> PreTrainedModel:
    """A backbone of ``AutoBackbone``'s families that hands out the feature maps of all its stages.

    ``AutoBackbone.from_pretrained`` fails on a local directory, so the class is taken from its mapping.

    Raises:
        UserError: the class cannot be built here, or weights are missing, damaged or of another shape.
    """
    if getattr(config, "num_channels", 3) != 3:
        raise UserError(f"{name} reads {config.num_channels} channels: give an encoder of color images.")
    try:
        config.out_features = [stage for stage in config.stage_names if stage != "stem"]
        backbone_class = getattr(transformers, BACKBONES[config.model_type])
        with quiet_transformers():
            if not pretrained:
                return backbone_class(config).float()
            backbone, info = backbone_class.from_pretrained(
                name,
                config=config,
                ignore_mismatched_sizes=True,  # reported below, all in one sentence
                output_loading_info=True,
                local_files_only=local_only,
                dtype=torch.float32,
            )
    except Exception as e:  # ImportError (timm), OSError (no weights), SafetensorError (damaged file), ValueError
        hint = "set pretrained: false to start from random weights, or give a local directory" if pretrained else None
        raise UserError(
            f"The encoder {name} cannot be loaded ({first_line(e)}): {hint or 'give another model'}."
        ) from e
    _require_all_weights(name, info)
    return backbone


def _require_all_weights(name: str, info: dict[str, Any]) -> None:
    wrong = [f"{key} {tuple(stored)} instead of {tuple(wanted)}" for key, stored, wanted in info["mismatched_keys"]]
    missing = (k for k in info["missing_keys"] if not k.startswith(NORMS_OF_MAPS) and "num_batches_tracked" not in k)
    wrong += [f"{key} is missing" for key in sorted(missing)]
    if wrong:
        shown = ", ".join(wrong[:4]) + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else "")
        raise UserError(
            f"The weights of the encoder {name} do not fit its config.json ({shown}): set pretrained: false to start "
            "from random weights, or give a model whose weights fit."
        )
