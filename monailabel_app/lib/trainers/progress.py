"""How far a training is, read from what it writes: history.jsonl, a line an epoch."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["Progress", "read_history", "read_progress"]

TAIL = 1 << 18
RECENT = 10


@dataclass(frozen=True)
class Progress:
    """State of a training at the end of its last epoch.

    epoch, max_epochs: done, and of both stages together.
    stage: 0 before the first epoch, 1: labels alone, 2: co-training.
    seconds_left: from the last epochs' pace; None before the first.
    losses: by the history's names, such as ``loss_unlabeled_3d``.
    dice_3d, dice_2d: mean Dice of both networks on validation when it was measured last, or None.
    best_dice_3d: the largest so far.
    """

    epoch: int = 0
    max_epochs: int = 0
    stage: int = 0
    seconds_left: float | None = None
    losses: dict[str, float] = field(default_factory=dict)
    dice_3d: float | None = None
    dice_2d: float | None = None
    best_dice_3d: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_history(path: str | Path, tail: int = TAIL) -> list[dict[str, Any]]:
    """The last epochs' lines; half a line, as a process leaves it that writes or was killed, is left out."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - tail, 0))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    return [record for line in lines if (record := _record(line)) is not None]


def read_progress(run_dir: str | Path, max_epochs: int) -> Progress:
    """Progress of the run in a folder; none yet is epoch 0."""
    history = read_history(Path(run_dir) / "history.jsonl")
    if not history:
        return Progress(max_epochs=max_epochs)
    last = history[-1]
    epoch = last["epoch"]
    # The median: an epoch that stood still while somebody waited for a mask says nothing about the pace.
    pace = median([seconds for line in history[-RECENT:] if (seconds := _number(line, "seconds")) is not None] or [0.0])
    dice = {name: [value for line in history if (value := _number(line, name)) is not None]
            for name in ("val_dice_3d", "val_dice_2d")}
    return Progress(
        epoch=epoch,
        max_epochs=max(max_epochs, epoch),
        stage=int(_number(last, "stage") or 0),
        seconds_left=round(pace * max(max_epochs - epoch, 0), 1),
        losses={name: value for name in last if name.startswith("loss") and (value := _number(last, name)) is not None},
        dice_3d=dice["val_dice_3d"][-1] if dice["val_dice_3d"] else None,
        dice_2d=dice["val_dice_2d"][-1] if dice["val_dice_2d"] else None,
        best_dice_3d=max(dice["val_dice_3d"], default=None),
    )


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
        return record if isinstance(record["epoch"], int) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _number(record: dict[str, Any], name: str) -> float | None:
    value = record.get(name)
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None
