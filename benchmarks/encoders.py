"""Size and time of encoder-only 2D networks with their decoder: rows of docs/reference/networks.md.

    OMP_NUM_THREADS=1 python benchmarks/encoders.py

Architectures of full size with random weights; the second forward and backward pass of four slices of 160 x 160, in
seconds of CPU time on one thread.
"""

from __future__ import annotations

import logging
import tempfile
import time

import torch
from torch import nn
from transformers import ConvNextConfig, Dinov2Config, PretrainedConfig, ResNetConfig, SwinConfig

from mnseg.networks.build import build_slice_network

ENCODERS = {
    "ResNet-50": ResNetConfig(),
    "ConvNeXt-tiny": ConvNextConfig(),
    "Swin-tiny": SwinConfig(),
    "DINOv2-small": Dinov2Config(hidden_size=384, num_attention_heads=6, patch_size=14, image_size=518),
}


def row(name: str, config: PretrainedConfig) -> str:
    """One row: parameters in millions, CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        network = build_slice_network(folder, 2, pretrained=False, finetuning="whole", seed=0)
    volume = torch.randn(1, 1, 160, 160, 4)
    for _ in range(2):  # the first pass also allocates memory
        start = time.process_time()
        logits = network(volume)
        middle = time.process_time()
        logits.square().mean().backward()
        end = time.process_time()
    encoder = _millions(network.network_2d.backbone)
    decoder = _millions(network.network_2d) - encoder
    return f"| {name} | {encoder:.1f} | {decoder:.1f} | {middle - start:.1f} | {end - middle:.1f} |"


def _millions(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    for name, config in ENCODERS.items():
        print(row(name, config), flush=True)
