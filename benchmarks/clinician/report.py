"""The table and the curves of `make demo-label`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mnseg.reports.page import figure_block, page, section, table

__all__ = ["write_label_report"]


def write_label_report(result: dict[str, Any], path: Path) -> str:
    """Write the page; returns the same as text for the terminal."""
    runs = result["runs"]
    rows, lines = [], []
    for name, run in runs.items():
        for point in run["points"]:
            since = run["labeled"][: point["labels"] - 6][-3:]
            effort = f"{sum(step['changed'] for step in since) / len(since):.0f}" if since else "–"
            cells = [str(point["labels"]), f"{100 * point['dice']:.1f}", effort, str(point["version"] or "–")]
            rows.append(("", [name, *cells]))
            lines.append(f"{name:>14}  {cells[0]:>3} labels  Dice {cells[1]:>5} %  {cells[2]:>5} voxels changed a scan"
                         f"  version {cells[3]}")
    for name, run in runs.items():
        lines.append(f"{name:>14}  wrong labels: {run['poisoned']['state']}. {run['poisoned']['reason']}")
    figure = curves(runs)
    notes = [f"{name}: the version that learned wrong labels was {poisoned['state']}. {poisoned['reason']}"
             for name, poisoned in ((name, run["poisoned"]) for name, run in runs.items())]
    head = ["strategy", "labels", "Dice % on hidden scans", "voxels changed in a scan, last three", "served version"]
    text = page(
        "mnseg: a simulated clinician",
        [f"24 artificial scans, 6 labeled from the start; {result['minutes']} minutes on this machine.", *notes],
        [
            section("Dice and effort over labels", figure_block(figure, "Dice and effort over labels", "One run each, "
                    "one seed: differences between the strategies of a few points are chance.")),
            section("Numbers", table("Dice on hidden scans after each training", head, rows)),
        ],
        "Research software. Not for diagnosis.",
    )
    path.write_text(text, encoding="utf-8")
    return "\n".join([*lines, f"{path}"])


def curves(runs: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    dice, effort = figure.subplots(1, 2)
    for name, run in runs.items():
        dice.plot([p["labels"] for p in run["points"]], [100 * p["dice"] for p in run["points"]], "o-", label=name)
        effort.plot(range(7, 7 + len(run["labeled"])), [step["changed"] for step in run["labeled"]], "o-", label=name)
    dice.set(xlabel="labels", ylabel="Dice % on hidden scans")
    effort.set(xlabel="label number", ylabel="voxels changed")
    dice.legend()
    return figure
