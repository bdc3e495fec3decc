"""The Markdown tables of a comparison: values, values by class, paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mnseg.errors import UserError
from mnseg.reports.statistics import paired_difference

__all__ = [
    "class_table",
    "difference_table",
    "main_table",
    "markdown",
    "no_distance",
    "over_seeds",
    "per_case",
    "seed_difference",
    "spread",
]

METRICS = {"dice": ("Dice %", 100), "jaccard": ("Jaccard %", 100), "hd95_voxel": ("HD95", 1), "asd_voxel": ("ASD", 1)}


def per_case(rows: Sequence[dict[str, str]], metric: str, class_name: str | None = None) -> dict[str, float]:
    """Case -> value of one class, or mean over the classes that have a value (a missed one has no distance)."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if class_name in (None, row["class_name"]):
            values.setdefault(row["case"], []).append(float(row[metric]))
    return {case: _mean(found) for case, found in values.items()}


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def over_seeds(results: Mapping[int, Sequence[dict[str, str]]], metric: str) -> dict[str, float]:
    """Case -> mean over the seeds of ``per_case``; ``results``: rows by seed."""
    values = [per_case(rows, metric) for rows in results.values()]
    return {case: sum(value[case] for value in values) / len(values) for case in values[0]}


def seed_difference(
    ours: Mapping[int, Sequence[dict[str, str]]], theirs: Mapping[int, Sequence[dict[str, str]]], metric: str
) -> tuple[float, float, float] | None:
    """Mean and 95 % interval of the difference of means over the seeds that both have, paired by case; None: no seed.

    Raises:
        UserError: the two were measured on different cases.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    a, b = (over_seeds({seed: results[seed] for seed in seeds}, metric) for results in (ours, theirs))
    if a.keys() != b.keys():
        raise UserError("Two rows were measured on different cases.")
    return paired_difference([a[case] for case in b], list(b.values()))


def spread(values: Sequence[float], scale: float = 1) -> str:
    """``mean ± sd`` over cases (sample standard deviation), cases without a value left out."""
    known = np.array([value for value in values if math.isfinite(value)]) * scale
    if len(known) == 0:
        return "-"
    return f"{known.mean():.2f} ± {known.std(ddof=1):.2f}" if len(known) > 1 else f"{known.mean():.2f}"


def no_distance(rows: Sequence[dict[str, str]], class_name: str | None = None) -> int:
    """Predictions of a class, or of all, that are empty or miss a truth: they have no surface distance."""
    return sum(
        class_name in (None, row["class_name"]) and not math.isfinite(float(row["hd95_voxel"])) for row in rows
    )  # fmt: skip


def markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)]
    return "\n".join(lines)


def main_table(results: dict[tuple[str, str], list[dict[str, str]]], costs: dict[str, dict[str, str]]) -> str:
    """Metrics of every row and network, mean over classes, with updates and times."""
    head = ["row", "network", *(title for title, _ in METRICS.values())]
    head += ["no distance", "updates", "patches seen", "wall", "CPU"]
    body = []
    for (row, network), rows in results.items():
        values = [spread(list(per_case(rows, metric).values()), scale) for metric, (_, scale) in METRICS.items()]
        price = costs[row]
        spent = [price[network], price["seen"], price["wall"], price["cpu"]]
        body.append([row, network, *values, str(no_distance(rows)), *spent])
    return markdown(head, body)


def class_table(results: dict[tuple[str, str], list[dict[str, str]]]) -> str:
    """The same metrics class by class."""
    body = []
    for (row, network), rows in results.items():
        for name in dict.fromkeys(r["class_name"] for r in rows):
            values = [spread(list(per_case(rows, m, name).values()), scale) for m, (_, scale) in METRICS.items()]
            body.append([row, network, name, *values, str(no_distance(rows, name))])
    return markdown(["row", "network", "class", *(t for t, _ in METRICS.values()), "no distance"], body)


def difference_table(results: dict[tuple[str, str], list[dict[str, str]]]) -> str:
    """Paired differences to the supervised-only 3D network with a 95 % bootstrap interval over cases."""
    reference = results.get(("supervised", "g"))
    if reference is None:
        return "No paired differences: they need the row 'supervised'."
    body = []
    for (row, network), rows in results.items():
        if (row, network) == ("supervised", "g"):
            continue
        cells = []
        for metric, (_, scale) in METRICS.items():
            theirs, ours = per_case(reference, metric), per_case(rows, metric)
            if theirs.keys() != ours.keys():
                raise UserError(f"The rows 'supervised' and '{row}' were measured on different cases.")
            mean, low, high = paired_difference([ours[c] for c in theirs], list(theirs.values()))
            text = f"{mean * scale:+.2f} [{low * scale:+.2f}, {high * scale:+.2f}]"
            cells.append(text if math.isfinite(mean) else "-")
        body.append([row, network, *cells])
    return markdown(["row - supervised g", "network", *(title for title, _ in METRICS.values())], body)
