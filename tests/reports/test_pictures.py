"""What the report's pictures show, and where: orientation, size in mm, outlines, curves."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from mnseg.reports.curves import curves_figure, describe_curves
from mnseg.reports.mining import _rounds
from mnseg.reports.overlays import Picture, Volume, class_color, overlay_figure

SPACING = (1.0, 2.0, 3.0)


def shown(axis: int):
    """Panels of a scan with one bright voxel at the patient's right, front and top, and boxes of two classes."""
    scan, truth = np.zeros((8, 7, 6), np.float32), np.zeros((8, 7, 6), np.float32)
    scan[7, 6, 5] = 100.0
    scan[:, :, 2] += np.arange(8)[:, None]
    truth[5:7, 1:4, 2:4], truth[1:3, 4:6, 2:4] = 1, 2
    mask = truth.copy()
    mask[:, :, :2] = truth[:, :, 2:4]  # the slice is chosen by the truth alone, which begins at 2
    picture = Picture("case", Volume(scan, SPACING), Volume(truth, SPACING), [("ours", Volume(mask, SPACING))])
    figure = overlay_figure([picture], axis, {1: "first", 2: "second"})
    return figure.axes, scan


def outline(panel, number: int) -> np.ndarray:
    """Lowest and highest (x, y) of the contour of a class; the filled area has no edge of its own."""
    (found,) = [c for c in panel.collections if len(c.get_edgecolor()) and np.allclose(
        c.get_edgecolor()[0], to_rgba(class_color(number)))]  # fmt: skip
    points = np.concatenate([path.vertices for path in found.get_paths() if len(path.vertices)])
    return np.array([points.min(axis=0), points.max(axis=0)])


@pytest.mark.parametrize(("axis", "index", "extent"), [(2, 2, (0, 8, 0, 14)), (1, 1, (0, 8, 0, 18))])
def test_the_patients_right_is_on_the_left_and_front_or_head_on_top(axis, index, extent):
    panels, scan = shown(axis)
    image = panels[0].images[0]
    assert image.origin == "lower" and tuple(image.get_extent()) == extent, "in mm"
    plane = np.take(scan, index, axis)
    np.testing.assert_array_equal(image.get_array(), np.array([plane[::-1, row] for row in range(plane.shape[1])]))
    assert [text.get_text() for text in panels[0].texts] == ["R"]


def test_a_sagittal_slice_is_seen_from_its_side_and_has_no_mark():
    panels, scan = shown(0)
    image = panels[0].images[0]
    assert tuple(image.get_extent()) == (0, 14, 0, 18)
    np.testing.assert_array_equal(image.get_array(), scan[1].T)
    assert not panels[0].texts


def test_outlines_lie_on_the_borders_of_the_voxels():
    panels, _ = shown(2)
    assert panels[0].get_title(loc="left") == "case\naxial slice 3 of 6"
    assert not panels[0].collections, "the scan alone"
    for panel in panels[1:3]:
        # Axis x runs from right to left: voxels 5 and 6 of 8 are 1 to 3 mm from the left side of the picture.
        np.testing.assert_allclose(outline(panel, 1), [[1, 2], [3, 8]])
        np.testing.assert_allclose(outline(panel, 2), [[5, 8], [7, 12]])


HISTORY = [
    {"epoch": epoch, "stage": 1 + (epoch > 2), "num_unlabeled": count, "val_dice_3d": 0.1 * epoch,
     "val_dice_2d": 0.9 - 0.1 * epoch, "pseudo_dice_3d": 0.05 * epoch, "pseudo_dice_2d": 0.5,
     "loss_labeled_3d": 2.0 / epoch, "loss_labeled_2d": 3.0 / epoch, "loss_unlabeled_3d": 1.0}
    for epoch, count in enumerate((0, 0, 5, 2), start=1)
]  # fmt: skip


def test_each_curve_is_the_one_that_its_label_names():
    losses, dice, sampling = curves_figure(HISTORY).axes
    found = {line.get_label(): list(line.get_ydata()) for line in dice.lines}
    assert found == {
        "3D network, validation": [h["val_dice_3d"] for h in HISTORY],
        "2D network, validation": [h["val_dice_2d"] for h in HISTORY],
        "3D network, its pseudo-labels": [h["pseudo_dice_3d"] for h in HISTORY],
        "2D network, its pseudo-labels": [h["pseudo_dice_2d"] for h in HISTORY],
    }
    assert {line.get_label(): line.get_ydata()[0] for line in losses.lines} == {
        "3D network, labeled": 2.0, "2D network, labeled": 3.0, "3D network, pseudo-labels": 1.0}  # fmt: skip
    assert dice.get_ylim() == (0, 1) and losses.get_ylim()[0] == 0
    assert list(sampling.lines[0].get_ydata()) == [0, 0, 5, 2]
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in dice.patches]
    assert spans == [(0.5, 2.5), (2.5, 4.5)], "stage 1 and stage 2"


def test_the_description_has_first_best_last_and_the_range_of_unlabeled_scans():
    text = describe_curves("ours", HISTORY)
    assert "over 4 epochs" in text
    assert "Validation Dice of the 3D network: first 0.10, best 0.40, last 0.40." in text
    assert "Validation Dice of the 2D network: first 0.80, best 0.80, last 0.50." in text
    assert "Unlabeled scans per batch go from 0 to 5." in text


def test_rounds_come_by_number(tmp_path):
    for number in (10, 2, 1):
        (tmp_path / "mined" / f"round_{number}").mkdir(parents=True)
        (tmp_path / "mined" / f"round_{number}" / "summary.json").touch()
    assert [folder.name for folder in _rounds(tmp_path)] == ["round_1", "round_2", "round_10"]
