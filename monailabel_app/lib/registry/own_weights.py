"""Where fold models were measured in a new model's place: do its own weights make masks at all?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lib.registry.gate import Verdict
from lib.registry.measure import CaseResult

__all__ = ["judge_own_weights"]

# A model is hardly ever worse on scans that it was trained on than others are that never saw them.
ALLOWED_LOSS = 0.1


def judge_own_weights(verdict: Verdict, own: Sequence[CaseResult], folds: Sequence[CaseResult]) -> Verdict:
    """The verdict, which says now who was measured; a refusal where the model that would be served fails by itself.

    It fails on a scan when its mask holds no numbers, or nothing where the fold model finds something; and altogether
    when its mean Dice is more than 0.1 below that of the fold models, or there is no scan to tell by.

    Args:
        verdict: the gate's, on fold models and perhaps on scans of validation.
        own: results of the model itself on scans that it was trained on.
        folds: results of the fold models, which never saw the scans that they are measured on.
    """
    measured = f" The masks of {_scans(len(folds))} are those of fold models, which never saw them."
    if not verdict.publish:
        return replace(verdict, reason=verdict.reason + measured)
    unseen = {result.case: result for result in folds}
    pairs = [(result, unseen[result.case]) for result in own if result.case in unseen]
    if why := _failure(pairs):
        return replace(verdict, publish=False, reason=f"Kept back: {why}{measured}")
    dice = float(np.mean([mine.dice for mine, _ in pairs]))
    return replace(verdict, reason=f"{verdict.reason}{measured} The model itself overlaps with the labels of "
                                   f"{_scans(len(pairs))} that it was trained on by {dice:.3f}.")


def _failure(pairs: Sequence[tuple[CaseResult, CaseResult]]) -> str:
    """What is wrong with the model's own masks, or nothing."""
    if not pairs:
        return "the new model itself could be run on none of the scans that it was trained on."
    for mine, other in pairs:
        if not math.isfinite(mine.dice):
            return f"on the scan {mine.case}, which it was trained on, the new model gives no numbers (NaN)."
        if mine.empty and not other.empty:
            return f"on the scan {mine.case}, which it was trained on, the new model itself finds nothing at all."
    mean, unseen = (float(np.mean([pair[side].dice for pair in pairs])) for side in (0, 1))
    if not mean >= unseen - ALLOWED_LOSS - 1e-9:  # not refused by a rounding error
        return (f"the new model itself overlaps with the labels of scans that it was trained on by {mean:.3f} (mean "
                f"Dice), models that never saw them by {unseen:.3f}.")
    return ""


def _scans(number: int) -> str:
    return f"{number} scan{'' if number == 1 else 's'}"
