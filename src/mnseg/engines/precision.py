"""Mixed precision by its name in a config."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from torch import nn

from mnseg.errors import UserError
from mnseg.networks.folded_norm import let_clamp
from mnseg.networks.small_maps import to_exact_small_maps

__all__ = ["AMP_DTYPES", "amp_dtype_of", "prepare_for"]

logger = logging.getLogger(__name__)

AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def amp_dtype_of(name: str | None, device: torch.device | str) -> torch.dtype | None:
    """What ``torch.autocast`` is to compute in on a device; None: no mixed precision.

    Args:
        name: None, "bfloat16", "float16", or "auto": bfloat16 where the device has instructions for it, else None.
        device: where the networks run.

    Raises:
        UserError: for any other name.
    """
    if name == "auto":
        return torch.bfloat16 if _computes_bfloat16(torch.device(device)) else None
    if name is not None and name not in AMP_DTYPES:
        raise UserError(f"amp_dtype is '{name}'; it must be null, 'auto', 'bfloat16' or 'float16'.")
    return None if name is None else AMP_DTYPES[name]


def _computes_bfloat16(device: torch.device) -> bool:
    """Whether there are instructions for it; a CPU without them converts every number, and is much slower so."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not tell
    return device.type == "cpu" and bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def prepare_for(dtype: torch.dtype | None, device: torch.device, networks: Iterable[nn.Module]) -> None:
    """Make networks ready to be trained in mixed precision, in place; weights and their names stay.

    The trainer must refuse weights and gradients that are not finite:
    :func:`~mnseg.networks.folded_norm.let_clamp`.
    """
    if dtype is None or device.type != "cpu":
        return
    if amp_dtype_of("auto", device) is not dtype:
        logger.warning("amp_dtype %s: this CPU has no instructions for it and converts every number, which is slower "
                       "than full precision; auto takes it where it is faster.", str(dtype).removeprefix("torch."))
    for network in networks:
        let_clamp(to_exact_small_maps(network))
