"""The numbers of a report: metrics per run and class, and paired differences to the baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from mnseg.metrics.field import METRIC_NAMES
from mnseg.reports.page import Cell, note, table
from mnseg.reports.run_data import Run
from mnseg.reports.statistics import paired_difference

__all__ = ["compare", "difference_table", "headlines", "metric_table"]

LABELS = {
    "dice": "Dice %",
    "jaccard": "Jaccard %",
    "hd95_voxel": "HD95 voxel",
    "asd_voxel": "ASD voxel",
    "hd95_mm": "HD95 mm",
    "asd_mm": "ASD mm",
}
DEFINITIONS = (
    "Dice and Jaccard: higher is better. HD95 and ASD: lower is better, given in voxels and in millimeters. "
    "All four follow medpy.metric.binary (HD95 is one 95th percentile over the surface distances of both directions, "
    "ASD goes from the prediction to the truth), which is what most papers of this field print; MONAI's own HD95 "
    "is defined differently and comes out larger. Each value is the mean ± standard deviation (the sample's) over "
    "cases, measured on the scan's own grid; “all classes” first averages the classes of a case. An empty prediction "
    "counts as Dice 0 and has no distance: it is left out of HD95 and ASD and counted in the last column (empty "
    "masks). A structure that was not drawn in a case (ignored) is not counted there."
)


def metric_table(runs: Sequence[Run]) -> str:
    """Mean ± sd (the sample's; of one case 0) of every run, class and metric."""
    head = ["run, class", *(LABELS[metric] for metric in METRIC_NAMES), "cases", "empty masks"]
    rows = []
    for run in runs:
        groups = [(None, "all classes"), *run.classes().items()]
        for number, label in groups:
            kind = "overall group" if number is None else ""
            first = _row_heading(run, number, label)
            cells = [_mean_sd(run.values(metric, number), _scale(metric)) for metric in METRIC_NAMES]
            empty = str(run.count_notes("empty prediction", number))
            measured = sum(map(math.isfinite, run.values("dice", number).values()))
            rows.append((kind, [first, *cells, str(measured), empty]))
    return table("Agreement with the truth, mean ± sd over cases", head, rows) + note(DEFINITIONS)


def compare(run: Run, baseline: Run, metric: str, number: int | None = None) -> tuple[float, float, float, int]:
    """(mean, low, high, number of pairs) of run - baseline over the cases that both measured."""
    ours, theirs = run.values(metric, number), baseline.values(metric, number)
    cases = [case for case in ours if case in theirs and math.isfinite(ours[case] - theirs[case])]
    return *paired_difference([ours[case] for case in cases], [theirs[case] for case in cases]), len(cases)


def difference_table(runs: Sequence[Run], baseline: Run) -> str:
    """Paired differences of every run to the baseline."""
    metrics = ("dice", "jaccard", "hd95_mm", "asd_mm")
    rows = []
    for run in runs:
        if run is baseline:
            continue
        for number, label in [(None, "all classes"), *run.classes().items()]:
            first = _row_heading(run, number, label)
            results = [compare(run, baseline, metric, number) for metric in metrics]
            cells = [_interval(*result[:3], _scale(m)) for m, result in zip(metrics, results, strict=True)]
            pairs = str(results[0][3])
            if results[2][3] != results[0][3]:
                pairs += f" ({results[2][3]} for distances)"
            rows.append(("overall group" if number is None else "", [first, *cells, pairs]))
    caption = f"Difference to “{baseline.name}” on the same cases: mean [95 % interval]"
    units = {"dice": "Dice, points", "jaccard": "Jaccard, points", "hd95_mm": "HD95, mm", "asd_mm": "ASD, mm"}
    return table(caption, ["run, class", *(units[m] for m in metrics), "pairs"], rows) + note(
        "Plus means a larger value than the baseline's: good for Dice and Jaccard, bad for HD95 and ASD. Intervals: "
        "bootstrap over cases (BCa, 9999 resamples). They speak of the choice of test cases, not of "
        "what another random seed of the training would change. An interval that contains 0 leaves open which of the "
        "two is better; with fewer than about ten pairs the interval itself is rough."
    )


def headlines(runs: Sequence[Run], baseline: Run | None) -> list[str]:
    """One sentence per measured run with the mean Dice and what it is against the baseline."""
    sentences = []
    for run in runs:
        if not run.metrics:
            continue
        dice = np.nanmean(list(run.values("dice").values())) * 100
        text = f"{run.name}: mean Dice {dice:.1f} % on {len(run.cases())} cases"
        if baseline is not None and run is not baseline and baseline.metrics:
            mean, low, high = (value * 100 for value in compare(run, baseline, "dice")[:3])
            if math.isfinite(low):
                verdict = _verdict(low, high, baseline.name)
                text += (
                    f", {_signed(mean, 1)} points against {baseline.name} "
                    f"(95 % interval {_signed(low, 1)} to {_signed(high, 1)}){verdict}"
                )
        sentences.append(text + ".")
    return sentences


def _row_heading(run: Run, number: int | None, label: str) -> Cell:
    if number is None:
        return Cell(f"{escape(run.name)} <small>{escape(label)}</small>")
    return Cell(f"<span>{escape(label)}</span>")


def _verdict(low: float, high: float, baseline: str) -> str:
    if low > 0:
        return f", better than {baseline} on these cases"
    if high < 0:
        return f", worse than {baseline} on these cases"
    return "; the interval contains 0, so these cases leave open which is better"


def _scale(metric: str) -> float:
    return 100.0 if metric in ("dice", "jaccard") else 1.0


def _mean_sd(values: dict[str, float], scale: float) -> str:
    known = [value * scale for value in values.values() if math.isfinite(value)]
    if not known:
        return "–"
    digits = 1 if scale == 100 else 2
    sd = np.std(known, ddof=1) if len(known) > 1 else 0.0
    return Cell(f"{np.mean(known):.{digits}f} <small>± {sd:.{digits}f}</small>")


def _interval(mean: float, low: float, high: float, scale: float) -> str:
    if not math.isfinite(mean):
        return "–"
    digits = 1 if scale == 100 else 2
    text = f"{_signed(mean * scale, digits)}"
    if math.isfinite(low):
        text += f" <small>[{_signed(low * scale, digits)}, {_signed(high * scale, digits)}]</small>"
    return Cell(text)


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")
