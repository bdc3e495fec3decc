"""What of a 2D network is fine-tuned: LoRA, the decoder, or the whole network. Layers are found by structure."""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Sequence

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from mnseg.errors import UserError

__all__ = ["STRATEGIES", "adapt", "describe_trainable", "encoder_name", "merge_adapters"]

logger = logging.getLogger(__name__)

STRATEGIES = ("lora", "decoder", "whole")


class _StillStatistics:
    """Mixin: a batch norm whose running statistics stay as they are, whatever ``train()`` asks for."""

    def train(self, mode: bool = True):
        return super().train(False)


class StillBatchNorm1d(_StillStatistics, nn.BatchNorm1d):
    """BatchNorm1d with fixed statistics; its gain and shift may still train."""


class StillBatchNorm2d(_StillStatistics, nn.BatchNorm2d):
    """BatchNorm2d with fixed statistics; its gain and shift may still train."""


_STILL = {nn.BatchNorm1d: StillBatchNorm1d, nn.BatchNorm2d: StillBatchNorm2d}


def adapt(
    network: nn.Module,
    strategy: str = "lora",
    rank: int = 64,
    alpha: float | None = None,
    dropout: float = 0.1,
    head: str | Sequence[str] | None = None,
    freeze_statistics: bool | None = None,
) -> nn.Module:
    """Make a 2D network ready for fine-tuning, in place.

    - ``lora``: low-rank adapters on every plain Linear and undilated, ungrouped 1x1 convolution of the encoder;
      all its one-dimensional parameters (biases, norm gains and shifts, layer scales) train too, as in the released
      code of M&N; so does everything outside the encoder (decode head, new last layer).
    - ``decoder``: everything outside the encoder trains, the encoder is frozen.
    - ``whole``: everything trains.

    The adapters become layers of the network itself, so one ``state_dict`` holds all that changed (adapters, biases,
    norms, head): nothing depends on peft's adapter files, which drop norms and unlisted heads.

    Batch norm: unless the strategy is ``whole``, running statistics stay at their pretrained values, also after
    ``.train()``: the slices of a batch are neighbours from a few volumes, and both their mean and the running average
    of it are poor estimates.

    Args:
        network: a transformers segmenter, or any module with an encoder (see :func:`encoder_name`).
        rank, alpha, dropout: LoRA's; alpha defaults to rank. A layer's rank is at most its smaller width, a quarter
            of it for convolutions; alpha follows, so that alpha / rank is the same everywhere.
        head: full names of the modules that train fully, instead of "all outside the encoder".
        freeze_statistics: overrides the batch norm rule above.

    Raises:
        UserError: unknown strategy, a rank below 1, a head that does not exist, or nothing that LoRA could adapt.
    """
    if strategy not in STRATEGIES:
        raise UserError(f"finetuning is {strategy!r}: give one of {', '.join(STRATEGIES)}.")
    heads = _head_names(network, head)
    if strategy == "lora":
        _add_lora(network, heads, rank, rank if alpha is None else alpha, dropout)
    for name, parameter in network.named_parameters():
        in_head = name.startswith(tuple(f"{h}." for h in heads)) or name in heads
        if strategy == "whole" or in_head:
            parameter.requires_grad_(True)
        elif strategy == "decoder":
            parameter.requires_grad_(False)
        else:
            parameter.requires_grad_(parameter.ndim <= 1 or ".lora_" in name)
    if strategy != "whole" if freeze_statistics is None else freeze_statistics:
        _freeze_statistics(network)
    return network


def encoder_name(network: nn.Module) -> str:
    """Name of the child that is the encoder.

    transformers' ``base_model_prefix``; else a child called backbone or encoder; else the child with most parameters.
    """
    children = {name: sum(p.numel() for p in m.parameters()) for name, m in network.named_children()}
    for name in (getattr(network, "base_model_prefix", None), "backbone", "encoder"):
        if name and name in children:
            return name
    if len(children) < 2:
        raise UserError(f"{type(network).__name__} has no encoder and decoder to tell apart: name its head.")
    return max(children, key=children.__getitem__)


def describe_trainable(network: nn.Module) -> str:
    """One line: how many parameters of how many train, and in which parts of the network."""
    counts: dict[str, list[int]] = {}
    for name, p in network.named_parameters():
        part = "LoRA" if ".lora_" in name else ("biases, norms" if p.ndim <= 1 else "weights")
        parts = name.removeprefix("network_2d.").split(".")
        entry = counts.setdefault(f"{parts[0]} {part}", [0, 0])
        entry[0] += p.numel() if p.requires_grad else 0
        entry[1] += p.numel()
    trained, total = (sum(c[i] for c in counts.values()) for i in (0, 1))
    parts = [f"{key} {done:,}" + ("" if done == of else f" of {of:,}") for key, (done, of) in counts.items() if done]
    share = 100 * trained / max(total, 1)
    return f"{trained:,} of {total:,} parameters train ({share:.1f} %): {'; '.join(parts) or 'none'}"


def merge_adapters(network: nn.Module) -> nn.Module:
    """A copy of the network with its LoRA layers merged into the weights: same logits in eval mode, no peft."""
    merged = copy.deepcopy(network)
    for name, module in list(merged.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge(safe_merge=True)
            _set_submodule(merged, name, module.get_base_layer())
    if hasattr(merged, "peft_config"):
        del merged.peft_config
    return merged


def _head_names(network: nn.Module, head: str | Sequence[str] | None) -> list[str]:
    if head is None:
        encoder = encoder_name(network)
        names = [name for name, _ in network.named_children() if name != encoder]
        return names + [name for name, _ in network.named_parameters(recurse=False)]
    names = [head] if isinstance(head, str) else list(head)
    known = {name for name, _ in network.named_modules()} | {name for name, _ in network.named_parameters()}
    for name in names:
        if name not in known:
            raise UserError(f"The 2D network has no part named {name!r}: give the full name of its head.")
    return names


def _lora_ranks(network: nn.Module, heads: Sequence[str], rank: int) -> dict[str, int]:
    """Full name -> rank of every layer outside the heads that LoRA adapts."""
    skipped = tuple(f"{h}." for h in heads)
    attention = tuple(f"{n}." for n, m in network.named_modules() if isinstance(m, nn.MultiheadAttention))
    ranks = {}
    for name, m in network.named_modules():
        # torch's own MultiheadAttention uses the weights of its Linear without calling it: an adapter would be idle.
        if name in heads or name.startswith(skipped + attention):
            continue
        # Exact classes: BiT's convolutions standardize their weights in every call: merging would change the result.
        if type(m) is nn.Linear:
            ranks[name] = min(rank, m.in_features, m.out_features)
        elif type(m) is nn.Conv2d and m.kernel_size == (1, 1) and m.dilation == (1, 1) and m.groups == 1:
            ranks[name] = max(1, min(rank, min(m.in_channels, m.out_channels) // 4))
    return ranks


def _add_lora(network: nn.Module, heads: Sequence[str], rank: int, alpha: float, dropout: float) -> None:
    if rank < 1:
        raise UserError(f"lora_rank is {rank}: give at least 1.")
    ranks = _lora_ranks(network, heads, rank)
    if not ranks:
        raise UserError("LoRA finds no Linear and no 1x1 convolution in the encoder: set finetuning: whole or decoder.")
    # peft matches lists and patterns by suffix; an anchored expression matches one layer exactly.
    exact = {name: f"^{re.escape(name)}" for name in ranks}
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="|".join(re.escape(name) for name in ranks),
        rank_pattern={exact[name]: r for name, r in ranks.items() if r != rank},
        alpha_pattern={exact[name]: alpha * r / rank for name, r in ranks.items() if r != rank},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        inject_adapter_in_model(config, network)
    for name in ranks:
        layer = network.get_submodule(name)
        if not isinstance(layer, LoraLayer):
            raise RuntimeError(f"peft did not adapt {name}")
        base = layer.get_base_layer()
        # MobileNetV2 pads as TensorFlow does and reads these from the layer that it calls.
        for attribute in ("stride", "kernel_size", "dilation", "padding", "groups"):
            if hasattr(base, attribute):
                setattr(layer, attribute, getattr(base, attribute))


def _freeze_statistics(network: nn.Module) -> None:
    for m in network.modules():
        if type(m) in _STILL:
            m.__class__ = _STILL[type(m)]
            m.eval()


def _set_submodule(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent) if parent else network, child, module)
