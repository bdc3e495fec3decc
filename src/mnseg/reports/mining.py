"""What a page shows of a run of sam_mining: predictions on 2D images; prompts, mined masks and truth of every round."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mnseg.data.pictures import RASTER, read_mask, read_picture
from mnseg.mining.miner import KEPT
from mnseg.mining.prompts import PromptSettings, find_components, make_prompt
from mnseg.mining.training.rounds import DECISIONS, NETWORK, SUMMARY, mask_of
from mnseg.reports.overlays import class_color
from mnseg.reports.page import figure_block, section, table
from mnseg.reports.run_data import Run

__all__ = ["is_planar", "mined_sections", "prediction_figure"]

PANEL = 2.3  # inches
CAPTION = (
    "From left to right: image; prompt of the last round (the small network's mask, its box, positive points +, "
    "negative points x); the large model's mask, or why it was dropped; truth, which neither training nor mining has "
    "seen. Kept and dropped images are chosen in turn, by name."
)


def is_planar(content: Mapping[str, Any], runs: Sequence[Run]) -> bool:
    """Whether a datalist is one of 2D images: a NIfTI or DICOM file may be one, which the bundle's settings tell."""
    if any("image_size" in run.settings for run in runs):
        return True
    items = [item for value in content.values() if isinstance(value, list) for item in value if isinstance(item, dict)]
    return any(item["image"].lower().endswith(RASTER) for item in items)


def prediction_figure(
    cases: Sequence[tuple[Mapping[str, str], str]], runs: Sequence[Run], names: Mapping[int, str]
) -> Figure:
    """A row a case: image, truth, each run's mask.

    Args:
        cases: datalist items and a word on each.
        names: number and name of the foreground classes.
    """
    figure, panels = _grid(len(cases), 2 + len(runs))
    classes = max(names) + 1
    for row, (item, place) in zip(panels, cases, strict=True):
        picture = read_picture(item["image"])
        _draw(row[0], picture, f"{item['case']}\n{place}")
        _draw(row[1], picture, "truth\n", read_mask(item["label"], classes), names)
        for panel, run in zip(row[2:], runs, strict=True):
            path = run.predictions.get(item["case"])
            dice = run.values("dice").get(item["case"], float("nan"))
            words = f"Dice {dice:.3f}" if np.isfinite(dice) else ""
            _draw(panel, picture, f"{run.name}\n{words}", None if path is None else read_mask(path, classes), names)
    return figure


def mined_sections(content: Mapping[str, Any], runs: Sequence[Run], max_cases: int) -> list[str]:
    """A section for each run that has mined."""
    return [_section(content, run, rounds, max_cases) for run in runs if (rounds := _rounds(run.folder))]


def _rounds(folder: Path) -> list[Path]:
    found = [path.parent for path in (folder / "mined").glob(f"round_*/{SUMMARY}")]
    return sorted(found, key=lambda path: int(path.name.removeprefix("round_")))


def _section(content: Mapping[str, Any], run: Run, rounds: Sequence[Path], max_cases: int) -> str:
    summaries = [json.loads((folder / SUMMARY).read_text()) for folder in rounds]
    decisions = list(dict.fromkeys(name for summary in summaries for name in summary["decisions"]))
    rows = [("", [str(number), str(summary.get("epoch", "–")),
                  *(str(summary["decisions"].get(name, 0)) for name in decisions),
                  f"{summary['pseudo_dice_2d']:.3f}" if "pseudo_dice_2d" in summary else "–"])
            for number, summary in enumerate(summaries, start=1)]
    parts = [table("Images by decision, and the mean Dice of the kept masks against the hidden truth",
                   ["round", "epoch", *decisions, "Dice of kept"], rows)]
    figure, cases = _round_figure(content, rounds[-1], summaries[-1], max_cases)
    if figure is not None:
        parts.append(figure_block(figure, f"Prompts, mined masks and truth of {', '.join(cases)}", CAPTION))
    return section(f"Mined labels: {run.name}", *parts)


def _round_figure(
    content: Mapping[str, Any], folder: Path, summary: Mapping[str, Any], max_cases: int
) -> tuple[Figure | None, list[str]]:
    items = {item["case"]: item for item in content.get("unlabeled", [])}
    with (folder / DECISIONS).open(encoding="utf-8", newline="") as file:
        decided = {row["case"]: row["decision"] for row in csv.DictReader(file)}
    cases = _in_turn([c for c in decided if decided[c] == KEPT and c in items],
                     [c for c in decided if decided[c] != KEPT and c in items])[:max_cases]
    if not cases:
        return None, []
    names = dict(list(enumerate(content["class_names"]))[1:])
    settings = PromptSettings(**summary["prompts"]) if "prompts" in summary else PromptSettings()
    figure, panels = _grid(len(cases), 4)
    for row, case in zip(panels, cases, strict=True):
        item, kept = items[case], decided[case] == KEPT
        picture = read_picture(item["image"])
        network = read_mask(mask_of(folder / NETWORK / case, item["image"]), max(names) + 1)
        mined = read_mask(mask_of(folder / case, item["image"]), max(names) + 1) if kept else None
        truth = read_mask(item["hidden_label"], max(names) + 1) if item.get("hidden_label") else None
        _draw(row[0], picture, case)
        _draw(row[1], picture, "prompt", network, names)
        _draw_prompts(row[1], network, len(names) + 1, settings)
        _draw(row[2], picture, decided[case], mined, names)
        _draw(row[3], picture, "truth" if truth is not None else "truth: none", truth, names)
    return figure, cases


def _in_turn(first: Sequence[str], second: Sequence[str]) -> list[str]:
    pairs = max(len(first), len(second))
    return [group[i] for i in range(pairs) for group in (sorted(first), sorted(second)) if i < len(group)]


def _grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(PANEL * columns, (PANEL + 0.3) * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _draw(
    panel: Axes, picture: np.ndarray, title: str, mask: np.ndarray | None = None, names: Mapping[int, str] | None = None
) -> None:
    panel.imshow(picture, cmap="gray")
    for number in names if mask is not None else ():
        inside = (mask == number).astype(float)
        if inside.any():
            panel.contour(inside, [0.5], colors=[class_color(number)], linewidths=1.6)
    panel.set_title(title, fontsize=9, loc="left")
    panel.set_xticks([])
    panel.set_yticks([])


def _draw_prompts(panel: Axes, network: np.ndarray, num_classes: int, settings: PromptSettings) -> None:
    """Points by confidence cannot be drawn: the probabilities are not kept."""
    for index, component in find_components(network, num_classes, settings.min_component_size * network.size):
        prompt = make_prompt(index, component, network, component.astype(np.float32), settings)
        row0, column0, row1, column1 = prompt.box
        panel.add_patch(Rectangle((column0 - 0.5, row0 - 0.5), column1 - column0, row1 - row0, fill=False,
                                  edgecolor="white", linewidth=1.2))
        if settings.point_selection == "distance":
            for label, marker in ((1, "+"), (0, "x")):
                points = prompt.points[prompt.point_labels == label]
                panel.scatter(points[:, 1], points[:, 0], marker=marker, c="white", s=26, linewidths=1.2)
