"""What a run directory holds for the report: metrics, history, predictions, settings."""

from __future__ import annotations

import csv
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mnseg.errors import UserError
from mnseg.metrics.field import METRIC_NAMES
from mnseg.reports.history import read_history

__all__ = ["Run", "load_run"]


@dataclass
class Run:
    """One run. Parts that were not found are empty.

    metrics: rows of ``eval/field_metrics.csv``, numbers as float (NaN where there is none), "class" as int.
    history: epochs of ``history.jsonl``.
    settings: content of ``model.json``.
    predictions: case -> mask file.
    """

    name: str
    folder: Path
    metrics: list[dict] = field(default_factory=list)
    history: list[dict] = field(default_factory=list)
    settings: dict = field(default_factory=dict)
    predictions: dict[str, Path] = field(default_factory=dict)

    def cases(self) -> list[str]:
        """Measured cases in the order of the table."""
        return list(dict.fromkeys(row["case"] for row in self.metrics))

    def classes(self) -> dict[int, str]:
        """Number and name of the measured classes."""
        return {row["class"]: row["class_name"] for row in sorted(self.metrics, key=lambda row: row["class"])}

    def values(self, metric: str, number: int | None = None) -> dict[str, float]:
        """Case -> value of one class, or the mean over its classes (number None; NaN values left out)."""
        result = {}
        for case in self.cases():
            rows = [row for row in self.metrics if row["case"] == case and number in (None, row["class"])]
            known = [row[metric] for row in rows if math.isfinite(row[metric])]
            if rows:
                result[case] = float(np.mean(known)) if known else float("nan")
        return result

    def count_notes(self, note: str, number: int | None = None) -> int:
        """How many rows (cases of one class, or of all classes) carry a note."""
        return sum(row["note"] == note and number in (None, row["class"]) for row in self.metrics)


def load_run(name: str, folder: str | os.PathLike) -> Run:
    """Read a run directory; what is missing stays empty.

    Raises:
        UserError: if the folder does not exist, holds none of the known files, or a file is not what it should be.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"run {name!r}: the folder {folder} does not exist; give the run_dir of a training")
    found = sorted((folder / "eval" / "predictions").rglob("*_pred.*"))
    masks = [path for path in found if path.name.endswith((".nii", ".nii.gz", ".png"))]
    run = Run(
        name,
        folder,
        _read_metrics(folder / "eval" / "field_metrics.csv"),
        read_history(folder),
        _read_settings(folder / "model.json"),
        {path.name.rsplit("_pred.", 1)[0]: path for path in masks},
    )
    if not (run.metrics or run.history or run.settings or run.predictions):
        raise UserError(
            f"run {name!r}: {folder} holds no history.jsonl, model.json, eval/field_metrics.csv or eval/predictions; "
            "train and evaluate first, or give another folder"
        )
    return run


def _read_metrics(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return [
            {
                "case": row["case"],
                "class": int(row["class"]),
                "class_name": row["class_name"],
                "note": row.get("note") or "",
                **{metric: float(row[metric] or "nan") for metric in METRIC_NAMES},
            }
            for row in rows
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a table of the field's metrics ({error}): evaluate again") from error


def _read_settings(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): restore it or remove it") from error
    return settings if isinstance(settings, dict) else {}
