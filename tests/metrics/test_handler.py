"""FieldMetricsHandler on a stub evaluator: the files it writes, and that nothing leaves a mean unseen."""

from __future__ import annotations

import csv
import json
import logging

import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from mnseg.errors import UserError
from mnseg.metrics.handler import FieldMetricsHandler

NAMES = ["background", "left", "right"]


def one_hot(mask: torch.Tensor, name: str) -> MetaTensor:
    hot = torch.nn.functional.one_hot(mask.long(), 3).movedim(-1, 0).float()
    return MetaTensor(hot, affine=torch.diag(torch.tensor([2.0, 1.0, 3.0, 1.0])), meta={"filename_or_obj": name})


def masks() -> tuple[torch.Tensor, torch.Tensor]:
    label = torch.zeros(8, 8, 4)
    label[1:4, 1:4, 1:3], label[5:7, 5:7, 1:3] = 1, 2
    pred = label.clone()
    pred[pred == 2] = 0
    return pred, label


def run(tmp_path, items) -> Engine:
    engine = Engine(lambda engine, batch: [batch])
    FieldMetricsHandler(str(tmp_path / "eval"), NAMES).attach(engine)
    engine.run(items, max_epochs=1)
    return engine


def test_files_per_case_and_class(tmp_path, caplog):
    pred, label = masks()
    items = [
        {"pred": one_hot(pred, "/data/case.01.nii.gz"), "label": one_hot(label, "x")},
        {"pred": one_hot(label, "/data/case2.nii"), "label": one_hot(label, "x")},
    ]
    with caplog.at_level(logging.INFO):
        run(tmp_path, items)
    text = (tmp_path / "eval" / "field_metrics.csv").read_text()
    assert text.splitlines()[0] == (
        "case,class,class_name,dice,jaccard,hd95_voxel,asd_voxel,hd95_mm,asd_mm,note"
    )  # fmt: skip
    rows = list(csv.DictReader(text.splitlines()))
    assert [(r["case"], r["class"], r["class_name"], r["dice"], r["note"]) for r in rows] == [
        ("case.01", "1", "left", "1.0", ""),
        ("case.01", "2", "right", "0.0", "empty prediction"),
        ("case2", "1", "left", "1.0", ""),
        ("case2", "2", "right", "1.0", ""),
    ]
    right = json.loads((tmp_path / "eval" / "field_summary.json").read_text())["classes"]["right"]
    # Of 0 and 1: the sample's deviation is sqrt(1 / 2), a whole population's would be 1 / 2.
    std = pytest.approx(0.5**0.5)
    assert right["dice"] == {"mean": 0.5, "std": std, "median": 0.5, "count": 2, "left_out": 0}
    assert right["hd95_mm"] == {"mean": 0.0, "std": 0.0, "median": 0.0, "count": 1, "left_out": 1}
    assert right["notes"] == {"empty prediction": 1}
    assert "right: 1 of 2 left out of the distance means (1 empty prediction)" in caplog.text
    assert sorted(p.name for p in (tmp_path / "eval").iterdir()) == ["field_metrics.csv", "field_summary.json"]


def test_millimetres_come_from_the_affine(tmp_path):
    _, label = masks()
    shifted = torch.roll(label, 1, dims=2)  # one voxel along the axis of 3 mm
    run(tmp_path, [{"pred": one_hot(shifted, "a.nii"), "label": one_hot(label, "a.nii")}])
    left = json.loads((tmp_path / "eval" / "field_summary.json").read_text())["classes"]["left"]
    assert left["hd95_voxel"]["mean"] == 1
    # In mm a neighbour in the plane (1 or 2 mm) may be nearer than the same voxel one slice up, but never here:
    # every voxel of the uncovered slice has its nearest counterpart exactly one slice away.
    assert left["hd95_mm"]["mean"] == 3


def test_millimetres_of_a_rotated_scan_are_those_of_its_own_axes(tmp_path):
    """Axis 0 of the voxels, 2 mm, points down, axis 1, 1 mm, to the right, axis 2, 3 mm, to the front."""
    _, label = masks()
    affine = torch.tensor([[0.0, 1.0, 0.0, 5.0], [0.0, 0.0, 3.0, -7.0], [-2.0, 0.0, 0.0, 9.0], [0.0, 0.0, 0.0, 1.0]])
    for axis, size in enumerate((2, 1, 3)):
        pred = one_hot(torch.roll(label, 1, dims=axis), "a.nii")
        pred.affine = affine
        run(tmp_path, [{"pred": pred, "label": one_hot(label, "a.nii")}])
        left = json.loads((tmp_path / "eval" / "field_summary.json").read_text())["classes"]["left"]
        assert (left["hd95_voxel"]["mean"], left["hd95_mm"]["mean"]) == (1, size)


def test_mean_median_and_all_classes_by_hand(tmp_path):
    """Dice of "left" 1, 1, 0 and of "right" 1, 0, 0; a background that was not asked for is not among them."""
    _, label = masks()
    preds = [label, label * (label == 1), label * 0]
    run(tmp_path, [{"pred": one_hot(pred, f"{i}.nii"), "label": one_hot(label, "x")} for i, pred in enumerate(preds)])
    classes = json.loads((tmp_path / "eval" / "field_summary.json").read_text())["classes"]
    assert list(classes) == ["left", "right", "all"]
    found = {name: (classes[name]["dice"]["mean"], classes[name]["dice"]["median"]) for name in classes}
    assert found["left"] == (pytest.approx(2 / 3), 1.0)
    assert found["right"] == (pytest.approx(1 / 3), 0.0)
    assert found["all"] == (pytest.approx(1 / 2), 0.5)


def test_the_background_is_measured_when_it_is_asked_for(tmp_path):
    pred, label = masks()
    engine = Engine(lambda engine, batch: [batch])
    FieldMetricsHandler(str(tmp_path / "eval"), NAMES, include_background=True).attach(engine)
    engine.run([{"pred": one_hot(pred, "a.nii"), "label": one_hot(label, "a.nii")}], max_epochs=1)
    rows = list(csv.DictReader((tmp_path / "eval" / "field_metrics.csv").read_text().splitlines()))
    assert [(r["class"], r["class_name"]) for r in rows] == [("0", "background"), ("1", "left"), ("2", "right")]
    # 256 voxels, 18 of "left", 8 of "right", which the prediction calls background.
    assert float(rows[0]["dice"]) == pytest.approx(2 * 230 / (238 + 230))


def test_a_case_has_the_name_that_the_datalist_gives_it(tmp_path):
    _, label = masks()
    pred = one_hot(label, "/data/patient_1/image.nii.gz")
    pred.meta["case"] = "patient_1"
    run(tmp_path, [{"pred": pred, "label": one_hot(label, "x")}])
    rows = list(csv.DictReader((tmp_path / "eval" / "field_metrics.csv").read_text().splitlines()))
    assert {row["case"] for row in rows} == {"patient_1"}


def test_all_distances_left_out_gives_none_not_nan(tmp_path):
    pred, label = masks()
    run(tmp_path, [{"pred": one_hot(pred * 0, "a.nii"), "label": one_hot(label, "a.nii")}])
    text = (tmp_path / "eval" / "field_summary.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["classes"]["all"]["asd_mm"] == {
        "mean": None, "std": None, "median": None, "count": 0, "left_out": 2}  # fmt: skip


def test_a_class_that_was_not_drawn_has_a_row_without_values(tmp_path, caplog):
    pred, label = masks()
    partial = one_hot(label * (label == 1), "b.nii")
    partial[2] = torch.nan
    with caplog.at_level(logging.INFO):
        run(tmp_path, [{"pred": one_hot(pred, "a.nii"), "label": one_hot(label, "a.nii")},
                       {"pred": one_hot(label, "b.nii"), "label": partial}])
    rows = list(csv.DictReader((tmp_path / "eval" / "field_metrics.csv").read_text().splitlines()))
    row = rows[3]
    assert (row["case"], row["class_name"], row["dice"], row["asd_mm"], row["note"]) == (
        "b", "right", "nan", "nan", "ignored")
    right = json.loads((tmp_path / "eval" / "field_summary.json").read_text())["classes"]["right"]
    assert right["dice"] == {"mean": 0.0, "std": 0.0, "median": 0.0, "count": 1, "left_out": 1}
    assert right["notes"] == {"empty prediction": 1, "ignored": 1}
    assert "(1 empty prediction, 1 ignored)" in caplog.text


def test_a_second_epoch_starts_afresh(tmp_path):
    _, label = masks()
    engine = run(tmp_path, [{"pred": one_hot(label, "a.nii"), "label": one_hot(label, "a.nii")}])
    engine.run([{"pred": one_hot(label, "b.nii"), "label": one_hot(label, "b.nii")}], max_epochs=1)
    assert engine.state.field_summary["num_cases"] == 1


@pytest.mark.parametrize(
    ("spoil", "message"), [(lambda t: t[..., :3], "differ in shape"), (lambda t: t[:2], "class_names names 3 classes")]
)
def test_mismatch_names_the_case(tmp_path, spoil, message):
    _, label = masks()
    with pytest.raises(UserError, match=f"case7.*{message}"):
        run(tmp_path, [{"pred": one_hot(label, "case7.nii"), "label": spoil(one_hot(label, "case7.nii"))}])
