"""build_promptable: a promptable model by name."""

from __future__ import annotations

from typing import Any

import torch

from mnseg.errors import UserError
from mnseg.mining.models.random_walker import RANDOM_WALKER, RandomWalker
from mnseg.mining.promptable import PromptableModel

__all__ = ["build_promptable"]


def build_promptable(
    name_or_dir: str, multimask: bool = True, device: torch.device | str = "cpu", **options: Any
) -> PromptableModel:
    """A frozen promptable model.

    Args:
        name_or_dir: hub id or local directory of a model of transformers' ``AutoModelForMaskGeneration`` (SAM, MedSAM,
            SAM-HQ, SAM 2, SAM 3's tracker; EdgeTAM where timm is installed), or "random-walker": a classical segmenter
            without weights.
        multimask: ask for three masks a prompt, of which the miner takes the best, or for one.
        device: where the model runs; the random walker always runs on the CPU.
        options: further arguments of ``RandomWalker``.

    Raises:
        UserError: there is no such model, it is none that takes prompts, or its weights do not fit.
    """
    name = str(name_or_dir)
    if name == RANDOM_WALKER:
        return RandomWalker(**options)
    if options:
        raise UserError(f"{name} takes no {', '.join(sorted(options))}; these are settings of {RANDOM_WALKER}.")
    from mnseg.mining.models.load import load_frozen  # here, because importing transformers takes seconds

    return load_frozen(name, multimask, device)
