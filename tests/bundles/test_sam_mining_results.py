"""sam_mining's evaluate.json and inference.json: names of results, and what is refused before any is written."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.networks.nets import BasicUNetPlusPlus
from PIL import Image

from mnseg.data.phantom_polyps import write_polyp_dataset

CONFIGS = Path(__file__).resolve().parents[2] / "bundles" / "sam_mining" / "configs"
FEATURES = [4, 4, 8, 8, 8, 4]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    torch.manual_seed(0)
    torch.save(BasicUNetPlusPlus(2, 3, 2, FEATURES).state_dict(), tmp_path / "models" / "model.pt")
    write_polyp_dataset(tmp_path / "data", 0, 0, 0, 2, size=(32, 32))
    return tmp_path


def run(folder: Path, config: str, **override: Any) -> None:
    inside = "images" if config == "inference" else "."
    defaults = {"run_dir": str(folder), "dataset_dir": str(folder / "data" / inside), "device": "cpu",
                "image_size": [32, 32], "network_def#features": FEATURES}  # fmt: skip
    flow = ConfigWorkflow(str(CONFIGS / f"{config}.json"), workflow_type="infer", logging_file=False,
                          **{**defaults, **override})  # fmt: skip
    flow.initialize()
    flow.run()
    flow.finalize()


def refusal(folder: Path, config: str, **override: Any) -> str:
    before = sorted(folder.rglob("*"))
    with pytest.raises((SystemExit, RuntimeError)) as refused:
        run(folder, config, **override)
    assert sorted(folder.rglob("*")) == before
    return str(refused.value)


@pytest.mark.parametrize(("config", "setting", "why"), [
    ("evaluate", {"save_predictions": "no"}, "save_predictions is 'no'"),
    ("inference", {"skip_unreadable": "no"}, "skip_unreadable is 'no'"),
    ("inference", {"amp": "no"}, "amp is 'no'"),
    ("inference", {"device": "abacus"}, "device 'abacus' cannot be used"),
    ("evaluate", {"output_dir": 5}, "output_dir is 5"),
    ("evaluate", {"dataset_dir": 5}, "dataset_dir is 5: it must be the name of a folder (./5 for"),
    ("inference", {"dataset_dir": 5}, "dataset_dir is 5"),
    ("inference", {"image_pattern": 5}, "image_pattern is 5: it must be a pattern of file names"),
    ("evaluate", {"num_workers": -1}, "num_workers is -1: it must be a whole number of at least 0"),
    ("inference", {"num_workers": -1}, "num_workers is -1"),
    ("evaluate", {"image_size": "96"}, "image_size is '96': it must be two whole numbers above 16"),
    ("inference", {"image_size": [10, 10]}, "image_size is [10, 10]"),
    ("inference", {"image_size": [96, 0]}, "image_size is [96, 0]"),
])  # fmt: skip
@pytest.mark.parametrize("stock", [False, True], ids=["mnseg", "stock"])
def test_settings_are_refused_by_name(folder, monkeypatch, config, setting, why, stock):
    if stock:
        monkeypatch.setitem(sys.modules, "mnseg.bundle", None)
    assert why in refusal(folder, config, **setting)


def test_a_picture_of_one_value_is_refused_or_left_out(folder, caplog):
    images = folder / "data" / "images"
    Image.new("RGB", (32, 32), (7, 7, 7)).save(images / "testing_000.png")
    why = f"{images}/testing_000.png (is constant, every pixel is 7)"
    assert why in refusal(folder, "inference") and why in refusal(folder, "evaluate")
    run(folder, "inference", skip_unreadable=True)
    assert [mask.name for mask in (folder / "eval").glob("*.png")] == ["testing_001_seg.png"]
    assert f"1 of 2 images are left out: {why}" in caplog.text


def test_two_stars_search_folders_below_folders(folder):
    images = folder / "data" / "images"
    (images / "p1" / "left").mkdir(parents=True)
    (images / "testing_000.png").rename(images / "p1" / "left" / "a.png")
    run(folder, "inference", image_pattern="**/*")
    assert sorted(mask.name for mask in (folder / "eval").glob("*.png")) == ["a_seg.png", "testing_001_seg.png"]


def test_files_that_are_left_out_share_no_name(folder):
    images = folder / "data" / "images"
    (images / "testing_000.jpg").write_bytes(b"no image")
    run(folder, "inference", skip_unreadable=True)
    assert sorted(mask.name for mask in (folder / "eval").glob("*.png")) == [f"testing_00{i}_seg.png" for i in (0, 1)]
    Image.open(images / "testing_000.png").save(images / "testing_000.jpg")
    assert refusal(folder, "inference").startswith(
        f"{images}/testing_000.jpg and {images}/testing_000.png would share the output name testing_000_seg; rename")


@pytest.mark.parametrize("skip_unreadable", [False, True])
def test_none_may_be_left_out_where_none_is_left(folder, skip_unreadable):
    for image in (folder / "data" / "images").iterdir():
        image.write_bytes(b"no image")
    told = refusal(folder, "inference", skip_unreadable=skip_unreadable)
    assert told.startswith("2 of 2 images cannot be used: ") and "skip_unreadable" not in told
    assert told.endswith("repair or remove them, or set --dataset_dir to others")


def test_a_link_to_nothing_is_named(folder):
    images = folder / "data" / "images"
    (images / "gone.png").symlink_to(folder / "nowhere.png")
    os.mkfifo(images / "pipe.png")
    told = refusal(folder, "inference")
    assert "2 of 4 images" in told
    for name in ("gone", "pipe"):
        assert f"{images}/{name}.png (cannot be read (it is missing, a link to nothing, or no regular file))" in told


def test_masks_among_the_images_would_be_segmented_next(folder):
    images = str(folder / "data" / "images")
    assert f"masks in output_dir {images} would be taken for scans" in refusal(folder, "inference", output_dir=images)


def test_results_are_of_one_evaluation_and_bear_the_cases_names(folder):
    path = folder / "data" / "datalist.json"
    content = json.loads(path.read_text())
    items = [item | {"case": f"p{i}"} for i, item in enumerate(content.pop("testing"))]
    path.write_text(json.dumps(content | {"test": items}))  # MONAI's own name of the split
    run(folder, "evaluate")
    masks = folder / "eval" / "predictions"
    assert sorted(mask.name for mask in masks.iterdir()) == ["p0_pred.png", "p1_pred.png"]
    path.write_text(json.dumps(content | {"test": items[:1]}))
    run(folder, "evaluate")
    assert [mask.name for mask in masks.iterdir()] == ["p0_pred.png"]
    path.write_text(json.dumps(content | {"test": [item | {"case": "p"} for item in items]}))
    assert "are called p, and their results would be one" in refusal(folder, "evaluate")


def test_a_full_disk_is_one_sentence(folder, monkeypatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(SystemExit, match=r"testing_000_seg cannot be written \(No space left on device\): free"):
        run(folder, "inference")
    assert list((folder / "eval").iterdir()) == []
