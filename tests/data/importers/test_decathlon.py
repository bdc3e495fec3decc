"""Any Decathlon task: classes, channels, window and patch from its files; a training that uses them."""

from __future__ import annotations

import ast
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from mnseg.cli import main
from mnseg.data.importers.run import import_dataset
from mnseg.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


def write_task(folder: Path, files, count: int = 10, tests: int = 3, channels: int = 1, **changes) -> None:
    """A task with two structures whose CT values are 40 and 80; the background is -1000 and 500."""
    rng = np.random.default_rng(0)
    size = (24, 40, 20) if channels == 1 else (24, 40, 20, channels)
    content = {
        "name": "Task",
        "modality": {str(i): name for i, name in enumerate(["CT"] if channels == 1 else ["T1", "T2", "PD"][:channels])},
        "labels": {"0": "background", "1": "left", "2": "right"},
        "training": [],
        "test": [f"./imagesTs/t_{i:02d}.nii.gz" for i in range(tests)],
    }
    for i in range(count + tests):
        mask = np.zeros(size[:3], np.uint8)
        mask[4:10, 4:10, 4:10], mask[12:16, 4:10, 4:10] = 1, 2
        scan = np.choose(mask, (-1000, 40, 80)).astype(np.int16)
        scan[0] = rng.integers(0, 500, size[1:3])
        scan = scan if channels == 1 else np.stack([scan + c for c in range(channels)], axis=-1)
        name = f"c_{i:02d}.nii.gz" if i < count else f"t_{i - count:02d}.nii.gz"
        files.save_nifti(folder / ("imagesTr" if i < count else "imagesTs") / name, scan)
        if i < count:
            files.save_nifti(folder / "labelsTr" / name, mask)
            content["training"].append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    (folder / "dataset.json").write_text(json.dumps(content | changes))


def overlay(out: Path) -> dict:
    return json.loads((out / "overlay.json").read_text())


def test_a_ct_task(tmp_path, files):
    write_task(tmp_path / "src", files)
    imported = import_dataset("decathlon", tmp_path / "src", tmp_path / "out", keep_hidden=True)
    # A fifth and a tenth of the ten training cases are held out, half of the rest is labeled; the three test cases
    # join the unlabeled.
    assert imported.counts == {"labeled": 3, "unlabeled": 7, "validation": 1, "testing": 2}
    content = files.load(tmp_path / "out")
    assert sum("hidden_label" in item for item in content["unlabeled"]) == 4
    assert content["labeled"][0]["image"].startswith(str(tmp_path / "src/imagesTr")), "nothing is copied"
    described = overlay(tmp_path / "out")
    window = described.pop("intensity")
    assert (window["a_min"], window["a_max"]) == (40.0, 80.0), "of the structures, not of air and bone"
    assert described == {"class_names": ["background", "left", "right"], "in_channels": 1, "patch_size": [32, 32, 16],
                         "slice_axis": 2, "slice_scale": 2.0}
    assert imported.command.index("decathlon.json") < imported.command.index(str(tmp_path / "out/overlay.json"))
    assert main(["check", str(tmp_path / "out/datalist.json")]) == 0


def test_several_channels_and_mixed_spacing(tmp_path, files):
    write_task(tmp_path / "src", files, count=6, tests=0, channels=2)
    for path in (tmp_path / "src").rglob("c_*.nii.gz"):
        voxels, _ = files.read(path)
        files.save_nifti(path, voxels, np.diag([1, 1, 1 + int(path.name[3]) % 2 * 3, 1]))
    imported = import_dataset("decathlon", tmp_path / "src", tmp_path / "out", labeled="2")
    assert any("2 channels (T1, T2); the 2D network takes 1 or 3" in note for note in imported.notes)
    described = overlay(tmp_path / "out")
    assert described["in_channels"] == 2
    assert described["spacing"][:2] == [1.0, 1.0] and 1 <= described["spacing"][2] <= 4
    assert "intensity" not in described, "MR: configs/datasets/decathlon.json, each channel by itself"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"0": "background", "2": "organ"}}, "must name the values 0, 1, …"),
        ({"labels": {"background": 0, "organ": 1}}, "must name the values 0, 1, …"),
        ({"training": []}, 'looked for a list "training"'),
        ({"training": ["./imagesTr/c_00.nii.gz"]}, "must list items with"),
        ({"training": [{"image": "imagesTr/no.nii.gz", "label": "labelsTr/no.nii.gz"}]}, "names 2 files .* not there"),
    ],
)
def test_other_indices_are_refused(tmp_path, files, changes, message):
    write_task(tmp_path, files, count=1, tests=0, **changes)
    with pytest.raises(UserError, match=message):
        import_dataset("decathlon", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_training_runs_on_an_import(tmp_path, files, monkeypatch):
    """Three channels, the command that the import prints, made tiny."""
    write_task(tmp_path / "src", files, count=6, tests=1, channels=3)
    imported = import_dataset("decathlon", tmp_path / "src", tmp_path / "data")
    tiny = {
        "device": "cpu", "batch_size": 4, "epoch_length": 1, "stage_1_epochs": 1, "warmup_epochs": 1,
        "stage_2_epochs": 1, "val_interval": 2, "model_2d": "segformer-tiny-random", "pretrained": False,
        "finetuning": "whole", "slice_stride": 8, "refresh_cases": 1, "hidden_cases": 0, "cache_rate": 0.0,
        "patch_size": [16, 32, 16], "slice_scale": 1.0,
        "network_def#features": [4, 4, 4, 4, 4, 4],
    }  # fmt: skip
    words = shlex.split(imported.command)
    options = dict(zip(words[4::2], words[5::2], strict=True))
    assert words[:4] == ["python", "-m", "monai.bundle", "run"]
    assert options["--dataset_dir"] == str(tmp_path / "data") and options["--run_dir"] == "runs/decathlon"
    monkeypatch.chdir(ROOT)
    workflow = ConfigWorkflow(
        config_file=ast.literal_eval(options["--config_file"]), meta_file="bundles/mn_cotraining/configs/metadata.json",
        logging_file=False, workflow_type="train", dataset_dir=str(tmp_path / "data"), run_dir=str(tmp_path / "run"),
        **tiny,
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    model = json.loads((tmp_path / "run/model.json").read_text())
    assert model["in_channels"] == 3 and model["class_names"] == ["background", "left", "right"]
    assert (tmp_path / "run/models/model.pt").is_file()


def test_real_task(shared_dir, tmp_path, files):
    """Hippocampus: the archive's index, written anew for the files at hand."""
    source = shared_dir / "data/hippocampus"
    for folder, wanted in (("images", "imagesTr"), ("labels", "labelsTr")):
        (tmp_path / "src").mkdir(exist_ok=True)
        (tmp_path / "src" / wanted).symlink_to(source / folder)
    names = sorted(path.name for path in (source / "images").glob("*.nii.gz"))
    index = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
        "test": [],
    }
    (tmp_path / "src/dataset.json").write_text(json.dumps(index))
    imported = import_dataset("decathlon", tmp_path / "src", tmp_path / "out")
    assert imported.findings == []
    assert imported.counts == {"labeled": 8, "unlabeled": len(names) - 8 - 61, "validation": 20, "testing": 41}
    assert overlay(tmp_path / "out") == {
        "class_names": ["background", "Anterior", "Posterior"], "in_channels": 1, "patch_size": [32, 48, 32],
        "slice_axis": 2, "slice_scale": 2.0,
    }  # fmt: skip
