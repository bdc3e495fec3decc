"""Pretrained 2D segmenters from transformers: weights, input normalisation and licence, or one clear error."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from huggingface_hub import constants as hub_constants
from torch import nn
from transformers import AutoConfig, AutoModelForSemanticSegmentation, PretrainedConfig, SegformerConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES as SEGMENTERS
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from mnseg.errors import UserError

__all__ = ["TINY_SEGFORMER", "LoadedSegmenter", "is_restrictive", "license_of", "load_segmenter"]

logger = logging.getLogger(__name__)

TINY_SEGFORMER = "segformer-tiny-random"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Families that take slices of any size; a family outside this set whose configuration states an image size (position
# embeddings: BEiT, DPT, …) gets its slices resized to that size.
ANY_SIZE_FAMILIES = {"mobilenet_v2", "mobilevit", "mobilevitv2", "segformer", "upernet"}

# transformers gives MobileNetV2 a momentum of 0.997, TensorFlow's convention: in torch's the running statistics would
# follow the last batch alone.
MAX_MOMENTUM = 0.5
PRETRAINED_MOMENTUM = 0.01
RANDOM_MOMENTUM = 0.1

NVIDIA_PREFIXES = ("nvidia/segformer", "nvidia/mit-b")
NVIDIA_LICENSE = "NVIDIA Source Code License for SegFormer (non-commercial)"
_RESTRICTIVE_WORDS = ("other", "nvidia", "non-commercial", "noncommercial", "research", "unknown")
_warned: set[str] = set()


@dataclass
class LoadedSegmenter:
    """A 2D segmenter and what its input has to look like.

    Attributes:
        model: (N, 3, h, w) -> object with ``.logits`` (N, K, h', w').
        mean, std: the network expects ``(x - mean) / std`` for RGB x in [0, 1] (the rescaling is folded in).
        rescale: factor from [0, 1] to the range in which the processor's own mean and std are stated (1, or 255).
        licence: as declared by the model, None when it declares none.
        source: the hub id or directory it came from.
        image_size: edge of the square input that the network insists on, None when any size will do.
        pretrained: False when all weights are random.
    """

    model: nn.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rescale: float
    licence: str | None
    source: str
    image_size: int | None = None
    pretrained: bool = True


def load_segmenter(
    name_or_dir: str, num_classes: int, pretrained: bool = True, image_size_hint: int | None = None
) -> LoadedSegmenter:
    """Load a 2D segmentation network whose last layer is replaced by one with ``num_classes`` outputs.

    Args:
        name_or_dir: hub id or local directory of any architecture of ``AutoModelForSemanticSegmentation``; or
            "segformer-tiny-random", a small SegFormer that needs no hub (``pretrained`` must then be False).
        num_classes: classes including the background.
        pretrained: False builds the same architecture with random weights, explicitly.
        image_size_hint: input edge for networks with a fixed one, instead of the one in their configuration; only
            possible without pretrained weights, because position embeddings belong to one size.

    Raises:
        UserError: the model is not found, is not a segmenter, or its weights do not fit (the new head excepted).
    """
    if num_classes < 2:
        raise UserError(f"num_classes is {num_classes}: give at least 2, the background counts as one.")
    name = str(name_or_dir)
    if name == TINY_SEGFORMER:
        if pretrained:
            raise UserError(f"{name} has no pretrained weights: set pretrained: false, or give a model with weights.")
        return _finish(_from_config(_tiny_segformer_config(num_classes)), name, IMAGENET_MEAN, IMAGENET_STD, 1.0, False)
    local_only = not os.path.isdir(name) and not _hub_reachable()
    config = _load_config(name, num_classes, local_only)
    if image_size_hint is not None and not pretrained and hasattr(config, "image_size"):
        config.image_size = image_size_hint
    model = _from_pretrained(name, config, local_only) if pretrained else _from_config(config)
    mean, std, rescale = _normalisation(name, local_only)
    return _finish(model, name, mean, std, rescale, pretrained)


def license_of(name_or_dir: str) -> str | None:
    """The licence that a model declares (model card or config.json), or None. Needs no network for a local model."""
    name = str(name_or_dir)
    if name == TINY_SEGFORMER:
        return None
    if name.startswith(NVIDIA_PREFIXES):
        return NVIDIA_LICENSE
    local_only = not os.path.isdir(name) and not _hub_reachable()
    config = _read_json(_find_file(name, "config.json", local_only)) or {}
    card = _find_file(name, "README.md", local_only)
    declared = (_card_license(card) if card else None) or config.get("license")
    if declared:
        return str(declared)
    # A fine-tuned copy keeps the terms of the weights that it started from.
    return NVIDIA_LICENSE if str(config.get("_name_or_path", "")).startswith(NVIDIA_PREFIXES) else None


def is_restrictive(licence: str | None) -> bool:
    """Whether a declared licence may forbid some uses (non-commercial, research only, "other"); None is not."""
    if licence is None:
        return False
    text = licence.lower()
    return any(word in text for word in _RESTRICTIVE_WORDS) or "nc" in text.replace("_", "-").split("-")


def _finish(
    model: nn.Module, name: str, mean: Iterable[float], std: Iterable[float], rescale: float, pretrained: bool
) -> LoadedSegmenter:
    _drop_unused(model)
    _fix_momentum(model, PRETRAINED_MOMENTUM if pretrained else RANDOM_MOMENTUM)
    licence = license_of(name) if pretrained else None
    if is_restrictive(licence) and name not in _warned:
        _warned.add(name)
        message = f"The weights of {name} carry a restrictive licence ({licence}): check that your use is allowed."
        warnings.warn(message, UserWarning, stacklevel=3)
        logger.warning(message)
    config = model.config
    size = None if config.model_type in ANY_SIZE_FAMILIES else getattr(config, "image_size", None)
    size = size[0] if isinstance(size, (list, tuple)) else size
    mean3, std3 = (tuple(float(v) / rescale for v in values) for values in (mean, std))
    return LoadedSegmenter(model, mean3, std3, float(rescale), licence, name, size, pretrained)


def _tiny_segformer_config(num_classes: int) -> SegformerConfig:
    return SegformerConfig(
        hidden_sizes=[16, 32, 64, 128],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 4, 8],
        mlp_ratios=[2, 2, 2, 2],
        decoder_hidden_size=64,
        drop_path_rate=0.0,
        num_labels=num_classes,
    )


def _load_config(name: str, num_classes: int, local_only: bool) -> PretrainedConfig:
    if not os.path.isdir(name) and _looks_like_path(name):
        raise UserError(
            f"The 2D network's directory {name} does not exist: give one that holds a transformers segmentation model, "
            f"a hub id, or the built-in {TINY_SEGFORMER} with pretrained: false."
        )
    if os.path.isdir(name) and not (Path(name) / "config.json").is_file():
        raise UserError(f"{name} holds no config.json: give the directory of a transformers segmentation model.")
    try:
        with _quiet_transformers():
            config = AutoConfig.from_pretrained(name, num_labels=num_classes, local_files_only=local_only)
    except Exception as e:  # OSError, ValueError, hub errors of several libraries: all mean that there is no model
        where = "the model hub cannot be reached" if local_only else _first_line(e)
        raise UserError(
            f"The 2D network {name} cannot be loaded ({where}): give a local directory, or the built-in "
            f"{TINY_SEGFORMER} with pretrained: false."
        ) from e
    if config.model_type not in SEGMENTERS:
        raise UserError(
            f"{name} is a {config.model_type} model, which is not a segmenter: give a model of one of "
            f"{', '.join(sorted(SEGMENTERS))}."
        )
    # Auxiliary heads serve a training loss that M&N does not use; UperNet would compute one on every slice.
    if getattr(config, "use_auxiliary_head", False):
        config.use_auxiliary_head = False
    return config


def _looks_like_path(name: str) -> bool:
    """A hub id has at most one slash and does not begin with one, a dot or a tilde."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name or not name


def _from_config(config: PretrainedConfig) -> nn.Module:
    return AutoModelForSemanticSegmentation.from_config(config).float()


def _from_pretrained(name: str, config: PretrainedConfig, local_only: bool) -> nn.Module:
    try:
        with _quiet_transformers():
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
            f"The weights of {name} cannot be loaded ({_first_line(e)}): set pretrained: false to start from random "
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


def _fix_momentum(model: nn.Module, momentum: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.momentum or 0.0) > MAX_MOMENTUM:
            module.momentum = momentum


def _normalisation(name: str, local_only: bool) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Mean, std and the factor from [0, 1] to their range, from preprocessor_config.json.

    Read as JSON: transformers' image processors cannot be built without torchvision.
    """
    settings = _read_json(_find_file(name, "preprocessor_config.json", local_only))
    if settings is None:
        logger.warning("%s has no preprocessor_config.json: ImageNet's mean and std are used for its input.", name)
        return IMAGENET_MEAN, IMAGENET_STD, 1.0
    # Images have 8 bits: x in [0, 1] is x * 255 before the processor's own rescaling.
    rescale = 255.0 * float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 255.0
    if not settings.get("do_normalize", True):
        return (0.0,) * 3, (1.0,) * 3, rescale
    mean, std = settings.get("image_mean", IMAGENET_MEAN), settings.get("image_std", IMAGENET_STD)
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError(f"preprocessor_config.json of {name} needs three values of image_mean and of image_std > 0.")
    return tuple(mean), tuple(std), rescale


def _find_file(name: str, filename: str, local_only: bool) -> str | None:
    if os.path.isdir(name):
        path = os.path.join(name, filename)
        return path if os.path.isfile(path) else None
    try:
        return cached_file(
            name,
            filename,
            local_files_only=local_only,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
    except OSError:
        return None


def _read_json(path: str | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as e:
        raise UserError(f"{path} is not valid JSON: repair it or fetch the model again.") from e


def _card_license(path: str) -> str | None:
    """The `license` (or, for "other", `license_name`) of a model card's YAML header."""
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    found: dict[str, str] = {}
    for line in lines[1:]:
        if line.strip() == "---":
            break
        key, _, value = line.partition(":")
        if key in ("license", "license_name") and value.strip():
            found[key] = value.strip().strip("\"'")
    if "license" in found and "license_name" in found:
        return f"{found['license']} ({found['license_name']})"
    return found.get("license") or found.get("license_name")


def _hub_reachable() -> bool:
    """Whether the hub's name resolves; without this the hub client retries for most of a minute when offline."""
    if hub_constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(v) for v in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    url = urlparse(hub_constants.ENDPOINT)
    try:
        socket.getaddrinfo(url.hostname, url.port or 443)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar and no load report: replacing the head is expected, all else is checked by us."""
    level, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bar:
            transformers_logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__).rstrip(".")[:200]
