"""Which cases the report shows and against which run, what it says of them, and that each panel has its own mask."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle

from mnseg.data.phantom_polyps import write_polyp_dataset
from mnseg.data.pictures import read_mask, write_mask
from mnseg.errors import UserError
from mnseg.metrics.field import METRIC_NAMES
from mnseg.reports.html import _baseline, _choose, _intro, _picture
from mnseg.reports.mining import _round_figure, prediction_figure
from mnseg.reports.overlays import class_color
from mnseg.reports.run_data import Run


def made(name: str, **dice: float) -> Run:
    """A run with a Dice for each case; its other values are others."""
    rows = [{"case": case, "class": 1, "class_name": "organ", "note": "", **dict.fromkeys(METRIC_NAMES, 0.123),
             "dice": value} for case, value in dice.items()]  # fmt: skip
    return Run(name, Path(name), rows)


def test_the_baseline_is_the_one_that_is_named_else_the_supervised_one_else_the_last():
    runs = [made("mn"), made("Supervised only"), made("uniform")]
    assert _baseline(runs, "mn") is runs[0]
    assert _baseline(runs, None) is runs[1]
    assert _baseline([runs[0], runs[2]], None) is runs[2]
    assert _baseline(runs[:1], None) is None


def test_cases_go_from_the_largest_gain_to_the_largest_loss():
    base, ours = made("base", a=0.5, b=0.7, c=0.6, d=0.1), made("ours", c=0.9, b=0.5, a=0.6, d=0.9)
    shown, reason = _choose([base, ours], base, {"a", "b", "c"}, 3)
    assert shown == [("c", "difference +0.300"), ("a", "difference +0.100"), ("b", "difference -0.200")]
    assert "gain in Dice of ours over base" in reason
    shown, reason = _choose([ours], None, {"a", "b", "d"}, 3)
    assert shown == [("d", "Dice 0.900"), ("a", "Dice 0.600"), ("b", "Dice 0.500")]
    assert "From the best to the worst Dice of ours" in reason


@pytest.mark.parametrize(
    ("case", "warning"),
    [("l", "trained on"), ("u", "trained on"), ("v", "so their numbers are optimistic"), ("t", None)],
)
def test_numbers_of_scans_that_training_has_seen_come_with_a_warning(case, warning):
    splits = {"labeled": "l", "unlabeled": "u", "validation": "v", "testing": "t"}
    content = {split: [{"case": name, "image": f"{name}.nii"}] for split, name in splits.items()}
    protocol = _intro(content, [made("ours", **{case: 0.5, "t": 0.5})])[1]
    warnings = [words for words in ("trained on", "so their numbers are optimistic") if words in protocol]
    assert warnings == ([warning] if warning else [])
    (split,) = [split for split, name in splits.items() if name == case]
    assert f"1 of the {split} cases" in protocol


def save(path: Path, shape: tuple[int, ...]) -> str:
    nib.save(nib.Nifti1Image(np.zeros(shape, np.float32), np.eye(4)), path)
    return str(path)


def test_a_panel_has_its_runs_mask_and_dice_and_other_grids_are_refused(tmp_path):
    item = {"image": save(tmp_path / "a.nii", (4, 5, 6)), "label": save(tmp_path / "b.nii", (4, 5, 6))}
    run, other = made("ours", a=0.25), made("other", b=0.5)
    run.predictions["a"] = Path(save(tmp_path / "a_pred.nii", (4, 5, 6)))
    found = _picture(item, "a", "difference +0.1", [run, other])
    assert found.title == "a\ndifference +0.1"
    assert [(heading, mask is None) for heading, mask in found.masks] == [("ours\nDice 0.250", False),
                                                                          ("other\n", True)]
    run.predictions["a"] = Path(save(tmp_path / "small_pred.nii", (4, 5, 5)))
    with pytest.raises(UserError, match="the mask of ours is not on the grid"):
        _picture(item, "a", "", [run])
    with pytest.raises(UserError, match="differ in shape"):
        _picture(item | {"label": str(run.predictions["a"])}, "a", "", [run])


def outline(panel) -> list[list[float]] | None:
    """Lowest and highest (column, row) of the outline of class 1, between pixels; None where there is none."""
    color = to_rgba(class_color(1))
    paths = [path for found in panel.collections if len(found.get_edgecolor()) for path in found.get_paths()
             if np.allclose(found.get_edgecolor()[0], color) and len(path.vertices)]  # fmt: skip
    points = np.concatenate([path.vertices for path in paths]) if paths else None
    return None if points is None else [points.min(axis=0).tolist(), points.max(axis=0).tolist()]


def box(rows: slice, columns: slice, shape: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[rows, columns] = 1
    return mask


def around(rows: slice, columns: slice) -> list[list[float]]:
    return [[columns.start - 0.5, rows.start - 0.5], [columns.stop - 0.5, rows.stop - 0.5]]


TRUTH, PREDICTED, MINED = ((slice(4, 9), slice(3, 20)), (slice(12, 30), slice(6, 14)), (slice(20, 27), slice(21, 40)))


@pytest.fixture
def planar(tmp_path):
    """Content of a datalist of 40 x 48 pixels whose truth is a box."""
    path = write_polyp_dataset(tmp_path / "data", 0, 1, 0, 1, size=(40, 48))
    content = json.loads(path.read_text())
    for split, key in (("testing", "label"), ("unlabeled", "hidden_label")):
        (item,) = content[split]
        for name in ("image", key):
            item[name] = str(path.parent / item[name])
        item["case"] = split
        write_mask(box(*TRUTH, (40, 48)), item["image"], Path(item[key]).with_suffix(""), 2)
        assert read_mask(item[key], 2).sum() == 5 * 17
    return content


def test_images_have_the_outlines_of_the_truth_and_of_each_run(planar, tmp_path):
    (item,) = planar["testing"]
    run = made("ours", testing=0.25)
    run.predictions["testing"] = write_mask(box(*PREDICTED, (40, 48)), item["image"], tmp_path / "p", 2)
    panels = prediction_figure([(item, "best")], [run, made("other")], {1: "polyp"}).axes
    assert [outline(panel) for panel in panels] == [None, around(*TRUTH), around(*PREDICTED), None]
    titles = [panel.get_title(loc="left") for panel in panels]
    assert titles == ["testing\nbest", "truth\n", "ours\nDice 0.250", "other\n"]


def test_a_round_shows_the_prompt_the_mined_mask_and_the_truth(planar, tmp_path):
    (item,) = planar["unlabeled"]
    folder = tmp_path / "round_1"
    (folder / "network").mkdir(parents=True)
    speck = box(*PREDICTED, (40, 48))
    speck[0, 47] = 1  # 1 of 1920 pixels: below the smallest component
    write_mask(speck, item["image"], folder / "network" / "unlabeled", 2)
    write_mask(box(*MINED, (40, 48)), item["image"], folder / "unlabeled", 2)
    (folder / "decisions.csv").write_text("case,decision\nunlabeled,kept\n")
    settings = {"box_margin": 0.0, "min_component_size": 0.001}
    figure, cases = _round_figure(planar, folder, {"prompts": settings}, 4)
    assert cases == ["unlabeled"]
    image, prompt, mined, truth = figure.axes
    assert (outline(image), outline(mined), outline(truth)) == (None, around(*MINED), around(*TRUTH))
    (found,) = [patch for patch in prompt.patches if isinstance(patch, Rectangle)]
    low, high = around(*PREDICTED)
    assert found.get_xy() == tuple(low)
    assert (found.get_width(), found.get_height()) == (high[0] - low[0], high[1] - low[1])
    # The first positive point is the deepest one; its column lies in the box of 8 columns and 18 rows.
    positive = next(dots for dots in prompt.collections if len(dots.get_offsets()) == 3)
    for column, row in positive.get_offsets().tolist():
        assert 6 <= column < 14 and 12 <= row < 30
