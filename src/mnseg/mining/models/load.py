"""A promptable model of transformers by hub id or directory, or one clear error."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForMaskGeneration, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASK_GENERATION_MAPPING_NAMES

from mnseg.errors import UserError
from mnseg.mining.models.frozen import FrozenModel
from mnseg.mining.models.preprocessing import load_frame
from mnseg.mining.models.random_walker import RANDOM_WALKER
from mnseg.mining.models.sam import Sam, SamHQ
from mnseg.mining.models.sam2 import Sam2
from mnseg.networks.hub import first_line, is_local_only, quiet_transformers
from mnseg.networks.licenses import is_restrictive, license_of

__all__ = ["load_frozen"]

logger = logging.getLogger(__name__)

# Class of the model in transformers -> ours, and whether the family keeps an image's proportions.
FAMILIES: dict[str, tuple[type[FrozenModel], bool]] = {
    "SamModel": (Sam, True),
    "SamHQModel": (SamHQ, True),
    "Sam2Model": (Sam2, False),
    "Sam3TrackerModel": (Sam2, False),
    "EdgeTamModel": (Sam2, False),
}


def load_frozen(name: str, multimask: bool = True, device: torch.device | str = "cpu") -> FrozenModel:
    """See ``build_promptable``.

    Raises:
        UserError: there is no such model, it is none that takes prompts, or its weights do not fit.
    """
    local_only = is_local_only(name)
    config = _load_config(name, local_only)
    model = _load_model(name, config, local_only)
    if type(model).__name__ not in FAMILIES:
        raise UserError(f"{name} is a {type(model).__name__}, which this version does not know how to prompt: give one "
                        f"of {', '.join(FAMILIES)}.")
    family, keep_aspect = FAMILIES[type(model).__name__]
    frame = load_frame(name, _image_size(model), keep_aspect, local_only)
    if is_restrictive(licence := license_of(name)):
        message = f"The weights of {name} carry a restrictive licence ({licence}): check that your use is allowed."
        warnings.warn(message, UserWarning, stacklevel=2)
        logger.warning(message)
    return family(model, frame, multimask, device)


def _load_config(name: str, local_only: bool) -> PretrainedConfig:
    if os.path.isfile(name):
        raise UserError(f"{name} is a file: give a directory in the form of transformers (config.json, "
                        "model.safetensors). Checkpoints of other programs must be converted first.")
    if os.path.isdir(name) and not (Path(name) / "config.json").is_file():
        raise UserError(f"{name} holds no config.json: give the directory of a promptable model such as SAM, or "
                        f"{RANDOM_WALKER}.")
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(name, local_files_only=local_only)
    except Exception as error:  # OSError, ValueError, hub errors of several libraries: all mean that there is no model
        where = "there is no such directory, and the model hub cannot be reached" if local_only else first_line(error)
        if os.path.isdir(name):
            where = first_line(error)
        raise UserError(f"The promptable model {name} cannot be loaded ({where}): give a local directory, or "
                        f"{RANDOM_WALKER}, which needs no weights.") from error
    if config.model_type not in MODEL_FOR_MASK_GENERATION_MAPPING_NAMES:
        raise UserError(f"{name} is a {config.model_type} model, which is not promptable (points and boxes in, masks "
                        "out): give a SAM, MedSAM, SAM-HQ or SAM 2 model, or "
                        f"{RANDOM_WALKER}, which needs no weights.")
    return config


def _load_model(name: str, config: PretrainedConfig, local_only: bool) -> nn.Module:
    try:
        with quiet_transformers():
            model, info = AutoModelForMaskGeneration.from_pretrained(
                name, config=config, local_files_only=local_only, dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:  # no weights, a damaged file, other shapes, or a library that the family needs
        raise UserError(f"The weights of {name} cannot be loaded ({first_line(error)}): fetch the model again, or give "
                        f"another one or {RANDOM_WALKER}.") from error
    if missing := sorted(info["missing_keys"]):
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise UserError(f"The weights of {name} are not those of a {type(model).__name__} ({shown} missing): fetch the "
                        "model again, or give another one.")
    return model


def _image_size(model: nn.Module) -> int:
    size = model.config.prompt_encoder_config.image_size
    return size if isinstance(size, int) else max(size)
