"""evaluate.json: predictions and metrics on the scan's own grid, and nothing left out unsaid."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "bundles" / "mn_cotraining" / "configs"
FIELD = ROOT / "configs" / "metrics" / "field.json"
NAMES = ["background", "low", "high"]
PERMUTED = np.array([[0.0, 0.0, 2.0], [-1.0, 0.0, 0.0], [0.0, 1.5, 0.0]])  # voxels of 1.0 x 1.5 x 2.0 mm


def save(path: Path, data: np.ndarray, affine3: np.ndarray = PERMUTED) -> str:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = affine3, (5.0, -20.0, 3.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return str(path)


def boxes(shift: int = 0) -> np.ndarray:
    label = np.zeros((20, 18, 14), dtype=np.uint8)
    label[3 + shift : 9 + shift, 4:10, 3:9] = 1
    label[12:18, 8:15, 5:11] = 2
    return label


def copying_model(path: Path) -> None:
    """Logits 2 k x - k**2, largest where (x - k)**2 is smallest: the class k of a voxel is its value 0, 1 or 2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weight = torch.tensor([0.0, 2.0, 4.0]).reshape(3, 1, 1, 1, 1)
    torch.save({"weight": weight, "bias": torch.tensor([0.0, -1.0, -4.0])}, path)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three test cases, the model copies the image: a is right, b shifted by one voxel, c misses class 2."""
    copying_model(tmp_path / "models" / "model.pt")
    missing = boxes()
    missing[missing == 2] = 0
    scans = tmp_path / "scans"
    for name, image in {"a": boxes(), "b": boxes(1), "c": missing}.items():
        save(scans / f"{name}.nii.gz", image.astype(np.float32))
    label = save(tmp_path / "elsewhere" / "label.nii.gz", boxes())  # absolute in the list
    save(scans / "labels" / "label.nii.gz", boxes().astype(np.float32))  # float labels exist in real sets
    testing = [
        {"image": "a.nii.gz", "label": "labels/label.nii.gz"},
        {"image": str(scans / "b.nii.gz"), "label": label},
        {"image": "c.nii.gz", "label": label},
        {"image": "a.nii.gz"},
    ]
    write_list(tmp_path, {"testing": testing, "validation": testing[:1], "unlabeled": [{"image": "a.nii.gz"}]})
    return tmp_path


def write_list(run: Path, content: dict) -> None:
    (run / "scans" / "datalist.json").write_text(json.dumps(content))


def workflow(run: Path, *overlays: Path, **override: Any) -> ConfigWorkflow:
    defaults = {
        "run_dir": str(run),
        "dataset_dir": str(run / "scans"),
        "device": "cpu",
        "class_names": NAMES,
        "patch_size": [16, 16, 16],
        "intensity": {"_target_": "Compose", "transforms": []},
        "network_def": {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 3, "kernel_size": 1},
    }
    files = [str(path) for path in (CONFIGS / "evaluate.json", *overlays)]
    return ConfigWorkflow(files, workflow_type="infer", logging_file=False, **{**defaults, **override})


def evaluate(run: Path, *overlays: Path, **override: Any) -> ConfigWorkflow:
    flow = workflow(run, *overlays, **override)
    flow.initialize()
    assert flow.check_properties() == []
    flow.run()
    flow.finalize()
    return flow


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_predictions_lie_on_the_scan_and_equal_what_the_model_says(run):
    evaluate(run)
    for name in "abc":
        scan = nib.load(run / "scans" / f"{name}.nii.gz")
        mask = nib.load(run / "eval" / "predictions" / f"{name}_pred.nii.gz")
        assert np.abs(mask.affine - scan.affine).max() < 2e-6
        assert mask.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(np.asarray(mask.dataobj), scan.get_fdata())


def test_monai_metrics_by_hand_and_what_has_no_value_is_counted(run, caplog):
    with caplog.at_level(logging.INFO):
        evaluate(run)
    rows = read_csv(run / "eval" / "val_mean_dice_raw.csv")
    assert [Path(r["filename"]).name for r in rows] == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    # b: class 1 is a box of 6 voxels moved by one, so 5/6 of it overlap; c: class 2 is missed altogether
    values = [[float(r["class0"]), float(r["class1"])] for r in rows]
    np.testing.assert_allclose(values, [[1, 1], [5 / 6, 1], [1, 0]], atol=1e-4)
    evaluation = json.loads((run / "eval" / "evaluation.json").read_text())
    assert evaluation["without_finite_value"] == {"val_mean_dice": 0, "val_hd95_voxel": 1, "val_asd_voxel": 1}
    assert "val_hd95_voxel: 1 (case, class) pairs have no finite value" in caplog.text
    assert "1 of 4 cases of split testing have no label" in caplog.text
    assert (run / "eval" / "metrics.csv").read_text().startswith("val_mean_dice")


def test_field_overlay_adds_the_field_metrics(run):
    flow = evaluate(run, FIELD)
    rows = {(r["case"], r["class_name"]): r for r in read_csv(run / "eval" / "field_metrics.csv")}
    assert set(rows) == {(c, n) for c in "abc" for n in NAMES[1:]}
    assert float(rows["a", "low"]["dice"]) == 1
    assert float(rows["b", "low"]["dice"]) == pytest.approx(5 / 6)
    assert float(rows["b", "low"]["jaccard"]) == pytest.approx(5 / 7)
    binary = pytest.importorskip("medpy.metric.binary")
    masks, spacing = (boxes(1) == 1, boxes() == 1), (1.0, 1.5, 2.0)
    assert float(rows["b", "low"]["hd95_voxel"]) == pytest.approx(binary.hd95(*masks))
    assert float(rows["b", "low"]["asd_mm"]) == pytest.approx(binary.asd(*masks, voxelspacing=spacing), abs=1e-6)
    assert rows["c", "high"]["note"] == "empty prediction"
    assert rows["c", "high"]["hd95_mm"] == "nan"
    # MONAI's own metrics are still there
    assert flow.evaluator.state.metrics["val_mean_dice"] == pytest.approx((1 + 1 + 5 / 6 + 1 + 1 + 0) / 6)
    assert (run / "eval" / "val_mean_dice_raw.csv").exists()


@pytest.mark.parametrize("ignored", [["high"], [2], "high"])
def test_a_structure_that_was_not_drawn_is_in_no_mean(run, ignored, caplog):
    """c lacks class 2: as background, its Dice would be 0 or 1; declared as ignored, it has none."""
    content = json.loads((run / "scans" / "datalist.json").read_text())
    (run / "scans" / "high").mkdir()  # MONAI takes any text that is a file's name for a path
    content["testing"][2]["ignored"] = ignored
    content["testing"][0]["ignored"] = []
    label = boxes()
    label[label == 2] = 0
    save(run / "elsewhere" / "label.nii.gz", boxes())
    content["testing"][2]["label"] = save(run / "elsewhere" / "partial.nii.gz", label)
    save(run / "scans" / "c.nii.gz", boxes().astype(np.float32))  # the model finds class 2 all the same
    write_list(run, content)
    with caplog.at_level(logging.INFO):
        flow = evaluate(run, FIELD)
    assert flow.evaluator.state.metrics["val_mean_dice"] == pytest.approx(((1 + 1) / 2 + (5 / 6 + 1) / 2 + 1) / 3)
    details = flow.evaluator.state.metric_details
    for name, values in details.items():
        assert torch.isnan(values).nonzero().tolist() == [[2, 1]], name
    assert not any(torch.isinf(values).any() for values in details.values())
    assert read_csv(run / "eval" / "val_mean_dice_raw.csv")[2]["class1"] == "nan"
    rows = {(r["case"], r["class_name"]): r for r in read_csv(run / "eval" / "field_metrics.csv")}
    assert (rows["c", "high"]["dice"], rows["c", "high"]["note"]) == ("nan", "ignored")
    assert float(rows["c", "low"]["dice"]) == 1
    assert "1 cases have structures that were not drawn" in caplog.text
    mask = nib.load(run / "eval" / "predictions" / "c_pred.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj), boxes())  # the prediction is saved whole


@pytest.mark.parametrize("ignored", [["hihg"], [3], ["background"], [0]])
def test_an_ignored_structure_that_does_not_exist_is_named(run, ignored):
    content = json.loads((run / "scans" / "datalist.json").read_text())
    content["testing"][1]["ignored"] = ignored
    write_list(run, content)
    with pytest.raises(SystemExit, match=r'"ignored" of .*b.nii.gz in .*datalist.json .*each one of low, high'):
        workflow(run).initialize()


def test_the_names_are_those_of_the_datalist(run):
    """A model may call its classes otherwise; the datalist's "ignored" means its own "class_names"."""
    content = json.loads((run / "scans" / "datalist.json").read_text()) | {"class_names": ["nothing", "one", "two"]}
    content["testing"][2]["ignored"] = ["two"]
    write_list(run, content)
    flow = evaluate(run)
    assert torch.isnan(flow.evaluator.state.metric_details["val_mean_dice"]).nonzero().tolist() == [[2, 1]]


def test_the_models_names_in_another_order_are_refused_and_others_are_told(run, caplog):
    content = json.loads((run / "scans" / "datalist.json").read_text())
    write_list(run, content | {"class_names": [NAMES[0], *NAMES[:0:-1]]})
    with pytest.raises(SystemExit, match=r"datalist.json names the classes background, high, low, the model "
                                         r"background, low, high: number the labels as the model does"):
        workflow(run).initialize()
    assert not (run / "eval").exists()
    write_list(run, content | {"class_names": ["nothing", "one", "two"]})
    workflow(run).initialize()
    assert "the model background, low, high: results bear the latter" in caplog.text


def test_metrics_are_of_the_original_grid_when_resampled_inside(run):
    evaluate(run, FIELD, spacing=[0.7, 0.7, 0.7])
    for name in "abc":
        mask = nib.load(run / "eval" / "predictions" / f"{name}_pred.nii.gz")
        assert mask.shape == (20, 18, 14)
    row = next(r for r in read_csv(run / "eval" / "field_metrics.csv") if (r["case"], r["class"]) == ("a", "2"))
    pred = np.asarray(nib.load(run / "eval" / "predictions" / "a_pred.nii.gz").dataobj) == 2
    truth = boxes() == 2
    assert float(row["dice"]) == pytest.approx(2 * (pred & truth).sum() / (pred.sum() + truth.sum()))
    assert float(row["dice"]) > 0.85


def test_no_predictions_and_another_split(run):
    evaluate(run, save_predictions=False, evaluate_split="validation")
    assert not (run / "eval" / "predictions").exists()
    assert len(read_csv(run / "eval" / "val_mean_dice_raw.csv")) == 1


def test_one_slice(run):
    save(run / "scans" / "flat.nii.gz", boxes()[:, :, 5:6].astype(np.float32))
    save(run / "scans" / "flat_label.nii.gz", boxes()[:, :, 5:6])
    write_list(run, {"testing": [{"image": "flat.nii.gz", "label": "flat_label.nii.gz"}]})
    flow = evaluate(run, FIELD)
    assert nib.load(run / "eval" / "predictions" / "flat_pred.nii.gz").shape == (20, 18, 1)
    assert flow.evaluator.state.metrics["val_mean_dice"] == 1


def test_without_scipy_dice_remains_and_it_is_said(run, caplog):
    flow = evaluate(run, has_scipy=False)
    assert set(flow.evaluator.state.metrics) == {"val_mean_dice"}
    assert "scipy is not installed" in caplog.text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"data_list_file_path": "/nowhere/list.json"}, r"no data list at /nowhere/list.json: set --dataset_dir"),
        ({"evaluate_split": "test"}, r"datalist.json has no split 'test': set --evaluate_split"),
        ({"evaluate_split": "unlabeled"}, r"no case of split 'unlabeled' in .* has a label"),
        ({"ckpt_dir": "/nowhere"}, r"no model at /nowhere/model.pt"),
    ],
)
def test_bad_input_is_one_clear_sentence(run, override, message):
    with pytest.raises(SystemExit, match=message):
        workflow(run, **override).initialize()


def test_a_missing_file_is_named(run):
    write_list(run, {"testing": [{"image": "a.nii.gz", "label": "labels/gone.nii.gz"}]})
    with pytest.raises(SystemExit, match=r"missing file .*labels/gone.nii.gz, named in .*datalist.json"):
        workflow(run).initialize()


def test_a_mistyped_key_is_refused_where_mnseg_is_installed(run):
    with pytest.raises(Exception) as error:  # MONAI wraps what an expression raises
        workflow(run, evaluate_splt="testing").initialize()
    assert "evaluate_splt" in str(error.value.__cause__)


def test_a_checkpoint_that_does_not_fit_is_an_error(run):
    torch.save({"weight": torch.zeros(2, 1, 1, 1, 1), "bias": torch.zeros(2)}, run / "models" / "model.pt")
    with pytest.raises(
        SystemExit, match=r"model.pt .*weight has shape \(2, 1, 1, 1, 1\) in the file and \(3, .*model.json"
    ):
        workflow(run).initialize()
    assert not list((run / "eval").rglob("*.csv"))


def shifted(path: Path, voxels: float) -> None:
    """A label that starts ``voxels`` voxels of its first axis away from where its image starts."""
    save(path, boxes())
    nii = nib.load(path)
    affine = nii.affine.copy()
    affine[:3, 3] += voxels * affine[:3, 0]
    nib.save(nib.Nifti1Image(np.asarray(nii.dataobj), affine), path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: save(path, boxes()[:-1]), r"has shape \(19, 18, 14\), its image \(20, 18, 14\)"),
        (lambda path: shifted(path, 0.2), r"affines differ by more than 0.1 voxel"),
        (lambda path: save(path, boxes() * 2), r"has values \[4.*\] outside the 3 classes"),
        (lambda path: path.write_bytes(b""), r"cannot be read as NIfTI \(Empty file"),
    ],
)
def test_a_label_that_cannot_be_measured_against_is_named(run, spoil, reason):
    spoil(run / "scans" / "labels" / "label.nii.gz")
    with pytest.raises(SystemExit, match=r"^1 files of split 'testing' .*/labels/label.nii.gz \(.*" + reason):
        workflow(run).initialize()


def test_a_label_a_twentieth_of_a_voxel_away_is_the_same_place(run):
    shifted(run / "scans" / "labels" / "label.nii.gz", 0.05)
    workflow(run).initialize()


def test_merged_after_train_only_the_shared_keys_and_the_program_change():
    if not (CONFIGS / "train.json").exists():
        pytest.skip("train.json is not part of this copy of the bundle")
    train, merged = (
        ConfigParser.load_config_files([str(CONFIGS / f"{n}.json") for n in names])
        for names in (["train"], ["train", "evaluate"])
    )
    changed = {k for k in train if merged[k] != train[k]}
    assert changed <= {"initialize", "run", "bundle_root"}  # the same default everywhere, sections untouched
    assert merged["run"][0] == "$@evaluator.run()"
