"""build_slice_network: the 2D student and teacher, from one call in a config."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import nn

from mnseg.networks.adaptation import adapt, describe_trainable
from mnseg.networks.fast_convolution import to_fast_convolutions
from mnseg.networks.folded_norm import fold_norms
from mnseg.networks.pretrained import load_segmenter
from mnseg.networks.same_padding import to_inner_padding
from mnseg.networks.slice_network import SliceNetwork
from mnseg.networks.spread_pool import to_spread_pool
from mnseg.networks.transposed_bias import to_summed_bias

__all__ = ["build_slice_network"]

logger = logging.getLogger(__name__)


def build_slice_network(
    name_or_dir: str,
    num_classes: int,
    pretrained: bool = True,
    finetuning: str = "lora",
    lora_rank: int = 64,
    lora_alpha: float | None = None,
    lora_dropout: float = 0.1,
    slice_axis: int | Sequence[int] = 2,
    slice_scale: float = 1.0,
    slice_context: int = 1,
    slice_chunk: int = 32,
    checkpoint: bool = False,
    seed: int | None = None,
    intensity_scale: float = 0.225,
    intensity_shift: float = 0.45,
) -> SliceNetwork:
    """Load a 2D segmenter, prepare its fine-tuning and lift it to volumes (B, 1, H, W, D) -> (B, K, H, W, D).

    Args:
        name_or_dir, num_classes, pretrained: see :func:`mnseg.networks.pretrained.load_segmenter`.
        finetuning: "lora", "decoder" or "whole", see :func:`mnseg.networks.adaptation.adapt`.
        lora_rank, lora_alpha, lora_dropout: LoRA's rank, alpha (None: the rank) and dropout.
        slice_axis, slice_scale, slice_context, slice_chunk, checkpoint, intensity_scale, intensity_shift: see
            :class:`mnseg.networks.slice_network.SliceNetwork`.
        seed: draws the random weights (new head, adapters) without touching the global generator; None: global.

    Raises:
        UserError: from the three steps, each naming the argument or model.

    Example:
        >>> net = build_slice_network("segformer-tiny-random", 3, pretrained=False, finetuning="whole", seed=0)
        >>> net(torch.zeros(1, 1, 32, 32, 4)).shape
        torch.Size([1, 3, 32, 32, 4])
    """
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        loaded = load_segmenter(name_or_dir, num_classes, pretrained)
        # A few patches a batch measure statistics badly, so those of pretrained weights stand still, also under
        # "whole" (RecalibrationHandler fits them to the scans once). Random weights come with statistics that nobody
        # measured: freezing those would switch batch norm off.
        network = to_spread_pool(to_inner_padding(loaded.model))
        network = adapt(network, finetuning, lora_rank, lora_alpha, lora_dropout, freeze_statistics=pretrained)
    if not any(isinstance(m, nn.Linear) for m in network.modules()):
        # Convolutional networks run 20 to 40 % faster so on a CPU; transformers reshape between layers and do not.
        network = network.to(memory_format=torch.channels_last)
    network = fold_norms(to_fast_convolutions(to_summed_bias(network)))
    if not pretrained:
        logger.warning("The 2D network %s starts from random weights (pretrained is false).", name_or_dir)
        if finetuning != "whole":
            logger.warning("finetuning is %s: its random encoder stays mostly frozen; consider whole.", finetuning)
    result = SliceNetwork(
        network,
        num_classes,
        loaded.mean,
        loaded.std,
        slice_axis=slice_axis,
        slice_scale=slice_scale,
        slice_context=slice_context,
        chunk_size=slice_chunk,
        image_size=loaded.image_size,
        intensity_scale=intensity_scale,
        intensity_shift=intensity_shift,
        checkpoint=checkpoint,
    )
    logger.info("2D network %s, finetuning %s: %s", name_or_dir, finetuning, describe_trainable(result))
    return result
