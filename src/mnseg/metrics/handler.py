"""Writes the field's metrics (:mod:`mnseg.metrics.field`) of an evaluation run, per case and class."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import affine_to_spacing

from mnseg.data.volume_formats import case_id
from mnseg.errors import UserError
from mnseg.metrics.field import METRIC_NAMES, field_metrics

__all__ = ["FieldMetricsHandler", "format_table", "summarize"]

logger = logging.getLogger(__name__)

COLUMNS = ("case", "class", "class_name", *METRIC_NAMES, "note")
DEFINITION = (
    "medpy.metric.binary: dc, jc, hd95 (one 95th percentile over both directions), asd (prediction to reference), "
    "surfaces with face connectivity, on the scan's own grid. An empty prediction or reference alone: dice = jaccard "
    "= 0 and no distance (left out of the distance means, counted in left_out); both empty: dice = jaccard = 1, "
    "distances 0. A structure that was not drawn in a case (ignored) has no value there. std: the sample's (n - 1), "
    "0 of one value."
)
# What "ignored" in the datalist makes of a class: no reader drew it in this case, so nothing can be measured.
NOT_DRAWN = dict.fromkeys(METRIC_NAMES, float("nan")) | {"note": "ignored"}


class FieldMetricsHandler:
    """Measures every case of an evaluator and writes ``field_metrics.csv`` and ``field_summary.json``.

    Expects ``engine.state.output`` to be a list of dictionaries with one-hot ``pred`` and ``label`` of shape
    (K, H, W, D) on the scan's own grid, ``pred`` being a ``MetaTensor`` that knows its affine (for mm) and file name. A
    class that is nan in ``label`` was not drawn in this case: its row has no values and the note "ignored".

    Args:
        output_dir: folder of the two files.
        class_names: names of the K classes, background first.
        include_background: whether class 0 is measured too.
        output_transform: picks the list of dictionaries from ``engine.state.output``.

    Raises:
        UserError: prediction and label of a case differ in shape, or their channels do not match ``class_names``.

    Example:
        ``FieldMetricsHandler("eval", ["background", "organ"]).attach(evaluator)``
    """

    def __init__(
        self,
        output_dir: str,
        class_names: Sequence[str],
        include_background: bool = False,
        output_transform: Callable[[Any], list[dict]] = lambda output: output,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.class_names = list(class_names)
        self.first_class = 0 if include_background else 1
        self.output_transform = output_transform
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Measures after every iteration, writes when the epoch is complete."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self.rows = []

    def __call__(self, engine: Engine) -> None:
        for item in self.output_transform(engine.state.output):
            self.rows += self._measure(item["pred"], item["label"])

    def _measure(self, pred: torch.Tensor, label: torch.Tensor) -> list[dict[str, Any]]:
        meta = getattr(pred, "meta", {})
        case = meta.get("case") or case_id(str(meta.get("filename_or_obj", f"case{len(self.rows)}")))
        if not len(pred) == len(label) == len(self.class_names):
            raise UserError(
                f"{case}: prediction has {len(pred)} channels, label {len(label)}, class_names names "
                f"{len(self.class_names)} classes; set class_names to what the model was trained with"
            )
        if pred.shape != label.shape:
            raise UserError(
                f"{case}: prediction {tuple(pred.shape[1:])} and label {tuple(label.shape[1:])} differ in shape; "
                "bring the label to the grid of its image"
            )
        affine = getattr(pred, "affine", None)
        spacing = None if affine is None else [float(s) for s in affine_to_spacing(affine, r=pred.ndim - 1)]
        masks = [(np.asarray(t.detach().cpu()) > 0.5) for t in (pred, label)]
        drawn = [not bool(torch.isnan(channel).any()) for channel in label]
        return [
            {"case": case, "class": k, "class_name": self.class_names[k]}
            | (field_metrics(*(m[k] for m in masks), spacing) if drawn[k] else NOT_DRAWN)
            for k in range(self.first_class, len(self.class_names))
        ]

    def _finish(self, engine: Engine) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        summary = summarize(self.rows)
        _write(self.output_dir / "field_metrics.csv", text.getvalue())
        _write(self.output_dir / "field_summary.json", json.dumps(summary, indent=2) + "\n")
        engine.state.field_summary = summary
        # Not the engine's logger: logging.conf keeps ignite quiet.
        logger.info("the field's metrics (medpy's definitions)\n%s", format_table(summary))


def summarize(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean, standard deviation and median of each metric per class, and over all cases and classes (``all``).

    The standard deviation is the sample's (n - 1); of one value it is 0.
    ``left_out`` counts the nan values that a mean does not contain; a mean of nothing is ``None``.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["class_name"], []).append(row)
    groups["all"] = list(rows)
    return {
        "definition": DEFINITION,
        "num_cases": len({row["case"] for row in rows}),
        "classes": {
            name: {metric: _statistics([r[metric] for r in group]) for metric in METRIC_NAMES}
            | {"notes": _count_notes(group)}
            for name, group in groups.items()
        },
    }


def _statistics(values: Sequence[float]) -> dict[str, float | int | None]:
    known = np.array([v for v in values if not np.isnan(v)], dtype=float)
    operations = {"mean": np.mean, "std": _sample_deviation, "median": np.median}
    numbers = {name: float(op(known)) if len(known) else None for name, op in operations.items()}
    return numbers | {"count": len(known), "left_out": len(values) - len(known)}


def _sample_deviation(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _count_notes(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    notes = [row["note"] for row in rows if row["note"]]
    return {note: notes.count(note) for note in sorted(set(notes))}


def format_table(summary: dict[str, Any]) -> str:
    """A plain-text table of the means, with a line for whatever the distance means leave out."""
    width = max(len(name) for name in (*summary["classes"], "class"))
    lines = ["  ".join(["class".ljust(width), *(m.rjust(10) for m in METRIC_NAMES)])]
    remarks = []
    for name, stats in summary["classes"].items():
        cells = ["-" if stats[m]["mean"] is None else f"{stats[m]['mean']:.4f}" for m in METRIC_NAMES]
        lines.append("  ".join([name.ljust(width), *(c.rjust(10) for c in cells)]))
        left_out, count = stats["hd95_voxel"]["left_out"], stats["hd95_voxel"]["count"]
        if left_out:
            why = ", ".join(f"{n} {note}" for note, n in stats["notes"].items())
            remarks.append(f"{name}: {left_out} of {left_out + count} left out of the distance means ({why})")
    return "\n".join(lines + remarks)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
