"""load_segmenter: a 2D network with weights, input normalization and license, or one clear error."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto import modeling_auto

from mnseg.errors import UserError
from mnseg.networks.backbones import BACKBONES, load_backbone
from mnseg.networks.encoder_decoder import EncoderDecoder2d
from mnseg.networks.hub import TINY_SEGFORMER, first_line, is_local_only, quiet_transformers
from mnseg.networks.input_normalization import IMAGENET_MEAN, IMAGENET_STD, input_normalization
from mnseg.networks.licenses import is_restrictive, license_of
from mnseg.networks.segmenters import load_semantic_segmenter, tiny_segformer_config

__all__ = ["TINY_SEGFORMER", "LoadedSegmenter", "is_restrictive", "license_of", "load_segmenter"]

logger = logging.getLogger(__name__)

SEGMENTERS = modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
# They predict a set of masks with a class each (queries), which has no per-pixel class logits to teach with.
QUERY_SEGMENTERS = {
    *modeling_auto.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES,
    *modeling_auto.MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING_NAMES,
}

# Families that take slices of any size; a family outside this set whose configuration states an image size (position
# embeddings: BEiT, DPT, …) gets its slices fitted into a square of that size.
ANY_SIZE_FAMILIES = {"mobilenet_v2", "mobilevit", "mobilevitv2", "segformer", "upernet"}

# transformers gives MobileNetV2 a momentum of 0.997, TensorFlow's convention: in torch's the running statistics would
# follow the last batch alone.
MAX_MOMENTUM = 0.5
PRETRAINED_MOMENTUM = 0.01
RANDOM_MOMENTUM = 0.1

_warned: set[str] = set()


@dataclass
class LoadedSegmenter:
    """A 2D segmenter and what its input has to look like.

    Attributes:
        model: (N, 3, h, w) -> logits (N, K, h', w'), or an object with ``.logits``.
        mean, std: the network expects ``(x - mean) / std`` for RGB x in [0, 1] (the rescaling is folded in).
        licence: as declared by the model, None when it declares none.
        image_size: edge of the square input that the network insists on, None when any size will do.
    """

    model: nn.Module
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str | None
    image_size: int | None = None


def load_segmenter(name_or_dir: str, num_classes: int, pretrained: bool = True) -> LoadedSegmenter:
    """Load a 2D network with ``num_classes`` outputs a pixel.

    A segmentation model gets a new last layer. An encoder-only model (ResNet, ConvNeXt, Swin, DINOv2, …) gets a new
    decoder with skip connections, see :class:`mnseg.networks.encoder_decoder.EncoderDecoder2d`.

    Args:
        name_or_dir: hub id or local directory of any architecture of transformers' ``AutoModelForSemanticSegmentation``
            or ``AutoBackbone``; or "segformer-tiny-random", a small SegFormer that needs no hub (``pretrained`` must
            then be False).
        num_classes: classes including the background.
        pretrained: False builds the same architecture with random weights, explicitly.

    Raises:
        UserError: the model is not found, is neither segmenter nor image encoder, or its weights do not fit (the new
            head or decoder excepted).
    """
    if num_classes < 2:
        raise UserError(f"num_classes is {num_classes}: give at least 2, the background counts as one.")
    name = str(name_or_dir)
    if name == TINY_SEGFORMER:
        if pretrained:
            raise UserError(f"{name} has no pretrained weights: set pretrained: false, or give a model with weights.")
        model = load_semantic_segmenter(name, tiny_segformer_config(num_classes), False, True)
        return _finish(model, name, IMAGENET_MEAN, IMAGENET_STD, 1.0, False)
    local_only = is_local_only(name)
    config = _load_config(name, num_classes, local_only)
    if _is_encoder_only(name, config):
        model = EncoderDecoder2d(load_backbone(name, config, pretrained, local_only), num_classes)
        logger.info(
            "%s is an encoder (%s): a decoder with skip connections is appended; it starts from random weights.",
            name,
            config.model_type,
        )
    else:
        model = load_semantic_segmenter(name, config, pretrained, local_only)
    return _finish(model, name, *input_normalization(name, local_only), pretrained)


def _finish(
    model: nn.Module, name: str, mean: Iterable[float], std: Iterable[float], rescale: float, pretrained: bool
) -> LoadedSegmenter:
    _fix_momentum(model, PRETRAINED_MOMENTUM if pretrained else RANDOM_MOMENTUM)
    licence = license_of(name) if pretrained else None
    if is_restrictive(licence) and name not in _warned:
        _warned.add(name)
        message = f"The weights of {name} carry a restrictive licence ({licence}): check that your use is allowed."
        warnings.warn(message, UserWarning, stacklevel=3)
        logger.warning(message)
    mean3, std3 = (tuple(float(v) / rescale for v in values) for values in (mean, std))
    return LoadedSegmenter(model, mean3, std3, licence, _image_size(model))


def _load_config(name: str, num_classes: int, local_only: bool) -> PretrainedConfig:
    if not os.path.isdir(name) and _looks_like_path(name):
        raise UserError(
            f"The 2D network's directory {name} does not exist: give one that holds a transformers segmentation model, "
            f"a hub id, or the built-in {TINY_SEGFORMER} with pretrained: false."
        )
    if os.path.isdir(name) and not (Path(name) / "config.json").is_file():
        raise UserError(f"{name} holds no config.json: give the directory of a transformers segmentation model.")
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(name, num_labels=num_classes, local_files_only=local_only)
    except Exception as e:  # OSError, ValueError, hub errors of several libraries: all mean that there is no model
        where = "there is no such directory, and the model hub cannot be reached" if local_only else first_line(e)
        raise UserError(
            f"The 2D network {name} cannot be loaded ({where}): give a local directory, or the built-in "
            f"{TINY_SEGFORMER} with pretrained: false."
        ) from e


def _looks_like_path(name: str) -> bool:
    """A hub id has at most one slash and does not begin with one, a dot or a tilde."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name or not name


def _is_encoder_only(name: str, config: PretrainedConfig) -> bool:
    """Whether a decoder has to be appended.

    A family with a segmentation class keeps that class, and so its own decoder, unless transformers has a backbone of
    it and the weights are of a classifier (BEiT).

    Raises:
        UserError: neither a segmenter nor an image encoder.
    """
    family, architectures = config.model_type, config.architectures or []
    if family in BACKBONES:
        return family not in SEGMENTERS or bool(architectures) and SEGMENTERS[family] not in architectures
    if family in SEGMENTERS:
        return False
    if family in QUERY_SEGMENTERS:
        raise UserError(
            f"{name} is a {family} model, which predicts masks with a class each instead of class logits for every "
            "pixel: give a semantic segmentation model or an image encoder."
        )
    raise UserError(
        f"{name} is a {family} model, which is not a segmenter and not an image encoder that a decoder can be appended "
        f"to: give a model of one of {', '.join(sorted({*SEGMENTERS, *BACKBONES}))}."
    )


def _image_size(model: nn.Module) -> int | None:
    if isinstance(model, EncoderDecoder2d):
        return model.image_size
    config = model.config
    size = None if config.model_type in ANY_SIZE_FAMILIES else getattr(config, "image_size", None)
    return size[0] if isinstance(size, (list, tuple)) else size


def _fix_momentum(model: nn.Module, momentum: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.momentum or 0.0) > MAX_MOMENTUM:
            module.momentum = momentum
