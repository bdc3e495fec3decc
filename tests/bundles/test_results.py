"""What evaluate.json and inference.json name their results by, and what they refuse before they write any."""

from __future__ import annotations

import csv
import errno
import json
import re
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "bundles" / "mn_cotraining" / "configs"
FIELD = ROOT / "configs" / "metrics" / "field.json"
IMAGE = np.random.default_rng(0).random((10, 9, 8)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model whose mask is where the image is above 0.5."""
    (tmp_path / "models").mkdir()
    weight = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1)
    torch.save({"weight": weight, "bias": torch.tensor([0.0, -0.5])}, tmp_path / "models" / "model.pt")
    (tmp_path / "scans").mkdir()
    return tmp_path


def save(path: Path, data: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.diag([1.0, 2.0, 3.0, 1.0])), path)
    return str(path)


def run(folder: Path, name: str, *overlays: Path, **override: Any) -> None:
    defaults = {
        "run_dir": str(folder), "dataset_dir": str(folder / "scans"), "device": "cpu", "patch_size": [16, 16, 16],
        "intensity": {"_target_": "Compose", "transforms": []},
        "network_def": {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 1},
    }  # fmt: skip
    files = [str(path) for path in (CONFIGS / f"{name}.json", *overlays)]
    flow = ConfigWorkflow(files, workflow_type="infer", logging_file=False, **{**defaults, **override})
    flow.initialize()
    flow.run()
    flow.finalize()


def refusal(folder: Path, name: str, **override: Any) -> str:
    """The sentence alone, nothing written; mnseg's own error where it is installed."""
    before = sorted(path for path in folder.rglob("*"))
    with pytest.raises((SystemExit, RuntimeError)) as refused:
        run(folder, name, **override)
    assert sorted(path for path in folder.rglob("*")) == before
    return str(refused.value)


def write_list(folder: Path, content: Any, name: str = "datalist.json") -> str:
    path = folder / "scans" / name
    path.write_text(json.dumps(content))
    return str(path)


def two_patients(folder: Path) -> list[dict[str, str]]:
    """A folder for each patient, in which all files have the same names; the second label is all wrong."""
    for patient, label in (("p1", IMAGE > 0.5), ("p2", IMAGE <= 0.5)):
        save(folder / "scans" / patient / "ct.nii.gz", IMAGE if patient == "p1" else IMAGE[::-1].copy())
        save(folder / "scans" / patient / "seg.nii.gz", label.astype(np.uint8))
    return [{"image": f"{p}/ct.nii.gz", "label": f"{p}/seg.nii.gz", "case": p} for p in ("p1", "p2")]


class TestCases:
    def test_results_bear_the_name_of_the_case(self, folder):
        write_list(folder, {"testing": two_patients(folder)})
        run(folder, "evaluate", FIELD)
        rows = list(csv.DictReader((folder / "eval" / "field_metrics.csv").open()))
        assert [row["case"] for row in rows] == ["p1", "p2"]
        assert float(rows[0]["dice"]) == 1 > float(rows[1]["dice"])
        for case, image in (("p1", IMAGE), ("p2", IMAGE[::-1])):
            mask = nib.load(folder / "eval" / "predictions" / f"{case}_pred.nii.gz")
            np.testing.assert_array_equal(np.asarray(mask.dataobj), image > 0.5)

    def test_two_cases_of_one_name(self, folder):
        items = two_patients(folder)
        write_list(folder, {"testing": [{key: item[key] for key in ("image", "label")} for item in items]})
        assert "2 cases of split 'testing'" in (text := refusal(folder, "evaluate"))
        assert "are called ct" in text and '"case"' in text

    def test_split_and_paths_are_found_as_the_training_finds_them(self, folder):
        """MONAI's own name of the split, and files beside the data list, not in dataset_dir."""
        path = write_list(folder, {"test": two_patients(folder)})
        (folder / "elsewhere").mkdir()
        run(folder, "evaluate", dataset_dir=str(folder / "elsewhere"), data_list_file_path=path)
        assert len(list((folder / "eval" / "predictions").iterdir())) == 2

    @pytest.mark.parametrize(("content", "why"), [
        ([], "is no JSON object"),
        ({"testing": {}}, "'testing' in .* is no list"),
        ({"testing": [{"label": "a.nii"}]}, "item 0 of 'testing' in .* has no \"image\""),
        ({"testing": [{"image": 3}]}, "\"image\" of item 0 of 'testing' in .* is 3"),
        ({"testing": [{"image": "a.nii", "label": [[]]}]}, "\"label\" of item 0"),
        ({"testing": [{"image": "a.nii", "case": "a/b"}]}, "\"case\" of item 0 .* is 'a/b'"),
        ({"validation": []}, "has no split 'testing'"),
    ])  # fmt: skip
    def test_data_lists_that_are_none(self, folder, content, why):
        write_list(folder, content)
        assert re.search(why, refusal(folder, "evaluate"))

    def test_labels_between_the_classes_are_not_rounded(self, folder):
        save(folder / "scans" / "ct.nii.gz", IMAGE)
        save(folder / "scans" / "seg.nii.gz", 0.49 * (IMAGE > 0.5).astype(np.float32))
        write_list(folder, {"testing": [{"image": "ct.nii.gz", "label": "seg.nii.gz"}]})
        assert "values that are not whole numbers, such as 0.49" in refusal(folder, "evaluate")

    def test_a_label_without_structures_is_measured(self, folder):
        save(folder / "scans" / "ct.nii.gz", IMAGE)
        save(folder / "scans" / "seg.nii.gz", np.zeros(IMAGE.shape, np.uint8))
        write_list(folder, {"testing": [{"image": "ct.nii.gz", "label": "seg.nii.gz"}]})
        run(folder, "evaluate")
        assert (folder / "eval" / "metrics.csv").exists()

    def test_numbers_name_cases_and_overlays_load_files_of_their_own(self, folder):
        items = [item | {"case": i, "mask": item["label"]} for i, item in enumerate(two_patients(folder))]
        write_list(folder, {"testing": items})
        run(folder, "evaluate", **{"preprocessing#transforms#0#keys": ["image", "label", "mask"]})
        assert sorted(path.name for path in (folder / "eval" / "predictions").iterdir()) == [
            "0_pred.nii.gz", "1_pred.nii.gz"
        ]

    def test_one_of_several_sequences_may_be_missing(self, folder):
        save(folder / "scans" / "t1.nii.gz", IMAGE)
        save(folder / "scans" / "t2.nii.gz", 0 * IMAGE)
        save(folder / "scans" / "seg.nii.gz", (IMAGE > 0.5).astype(np.uint8))
        weight = torch.tensor([[0.0, 0.0], [1.0, 0.0]]).reshape(2, 2, 1, 1, 1)
        torch.save({"weight": weight, "bias": torch.tensor([0.0, -0.5])}, folder / "models" / "model.pt")
        write_list(folder, {"testing": [{"image": ["t1.nii.gz", "t2.nii.gz"], "label": "seg.nii.gz"}]})
        run(folder, "evaluate", in_channels=2, **{"network_def#in_channels": 2})
        assert (folder / "eval" / "predictions" / "t1_pred.nii.gz").exists()

    def test_what_is_measured_is_not_removed(self, folder):
        """A mask of an earlier evaluation that was corrected in its place."""
        items = two_patients(folder)
        write_list(folder, {"testing": items})
        run(folder, "evaluate")
        items[0]["label"] = str(folder / "eval" / "predictions" / "p1_pred.nii.gz")
        write_list(folder, {"testing": items})
        assert "p1_pred.nii.gz is to be measured" in refusal(folder, "evaluate")

    def test_an_evaluation_that_cannot_begin_leaves_the_earlier_results(self, folder):
        write_list(folder, {"testing": two_patients(folder)})
        run(folder, "evaluate")
        assert refusal(folder, "evaluate", **{"inferer#mode": "no such mode"})

    def test_results_of_an_earlier_evaluation_do_not_stay_beside_the_new_ones(self, folder):
        items = two_patients(folder)
        write_list(folder, {"testing": items})
        run(folder, "evaluate", FIELD)
        (folder / "eval" / "notes.txt").write_text("mine")
        write_list(folder, {"testing": items[:1]})
        run(folder, "evaluate", save_predictions=False)
        left = sorted(path.name for path in (folder / "eval").rglob("*") if path.is_file())
        assert not any("field" in name or "_pred" in name for name in left)
        assert {"notes.txt", "evaluation.json", "metrics.csv", "val_mean_dice_raw.csv"} <= set(left)


@pytest.mark.parametrize("config", ["evaluate", "inference"])
@pytest.mark.parametrize(("setting", "why"), [
    ({"largest_component": "no"}, "largest_component is 'no': write --largest_component True or"),
    ({"load_checkpoint": "yes"}, "load_checkpoint is 'yes'"),
    ({"amp": "no"}, "amp is 'no'"),
    ({"invert_probabilities": "no"}, "invert_probabilities is 'no'"),
    ({"overlap": 1}, "overlap is 1"),
    ({"sw_batch_size": 0}, "sw_batch_size is 0"),
    ({"device": "abacus"}, "device 'abacus' cannot be used"),
    ({"output_dir": 5}, "output_dir is 5"),
    ({"dataset_dir": 5}, "dataset_dir is 5: it must be the name of a folder (./5 for one that is called 5)"),
    ({"num_workers": -1}, "num_workers is -1: it must be a whole number of at least 0"),
    ({"patch_size": 32}, "patch_size is 32: it must be three whole numbers"),
    ({"orientation": "XYZ"}, "orientation is 'XYZ': it must be three letters"),
    ({"spacing": [1, 1]}, "spacing is [1, 1]: it must be three numbers above 0"),
])  # fmt: skip
@pytest.mark.parametrize("stock", [False, True], ids=["mnseg", "stock"])
def test_settings_are_refused_by_name(folder, monkeypatch, config, setting, why, stock):
    if stock:
        monkeypatch.setitem(sys.modules, "mnseg.bundle", None)
    write_list(folder, {"testing": two_patients(folder)})
    save(folder / "scans" / "a.nii.gz", IMAGE)
    assert why in refusal(folder, config, **setting)


@pytest.mark.parametrize("config", ["evaluate", "inference"])
def test_an_error_does_not_end_as_success(folder, config):
    write_list(folder, {"testing": two_patients(folder)})
    save(folder / "scans" / "a.nii.gz", IMAGE)
    broken = {"postprocessing#transforms#1": "$lambda item: item['nothing']", "handlers#1#_disabled_": True}
    with pytest.raises(RuntimeError):
        run(folder, config, **broken)
    assert not list((folder / "eval").rglob("*.json"))

class TestInference:
    @pytest.mark.parametrize("key", ["skip_unreadable", "save_probabilities"])
    def test_words_are_no_switches(self, folder, key):
        save(folder / "scans" / "a.nii.gz", IMAGE)
        assert f"{key} is 'no'" in refusal(folder, "inference", **{key: "no"})

    @pytest.mark.parametrize(("data", "why"), [
        (np.full(IMAGE.shape, 7, np.float32), "is constant, every voxel is 7"),
        (IMAGE.astype(np.complex64), "complex64"),
    ])  # fmt: skip
    @pytest.mark.parametrize("stock", [False, True], ids=["mnseg", "stock"])
    def test_scans_without_a_picture(self, folder, monkeypatch, data, why, stock):
        if stock:
            monkeypatch.setitem(sys.modules, "mnseg.data.dicom_series", None)
        save(folder / "scans" / "a.nii.gz", data)
        assert why in refusal(folder, "inference")

    def test_a_pattern_is_a_text(self, folder):
        save(folder / "scans" / "a.nii.gz", IMAGE)
        assert "image_pattern is 5: it must be a pattern of file names" in refusal(folder, "inference", image_pattern=5)

    def test_what_monai_takes_is_taken(self, folder):
        save(folder / "scans" / "a.nii.gz", IMAGE)
        run(folder, "inference", overlap=[0.5, 0.5, 0.25], patch_size=[8, 8, -1], skip_unreadable=1)
        assert (folder / "eval" / "a_seg.nii.gz").exists()

    def test_masks_among_the_scans_would_be_segmented_next(self, folder):
        save(folder / "scans" / "a.nii.gz", IMAGE)
        scans = str(folder / "scans")
        for inside, pattern in (("", "*"), ("", "**/*"), ("/masks", "**/*"), ("/masks", "**/*.nii*")):
            text = refusal(folder, "inference", output_dir=scans + inside, image_pattern=pattern)
            assert f"masks in output_dir {scans}{inside} would be taken for scans" in text
        run(folder, "inference", output_dir=scans, image_pattern="?.nii.gz")
        assert (folder / "scans" / "a_seg.nii.gz").exists()

    def test_suffixes_in_capitals_and_folders_below_folders(self, folder):
        (folder / "scans" / "p1" / "mr").mkdir(parents=True)
        Path(save(folder / "scans" / "a.nii.gz", IMAGE)).rename(folder / "scans" / "p1" / "mr" / "A.B.NII.GZ")
        run(folder, "inference", image_pattern="**/*")
        assert (folder / "eval" / "A.B_seg.nii.gz").exists()

    def test_a_full_disk_is_one_sentence_and_leaves_nothing(self, folder, monkeypatch, caplog):
        whole = nib.save

        def full(image: Any, path: Path) -> None:
            whole(image, path)
            raise OSError(errno.ENOSPC, "No space left on device")

        save(folder / "scans" / "a.nii.gz", IMAGE)
        monkeypatch.setattr(nib, "save", full)
        with pytest.raises(SystemExit, match=r"a_seg\.nii\.gz cannot be written \(No space left on device\): free"):
            run(folder, "inference")
        assert list((folder / "eval").iterdir()) == []
        assert "Traceback" not in caplog.text
