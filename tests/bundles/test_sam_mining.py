"""sam_mining: train.json and its schedules, after a kill, with bad input; evaluation, inference, mining of a folder."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from fake_mining import FakeMiner
from kill_at import write_kill_module
from mnseg.bundle import unknown_keys
from mnseg.data.pictures import read_mask, read_picture
from mnseg.errors import UserError, user_error_in
from mnseg.mining.training.rounds import MinedWriter
from one_thread import one_thread
from short_mining import CONFIGS, EPOCH_LENGTH, ROOT, SIZE, STAGE_1, STAGE_2, history, run, settings, write_data

KILL_AT = 11  # in epoch 6, with the checkpoint of epoch 5


_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def refusal(config: str, overrides: dict, *overlays: Path) -> str:
    with pytest.raises(BaseException) as caught:  # noqa: B017, PT011
        run(config, overrides, *overlays)
    error = user_error_in(caught.value) or caught.value
    return str(error)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("trained")
    made = run("train.json", settings(data, run_dir))
    assert made.check_properties() == []
    return run_dir


def test_what_the_continuous_schedule_does(trained):
    lines = history(trained)
    assert [line["stage"] for line in lines] == [1, 1, 2, 2, 2, 2, 2]
    assert [line["num_unlabeled"] for line in lines] == [0, 0, 1, 1, 1, 1, 1]
    assert [line["unlabeled_seen"] for line in lines] == [0, 0, 2, 4, 6, 8, 10]
    assert [line["epoch"] for line in lines if "mined_kept" in line] == [3, 5, 7]
    assert all(line["mined_kept"] == 3 and 0 <= line["pseudo_dice_2d"] <= 1 for line in lines if "mined_kept" in line)
    assert [line["epoch"] for line in lines if "val_dice_2d" in line] == [3, 6, 7]
    assert {p.name for p in (trained / "models").iterdir()} == {"model.pt", "model_best.pt", "checkpoint.pt"}
    assert {p.name for p in (trained / "mined").iterdir()} == {"round_1", "round_2", "round_3"}


def test_a_rounds_folder_tells_what_became_of_every_image(trained, data):
    folder = trained / "mined" / "round_2"
    rows = list(csv.DictReader((folder / "decisions.csv").open()))
    assert {row["case"]: row["decision"] for row in rows} == {
        f"unlabeled_{i:03d}": "agreement too low" if i == 1 else "kept" for i in range(4)
    }
    assert {p.name for p in folder.glob("*.png")} == {f"unlabeled_{i:03d}.png" for i in (0, 2, 3)}
    assert read_mask(folder / "unlabeled_000.png", 2).shape == SIZE, "on the image's own grid"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["decisions"] == {"kept": 3, "agreement too low": 1} and summary["epoch"] == 5
    line = next(line for line in history(trained) if line["epoch"] == 5)
    dice = []
    for i in (0, 2, 3):
        mask, truth = (read_mask(f, 2) > 0 for f in (folder / f"unlabeled_{i:03d}.png",
                                                     data / "hidden_labels" / f"unlabeled_{i:03d}.png"))
        dice.append(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
    assert line["pseudo_dice_2d"] == pytest.approx(np.mean(dice))


def test_killed_and_repeated_is_bitwise_the_unbroken_run(trained, data, tmp_path):
    overrides = settings(data, tmp_path / "run")
    write_kill_module(tmp_path, KILL_AT)
    (tmp_path / "kill.json").write_text(json.dumps({"+train::handlers": [{"_target_": "kill_module.Kill"}]}))
    (tmp_path / "settings.json").write_text(json.dumps(overrides))
    files = str([str(CONFIGS / "train.json"), str(tmp_path / "settings.json"), str(tmp_path / "kill.json")])
    path = os.pathsep.join([str(tmp_path), str(ROOT / "tests"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    killed = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", files],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    assert len(history(tmp_path / "run")) == 5
    run("train.json", overrides)
    states = [torch.load(r / "models" / "model.pt", weights_only=True) for r in (trained, tmp_path / "run")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    lines = [[{k: v for k, v in line.items() if k != "seconds"} for line in history(r)]
             for r in (trained, tmp_path / "run")]
    assert lines[0] == lines[1]


def test_worker_processes_see_the_labels_of_each_new_round(data, tmp_path):
    """Without augmentation a worker's batch is that of the main process; old or missing labels would change losses."""
    runs = [tmp_path / "alone", tmp_path / "workers"]
    plain = {"augmentation": {"_target_": "Compose", "transforms": []}}
    for number, run_dir in enumerate(runs):
        run("train.json", settings(data, run_dir, num_workers=number, **plain))
    lines = [[{key: value for key, value in line.items() if key != "seconds"} for line in history(run_dir)]
             for run_dir in runs]
    assert lines[0] == lines[1] and any("mined_kept" in line for line in lines[0])


def stopped_after(epoch: int, trained: Path, run_dir: Path) -> None:
    """A copy of the run, its checkpoint that of an earlier epoch."""
    shutil.copytree(trained, run_dir)
    checkpoint = run_dir / "models" / "checkpoint.pt"
    content = torch.load(checkpoint, weights_only=True)
    content["engine"]["epoch"], content["engine"]["iteration"] = epoch, EPOCH_LENGTH * epoch
    torch.save(content, checkpoint)


def test_a_round_that_is_gone_is_missed(trained, data, tmp_path):
    stopped_after(5, trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "mined" / "round_2")
    message = refusal("train.json", settings(data, tmp_path / "run"))
    assert "round_2" in message and "set resume to False" in message


def test_another_large_model_does_not_continue_a_run(trained, data, tmp_path):
    stopped_after(4, trained, tmp_path / "run")
    message = refusal("train.json", settings(data, tmp_path / "run", **{"miner#identity": "other weights"}))
    assert "round_1 was mined with another large model" in message and "set resume to False" in message


def test_other_settings_do_not_continue_a_run_but_thresholds_may(trained, data):
    message = refusal("train.json", settings(data, trained, pseudo_weight=0.5))
    assert "pseudo_weight 1.0 then, 0.5 now" in message
    for key, value in {"optimizer#betas": [0.5, 0.9], "augmentation#transforms": []}.items():
        message = refusal("train.json", settings(data, trained, **{key: value}))
        assert f"{key.partition('#')[0]}_def " in message
    run("train.json", settings(data, trained, min_predicted_iou=0.1))


def test_the_baseline_has_equal_updates_and_asks_for_no_large_model(data, tmp_path):
    """The same config: it never builds the promptable model, whose weights may be missing."""
    overrides = settings(data, tmp_path, schedule="supervised", promptable="/nowhere")
    del overrides["miner"]
    run("train.json", overrides)
    lines = history(tmp_path)
    assert len(lines) == STAGE_1 + STAGE_2 and {line["num_unlabeled"] for line in lines} == {0}
    assert all(line["num_labeled"] == 3 for line in lines) and "loss_unlabeled_2d" not in lines[-1]
    assert not (tmp_path / "mined").exists()


def changed(data: Path, tmp_path: Path, change) -> Path:
    """The data set with something wrong in it."""
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    lists = json.loads((copy / "datalist.json").read_text())
    change(copy, lists)
    (copy / "datalist.json").write_text(json.dumps(lists))
    return copy


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def _save(path: Path, values) -> None:
    Image.fromarray(np.asarray(values, np.uint8)).save(path)


@pytest.mark.parametrize(("change", "words"), [
    (lambda d, _: _cut(d / "images/labeled_000.png"), "images/labeled_000.png cannot be read"),
    (lambda d, _: _save(d / "labels/labeled_001.png", np.eye(9) * 255), "has 9x9 pixels, its image 40x32"),
    (lambda d, _: _save(d / "labels/labeled_001.png", np.eye(32, 40) * 7), "has the values 0, 7 "),
    (lambda d, lists: lists["unlabeled"].clear(), "no unlabeled image, so there is nothing to mine"),
    (lambda d, _: shutil.copy(d / "images/testing_000.png", d / "images/unlabeled_000.png"),
     "more than one split: unlabeled/unlabeled_000, testing/testing_000"),
])  # fmt: skip
def test_bad_data_is_one_sentence_and_nothing_is_written(data, tmp_path, change, words):
    message = refusal("train.json", settings(changed(data, tmp_path, change), tmp_path / "run"))
    assert words in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("more", "words"), [
    ({"schedule": "twice"}, "schedule is 'twice'; it must be one of supervised, one_time, continuous"),
    ({"num_unlabeled": 3}, "num_unlabeled is 3 with batch_size 3"),
    ({"image_size": [8, 40]}, "image_size [8, 40]"),
    ({"dataset_dir": 5}, "dataset_dir is 5; it must be the name of a folder"),
    ({"mining_intervall": 2}, "did you mean 'mining_interval'?"),
])  # fmt: skip
def test_bad_settings_are_named(data, tmp_path, more, words):
    assert words in refusal("train.json", settings(data, tmp_path / "run", cache_rate=0.0, **more))
    assert not (tmp_path / "run" / "models").exists()


def test_a_run_dir_that_cannot_be_written_is_said_at_the_start(data):
    message = refusal("train.json", settings(data, Path(__file__) / "run"))
    assert f"{__file__}/run/model.json cannot be written: {__file__} is not a folder." in message


def test_all_masks_rejected_stops_with_counts_and_the_threshold(data, tmp_path):
    """The real miner: the phantom's polyps are found, and no mask can be that good."""
    overrides = settings(data, tmp_path, stage_1_epochs=0, warmup_epochs=0, min_predicted_iou=1.0, jitter_count=0)
    del overrides["miner"]
    message = refusal("train.json", overrides | {"min_agreement": 1.0})
    assert "no mined mask was kept (4 " in message and "(now 1)" in message
    assert (tmp_path / "mined" / "round_1" / "decisions.csv").is_file()
    assert not (tmp_path / "models").exists()


def test_evaluation_and_inference_with_what_the_run_wrote(trained, data, tmp_path):
    places = {"run_dir": str(trained), "dataset_dir": str(data), "device": "cpu"}
    made = run("evaluate.json", places | {"output_dir": str(tmp_path / "eval")}, trained / "model.json",
               ROOT / "configs" / "metrics" / "field.json")
    assert made.check_properties() == []
    rows = list(csv.DictReader((tmp_path / "eval" / "field_metrics.csv").open()))
    assert [row["case"] for row in rows] == ["testing_000", "testing_001"]
    for row in rows:
        mask = read_mask(tmp_path / "eval" / "predictions" / f"{row['case']}_pred.png", 2) > 0
        truth = read_mask(data / "labels" / f"{row['case']}.png", 2) > 0
        assert mask.shape == SIZE
        assert float(row["dice"]) == pytest.approx(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
    images = {"dataset_dir": str(data / "images"), "image_pattern": "testing_*", "output_dir": str(tmp_path / "out")}
    run("inference.json", places | images, trained / "model.json")
    for case in ("testing_000", "testing_001"):
        first, second = (read_mask(tmp_path / name, 2)
                         for name in (f"eval/predictions/{case}_pred.png", f"out/{case}_seg.png"))
        np.testing.assert_array_equal(first, second)
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["notice"].endswith("Not for diagnosis.")


def test_words_are_no_switches_of_mine_json(data, tmp_path):
    places = {"dataset_dir": str(data / "images"), "output_dir": str(tmp_path / "out"), "device": "cpu"}
    assert "skip_unreadable is 'no'" in refusal("mine.json", places | {"skip_unreadable": "no"})


def test_mine_json_turns_a_folder_of_images_into_pseudo_labels(trained, data, tmp_path):
    shutil.copytree(data / "images", tmp_path / "images")
    (tmp_path / "images" / "notes.txt").write_text("no image")
    overrides = {"run_dir": str(trained), "dataset_dir": str(tmp_path / "images"), "device": "cpu",
                 "output_dir": str(tmp_path / "out"), "min_component_size": 0.0, "jitter_count": 1,
                 "min_predicted_iou": 0.0, "min_agreement": 0.0, "min_stability": 0.0}  # fmt: skip
    run("mine.json", overrides, trained / "model.json")
    rows = list(csv.DictReader((tmp_path / "out" / "decisions.csv").open()))
    assert {row["case"] for row in rows} == {path.stem for path in (data / "images").iterdir()}
    kept = {row["case"] for row in rows if row["decision"] == "kept"}
    assert kept == {path.stem for path in (tmp_path / "out").glob("*.png")}
    assert all(0 <= float(row["agreement"]) <= 1 for row in rows if row["decision"] == "kept" and row["agreement"])
    _cut(tmp_path / "images" / "testing_000.png")
    message = refusal("mine.json", overrides | {"output_dir": str(tmp_path / "other")}, trained / "model.json")
    assert "1 of 10 images cannot be used" in message and "testing_000.png cannot be read" in message
    assert "more" not in message
    assert not (tmp_path / "other").exists()
    gone = overrides | {"dataset_dir": str(tmp_path / "gone"), "skip_unreadable": True}
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "a.png").symlink_to("nowhere.png")
    message = refusal("mine.json", gone, trained / "model.json")
    assert "1 of 1 images cannot be used" in message and message.endswith("or set dataset_dir to a folder of others.")
    left = {"output_dir": str(tmp_path / "left"), "skip_unreadable": True}
    run("mine.json", overrides | left, trained / "model.json")
    kept.discard("testing_000")
    assert kept == {path.stem for path in (tmp_path / "left").glob("*.png")}
    message = refusal("mine.json", overrides | {"output_dir": overrides["dataset_dir"]}, trained / "model.json")
    assert "masks would take the place of images" in message


def test_a_mask_that_is_not_kept_any_more_goes(data, tmp_path):
    images = {path.stem: str(path) for path in sorted((data / "images").iterdir())[:2]}
    first, second = images
    shape = read_picture(images[first]).shape[:2]
    pixels, sure = np.zeros(shape, np.uint8), np.zeros((2, *shape), np.float32)
    for rejected in ([], [second]):
        writer, miner = MinedWriter(tmp_path, images, 2), FakeMiner(rejected, seed=len(rejected))
        assert not (tmp_path / "summary.json").exists()
        for case in images:
            writer.mine(miner, case, pixels, sure)
        writer.finish()
    assert [path.stem for path in tmp_path.glob("*.png")] == [first]
    (tmp_path / f"{first}.png").unlink()
    (tmp_path / f"{first}.png").mkdir()
    with pytest.raises(UserError, match=rf"{first}.png cannot be written"):
        MinedWriter(tmp_path, images, 2).mine(FakeMiner(), first, pixels, sure)
    assert not (tmp_path / "summary.json").exists() and not list(tmp_path.glob(".partial*"))


def test_configs_share_their_keys():
    """model.json and the thresholds of one config mean the same in the others; overlays hold known keys alone."""
    train = ConfigParser.load_config_file(CONFIGS / "train.json")
    mine = ConfigParser.load_config_file(CONFIGS / "mine.json")
    own = {"imports", "bundle_root", "output_dir", "miner", "predictor", "initialize", "run"}
    shared = set(train) & set(mine) - own
    assert len(shared) > 20 and [key for key in shared if train[key] != mine[key]] == []
    for name in ("kvasir", "covid_qu_ex", "phantom_polyps"):
        overlay = json.loads((ROOT / "configs" / "datasets" / f"{name}.json").read_text())
        assert unknown_keys({key.split("#")[0]: 0 for key in overlay}, train) == []


@pytest.mark.parametrize("name", ["pictures", "picture_memory", "datalist", "results", "settings"])
def test_the_bundle_carries_copies_that_are_equal(name):
    """Each bundle must run without mnseg and without the other one."""
    folder = ROOT / "src/mnseg/data" if name.startswith("picture") else ROOT / "bundles/mn_cotraining/scripts"
    assert (CONFIGS.parent / "scripts" / f"{name}.py").read_text() == (folder / f"{name}.py").read_text()
