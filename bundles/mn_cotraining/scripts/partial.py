"""Structures that a reader did not draw ("ignored" in the data list) are left out of MONAI's metrics.

Run by path from evaluate.json. Needs monai.
"""

import logging
import sys

import torch
from monai.metrics import DiceMetric

logger = logging.getLogger("mn_cotraining")


class PartialDiceMetric(DiceMetric):
    """Dice that is nan for a class whose channel is nan: MONAI leaves it out of the mean."""

    def _compute_tensor(self, y_pred, y):
        undrawn = y[:, 1:].isnan().flatten(2).any(dim=2)
        return super()._compute_tensor(y_pred, y).masked_fill(undrawn, torch.nan)


def with_ignored(cases, path, names, class_names):
    """The cases, "ignored" made a tensor of K booleans; what names no structure is refused.

    ``names`` are those that "ignored" uses, ``class_names`` the model's.
    """
    result, count = [], 0
    for case in cases:
        rest = {key: value for key, value in case.items() if key != "ignored"}
        entries = case.get("ignored", [])
        entries = [entries] if isinstance(entries, (str, int)) else entries
        indices = [_index(entry, names) for entry in entries]
        if not all(index and index < len(class_names) for index in indices):
            sys.exit(
                f'"ignored" of {case["image"]} in {path} is {case["ignored"]!r}: name structures, each one of '
                f"{', '.join(class_names[1:])}"
            )
        count += bool(indices)
        mask = {"ignored": torch.tensor([k in indices for k in range(len(class_names))])} if indices else {}
        result.append(rest | mask)
    if count:
        logger.info("%d cases have structures that were not drawn (ignored): they are left out, as nan", count)
    return result


def _index(entry, names):
    return next((index for index, name in enumerate(names) if entry in (index, name)), None)


def ignored_to_nan(item):
    """One-hot prediction and label become nan in the channels that were not drawn."""
    if "ignored" not in item:
        return item
    mask = item["ignored"].reshape(-1, 1, 1, 1)
    return item | {k: torch.where(mask.to(item[k].device), torch.nan, item[k]) for k in ("pred", "label")}


def count_without_value(metric_details):
    """How many (case, class) pairs of each metric are nan or infinite; warned of."""
    counts = {name: int((~torch.isfinite(values)).sum()) for name, values in metric_details.items()}
    for name, count in counts.items():
        if count:
            logger.warning(
                "%s: %d (case, class) pairs have no finite value because a mask is empty or the structure was not "
                "drawn; MONAI leaves nan out of the mean, inf makes it inf",
                name,
                count,
            )
    return counts
