"""``mnseg report``: one HTML file that shows what one or several runs did.

The file holds everything that it shows (pictures, styles) and runs no scripts, so that it can be mailed or archived.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from mnseg import __version__
from mnseg.data.datalist import SPLITS, load_datalist, through_plane_axis
from mnseg.errors import UserError
from mnseg.files import atomic_write
from mnseg.reports.curves import MINING_STAGE_NAMES, STAGE_NAMES, curves_figure, describe_curves
from mnseg.reports.mining import is_planar, mined_sections, prediction_figure
from mnseg.reports.overlays import Picture, overlay_figure, read_canonical, spread_cases
from mnseg.reports.page import figure_block, note, page, section, table
from mnseg.reports.run_data import Run, load_run
from mnseg.reports.tables import difference_table, headlines, metric_table

__all__ = ["add_report_arguments", "run_report", "write_report"]

TITLE = "Segmentation report"


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``mnseg report``."""
    parser.add_argument("--datalist", metavar="FILE", required=True, help="datalist of the scans that were used")
    parser.add_argument("--dataset-dir", metavar="DIR", help="folder that the datalist's paths start from "
                                                             "(default: the datalist's own)")
    parser.add_argument("--run", metavar="NAME=DIR", action="append", required=True, dest="runs",
                        help="run directory with its name on the page; repeat it to compare")
    parser.add_argument("-o", "--output", metavar="FILE", default="report.html", help="default: %(default)s")
    parser.add_argument("--baseline", metavar="NAME", help="run that the others are compared with "
                                                           "(default: one named supervised, else the last)")
    parser.add_argument("--max-cases", metavar="N", type=int, default=4,
                        help="cases shown in pictures (default: %(default)s)")
    parser.add_argument("--title", metavar="TEXT", default=TITLE, help="heading of the page")


def run_report(args: argparse.Namespace) -> Path:
    """Write the report that the arguments ask for and return its path.

    Raises:
        UserError: for a run without a name or folder, two runs of one name, or what `write_report` refuses.
    """
    runs: dict[str, str] = {}
    for text in args.runs:
        name, separator, folder = text.partition("=")
        if not separator or not name.strip() or not folder:
            raise UserError(f"--run {text}: give a name and a folder, like --run \"M&N=runs/mn\"")
        if name in runs:
            raise UserError(f"--run {text}: the name {name!r} is used twice; give every run its own name")
        runs[name] = folder
    return write_report(
        args.output, args.datalist, runs, args.baseline, args.max_cases, args.title, dataset_dir=args.dataset_dir
    )


def write_report(
    output: str | os.PathLike,
    datalist: str | os.PathLike,
    runs: Mapping[str, str | os.PathLike],
    reference: str | None = None,
    max_cases: int = 4,
    title: str = TITLE,
    dataset_dir: str | os.PathLike | None = None,
) -> Path:
    """Write one self-contained HTML page about `runs`.

    Args:
        output: the HTML file.
        datalist: file with the scans and the truth of the measured cases.
        runs: name on the page -> run directory, in the order in which they are shown.
        reference: name of the run that the others are compared with; None takes the first one with "supervised" in
            its name, else the last one.
        max_cases: how many cases are shown in pictures; 0 shows none.
        title: heading of the page.
        dataset_dir: folder that relative paths of the datalist start from; None is the datalist's own.

    Raises:
        UserError: no run, an unknown reference, a missing or empty run directory, an unreadable datalist or file.
    """
    if not runs:
        raise UserError("a report needs at least one run: name a run directory")
    if reference is not None and reference not in runs:
        raise UserError(f"baseline {reference!r} is not among the runs ({', '.join(runs)})")
    content = load_datalist(datalist, dataset_dir)
    loaded = [load_run(name, folder) for name, folder in runs.items()]
    _require_same_names(content, loaded)
    baseline = _baseline(loaded, reference)
    planar = is_planar(content, loaded)
    body = [
        _results(loaded, baseline),
        _planar_pictures(content, loaded, baseline, max_cases) if planar else (
            _pictures(content, loaded, baseline, max_cases)
        ),
        *mined_sections(content, loaded, max_cases),
        _curves(loaded),
        _settings(loaded),
    ]
    html = page(title, _intro(content, loaded), body, f"Written by mnseg {__version__}. Not for diagnosis.")
    return atomic_write(output, lambda temporary: temporary.write_text(html, encoding="utf-8"))


def _require_same_names(content: dict, runs: Sequence[Run]) -> None:
    """The same names in another order would name every structure of a run wrongly."""
    listed = content.get("class_names") or []
    for run in runs:
        names = run.settings.get("class_names") or listed
        if list(names) != list(listed) and sorted(map(str, names)) == sorted(map(str, listed)):
            raise UserError(f"the datalist names the classes {', '.join(listed)}, the run {run.name} "
                            f"{', '.join(names)}: take the datalist that the run was measured with.")


def _baseline(runs: Sequence[Run], reference: str | None) -> Run | None:
    if reference is not None:
        return next(run for run in runs if run.name == reference)
    if len(runs) < 2:
        return None
    return next((run for run in runs if "supervised" in run.name.lower()), runs[-1])


def _intro(content: dict, runs: Sequence[Run]) -> list[str]:
    """What the page is, and the protocol behind its numbers."""
    names = " and ".join(f"“{run.name}”" for run in runs)
    counts = ", ".join(f"{len(content[split])} {split}" for split in SPLITS if content.get(split))
    measured = {case for run in runs for case in run.cases()}
    splits = {split: sum(item["case"] in measured for item in content.get(split, [])) for split in SPLITS}
    where = " and ".join(f"{count} of the {split} cases" for split, count in splits.items() if count)
    protocol = f"Scans: {counts}."
    if measured:
        protocol += f" The numbers below were measured on {where or f'{len(measured)} cases outside this datalist'}."
    if splits["labeled"] or splits["unlabeled"]:
        protocol += " Some of these were trained on, so their numbers say nothing about new scans."
    elif splits["validation"]:
        protocol += " Validation cases may have chosen the checkpoint, so their numbers are optimistic."
    return [f"{'2D' if is_planar(content, runs) else '3D'} segmentation from few labeled scans: {names}.", protocol]


def _results(runs: Sequence[Run], baseline: Run | None) -> str:
    measured = [run for run in runs if run.metrics]
    parts = [_missing(run, "eval/field_metrics.csv", "it is not in the tables; evaluate it with "
                      "configs/metrics/field.json") for run in runs if not run.metrics]
    if measured:
        parts = [*(note(line, "lead") for line in headlines(runs, baseline)), *parts, metric_table(measured)]
        if baseline is not None and baseline.metrics and len(measured) > 1:
            parts += ["<h3>Paired differences</h3>", difference_table(measured, baseline)]
    return section("Results", *parts)


def _pictures(content: dict, runs: Sequence[Run], baseline: Run | None, max_cases: int) -> str:
    heading = "Scans and masks"
    parts = [_missing(run, "eval/predictions", "it has no masks to show") for run in runs if not run.predictions]
    items = {item["case"]: item for split in SPLITS for item in content.get(split, []) if "label" in item}
    with_masks = set().union(*(run.predictions for run in runs)) & set(items)
    if not with_masks:
        return section(heading, *parts, note("No case has both a mask and a truth in the datalist.", "missing"))
    shown, reason = _choose(runs, baseline, with_masks, max_cases)
    pictures, drawn = [], []
    for case, place in shown:
        try:
            pictures.append(_picture(items[case], case, place, runs))
            drawn.append(case)
        except UserError as error:
            parts.append(note(f"Case {case} is not shown: {error}", "missing"))
    if not pictures:
        return section(heading, *parts, note("No case is shown.", "missing"))
    names = _class_names(content, runs, pictures)
    axis = through_plane_axis([items[case] for case in drawn])
    figure = overlay_figure(pictures, axis, names)
    alt = f"Outlines of {', '.join(names.values())} on one slice of {', '.join(drawn)}: scan, truth, " + ", ".join(
        run.name for run in runs
    )
    caption = (
        f"{reason} Slices lie across the through-plane axis, where the structures are largest; R marks the patient's "
        "right. Dice values are means over the classes of the whole scan, not of the slice."
    )
    return section(heading, *parts, figure_block(figure, alt, caption))


def _planar_pictures(content: dict, runs: Sequence[Run], baseline: Run | None, max_cases: int) -> str:
    items = {item["case"]: item for split in SPLITS for item in content.get(split, []) if "label" in item}
    with_masks = set().union(*(run.predictions for run in runs)) & set(items)
    if not with_masks:
        return section("Images and masks", note("No case has both a mask and a truth in the datalist.", "missing"))
    shown, reason = _choose(runs, baseline, with_masks, max_cases)
    names = dict(list(enumerate(content["class_names"]))[1:])
    figure = prediction_figure([(items[case], place) for case, place in shown], runs, names)
    cases, columns = ", ".join(case for case, _ in shown), ", ".join(run.name for run in runs)
    alt = f"Outlines of {', '.join(names.values())} on {cases}: image, truth, {columns}"
    return section("Images and masks", figure_block(figure, alt, reason))


def _choose(
    runs: Sequence[Run], baseline: Run | None, cases: set[str], count: int
) -> tuple[list[tuple[str, str]], str]:
    """Cases to show with a word on each, and the rule in a sentence."""
    measured = [run for run in runs if run.metrics]
    main = next((run for run in measured if run is not baseline), None)
    if main is not None and baseline is not None and baseline.metrics:
        ours, theirs = main.values("dice"), baseline.values("dice")
        values = {case: ours[case] - theirs[case] for case in ours if case in theirs and case in cases}
        word = "difference {:+.3f}"
        reason = f"From the case with the largest gain in Dice of {main.name} over {baseline.name} to the smallest " \
                 "(or largest loss), evenly by rank."
    elif measured:
        values = {case: dice for case, dice in measured[0].values("dice").items() if case in cases}
        word = "Dice {:.3f}"
        reason = f"From the best to the worst Dice of {measured[0].name}, evenly by rank."
    else:
        values = {}
    if not values:
        return [(case, "") for case in sorted(cases)[:count]], "The first cases by name."
    return [(case, word.format(values[case])) for case in spread_cases(values, count)], reason


def _picture(item: dict, case: str, place: str, runs: Sequence[Run]) -> Picture:
    scan, truth = read_canonical(item["image"]), read_canonical(item["label"])
    if scan.voxels.shape != truth.voxels.shape:
        raise UserError(f"scan {scan.voxels.shape} and truth {truth.voxels.shape} differ in shape")
    masks = []
    for run in runs:
        mask = read_canonical(run.predictions[case]) if case in run.predictions else None
        if mask is not None and mask.voxels.shape != scan.voxels.shape:
            raise UserError(f"the mask of {run.name} is not on the grid of the scan")
        dice = run.values("dice").get(case, float("nan"))
        masks.append((f"{run.name}\n" + (f"Dice {dice:.3f}" if np.isfinite(dice) else ""), mask))
    return Picture(f"{case}\n{place}" if place else case, scan, truth, masks)


def _class_names(content: dict, runs: Sequence[Run], pictures: Sequence[Picture]) -> dict[int, str]:
    """Foreground classes: from the datalist, else from the tables, else the numbers in the masks."""
    if len(content.get("class_names", [])) > 1:
        return dict(list(enumerate(content["class_names"]))[1:])
    for run in runs:
        if run.metrics:
            return {number: name for number, name in run.classes().items() if number > 0}
    numbers = np.unique(np.concatenate([np.unique(picture.truth.voxels) for picture in pictures]))
    return {int(number): f"class {int(number)}" for number in numbers if number > 0}


def _curves(runs: Sequence[Run]) -> str:
    parts = []
    for run in runs:
        if not run.history:
            parts.append(_missing(run, "history.jsonl", "it has no curves"))
            continue
        planar = "image_size" in run.settings
        networks = "" if planar else "Blue: 3D network (the product). Orange: 2D network. "
        caption = f"{networks}Dashed: against pseudo-labels (loss), or pseudo-labels against the hidden truth (Dice)."
        figure = curves_figure(run.history, MINING_STAGE_NAMES if planar else STAGE_NAMES)
        block = figure_block(figure, describe_curves(run.name, run.history), caption)
        parts += [f"<h3>{escape(run.name)}</h3>", block]
    return section("Training", *parts)


def _settings(runs: Sequence[Run]) -> str:
    parts = [_missing(run, "model.json", "its settings are not known") for run in runs if not run.settings]
    known = [run for run in runs if run.settings]
    keys = list(dict.fromkeys(key for run in known for key in run.settings))
    rows = []
    for key in keys:
        texts = [json.dumps(run.settings[key], ensure_ascii=False) if key in run.settings else "–" for run in known]
        rows.append(("settings differs" if len(set(texts)) > 1 else "settings", [key, *texts]))
    if known:
        parts.append(table("From model.json of each run; rows in which runs differ are tinted",
                           ["key", *(run.name for run in known)], rows))
    return section("Settings", *parts)


def _missing(run: Run, what: str, consequence: str) -> str:
    return note(f"{run.name}: {run.folder.name}/{what} is missing, so {consequence}.", "missing")

