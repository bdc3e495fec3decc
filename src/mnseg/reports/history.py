"""Read the numbers that training wrote, one JSON object per epoch."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from mnseg.errors import UserError

__all__ = ["read_history", "series"]


def read_history(run_dir: str | os.PathLike) -> list[dict]:
    """Epochs of ``run_dir/history.jsonl`` in ascending order.

    A last line that is cut off (training was stopped, or is writing right now) is dropped. An epoch that occurs
    twice (a run continued from an older checkpoint) counts with its later line. No file gives an empty list.

    Raises:
        UserError: if a line other than the last is not a JSON object with an "epoch".
    """
    path = Path(run_dir) / "history.jsonl"
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    epochs: dict[int, dict] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            epochs[int(record["epoch"])] = record
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            message = f"{path}, line {number} is not a JSON object with an epoch: restore the file or remove the line"
            raise UserError(message) from error
    return [epochs[epoch] for epoch in sorted(epochs)]


def series(history: list[dict], key: str) -> tuple[list[int], list[float]]:
    """Epochs and values of one key, where it was measured and is a finite number."""
    pairs = [(int(record["epoch"]), record.get(key)) for record in history]
    pairs = [(e, float(v)) for e, v in pairs if isinstance(v, (int, float)) and math.isfinite(v)]
    return [e for e, _ in pairs], [v for _, v in pairs]
