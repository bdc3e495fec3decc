"""mnseg plan: sums by hand, the command on a real config, bad input."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from mnseg.cli import main
from mnseg.data import integrity
from mnseg.data.phantom import write_phantom_dataset
from mnseg.planning.estimate import Measured, kinds_of, parts_of_training
from mnseg.planning.measure import UNLABELED, VALIDATION, memory_of_all
from mnseg.planning.schedule import EpochWork
from mnseg.planning.step_memory import AT_LEAST
from one_thread import one_thread

ROOT = Path(__file__).resolve().parents[2]
TRAIN = str(ROOT / "bundles" / "mn_cotraining" / "configs" / "train.json")
MINING = TRAIN.replace("mn_cotraining", "sam_mining")
PHANTOM = str(ROOT / "configs" / "datasets" / "phantom.json")
SUPERVISED = str(ROOT / "configs" / "ablations" / "supervised_only.json")
EPOCHS = [EpochWork("both", 0, 0, False), EpochWork("3d", 0, 0, False), EpochWork("2d", 1, 5, True),
          EpochWork("3d", 3, 0, False), EpochWork("2d", 3, 2, True)]  # fmt: skip

_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)


def test_every_student_is_measured_at_its_ends():
    found = [(kind.student, kind.num_unlabeled) for kind in kinds_of(EPOCHS, 3)]
    assert found == [("both", 0), ("3d", 0), ("3d", 3), ("2d", 1), ("2d", 3)]
    assert max(kind.num_unlabeled for kind in kinds_of(EPOCHS, 2)) == 2


def test_the_sum_is_the_one_computed_by_hand():
    steps = {("both", 0): 4.0, ("3d", 0): 1.0, ("3d", 3): 2.5, ("2d", 1): 2.0, ("2d", 3): 3.0}
    measured = Measured(steps, 0.5, validation_scan=10.0, refreshed_scan=6.0, checked_scan=0.1, cached_scan=0.2,
                        setup=7.0)  # fmt: skip
    scans = {"labeled": 4, "unlabeled": 14, "validation": 2, "hidden": 1, "checked": 30}
    parts = {part.name: (part.count, part.seconds) for part in parts_of_training(EPOCHS, measured, 8, scans)}
    assert parts == {
        "check of the scans": (30, pytest.approx(3.0)),
        "cache of the scans": (20, pytest.approx(4.0)),
        "start": (1, pytest.approx(7 + 5 * 0.5)),
        "steps, both networks": (8, pytest.approx(32.0)),
        "steps, 3D student": (16, pytest.approx(8 * (1.0 + 2.5))),
        "steps, 2D student": (16, pytest.approx(8 * (2.0 + 3.0))),
        "pseudo-foreground": (7, pytest.approx(42.0)),
        "validation, both networks": (6, pytest.approx(60.0)),
    }
    middle = [EpochWork("3d", 1, 0, False)]
    (_, _, _, part) = parts_of_training(middle, measured, 8, scans | {"validation": 0, "hidden": 0})
    assert part.seconds == pytest.approx(8 * (1.0 + 0.5)), "a third of the way"


def test_scans_that_were_left_out_are_counted_where_they_lie():
    measured = {"host_mib": 1000.0, "gpu_mib": 5000.0, "scan_mib": 10.0}
    scans = {"unlabeled": 52, "validation": 10, "hidden": 4}
    settings = {"cache_rate": 1.0, "cache_dir": None, "cache_on_device": False}
    pool, validated = 10.0 * (52 - UNLABELED), 10.0 * (10 - VALIDATION + 4)
    assert memory_of_all(measured, settings, scans, False) == (1000 + pool + validated, None)
    assert memory_of_all(measured, settings, scans, True) == (1000 + pool + validated, 5000)
    near = settings | {"cache_on_device": True}
    assert memory_of_all(measured, near, scans, True) == (1000 + validated, 5000 + pool)
    assert memory_of_all(measured, near, scans, False) == (1000 + pool + validated, None)
    assert memory_of_all(measured, settings | {"cache_dir": "D"}, scans, True) == (1000, 5000)
    half = settings | {"cache_rate": 0.5}
    assert memory_of_all(measured, half, scans, False) == (1000 + (pool + validated) / 2, None)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_phantom_dataset(tmp_path_factory.mktemp("data"), 2, 3, 1, 1, size=20).parent


SMALL = ["--model_2d", "segformer-tiny-random", "--pretrained", "False", "--lora_rank", "4",
         "--network_def#features", "[2,2,4,4,8,2]", "--patch_size", "[32,32,32]", "--batch_size=4",
         "--stage_1_epochs", "2", "--stage_2_epochs", "8", "--epoch_length", "3", "--device", "cpu"]  # fmt: skip


def planned(config_file: str, data: Path, folder: Path, *more: str) -> dict:
    path = folder / "plan.json"
    code = main(["plan", "--config_file", config_file, "--dataset_dir", str(data), "--steps", "1", "--json", str(path),
                 *SMALL, *more])  # fmt: skip
    assert code == 0
    return json.loads(path.read_text())


def test_the_command_measures_and_writes_nothing(data, tmp_path, capsys):
    (tmp_path / "models").mkdir()
    kept = tmp_path / "models" / "checkpoint.pt"
    kept.write_text("a training's")
    content = planned(f"['{TRAIN}','{PHANTOM}']", data, tmp_path, "--run_dir", str(tmp_path / "run"),
                      "--ckpt_dir", str(kept.parent))  # fmt: skip
    assert "2 labeled, 3 unlabeled, 1 validation scans; 10 epochs on cpu" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "plan.json"]
    assert list(kept.parent.iterdir()) == [kept] and kept.read_text() == "a training's"
    parts = {part["name"]: part for part in content["parts"]}
    assert [parts[f"steps, {name}"]["count"] for name in ("both networks", "3D student", "2D student")] == [6, 12, 12]
    assert parts["pseudo-foreground"]["count"] == 3
    assert content["seconds"] == pytest.approx(sum(part["seconds"] for part in content["parts"]))
    assert all(part["seconds"] > 0 for part in content["parts"]) and content["memory_mib"] > 100


def test_the_check_of_all_scans_is_timed_and_the_cache_of_those_that_are_used(data, tmp_path, monkeypatch):
    check = integrity.require_sound_datalist

    def slow(*args, **kwargs):
        time.sleep(1.4)
        return check(*args, **kwargs)

    monkeypatch.setattr(integrity, "require_sound_datalist", slow)
    content = planned(f"['{TRAIN}','{PHANTOM}','{SUPERVISED}']", data, tmp_path)
    assert content["scans"] == {"labeled": 2, "unlabeled": 0, "validation": 1, "hidden": 3, "checked": 7}
    parts = {part["name"]: part for part in content["parts"]}
    assert parts["check of the scans"]["count"] == 7 and parts["cache of the scans"]["count"] == 3
    # Six scans are in the short training's datalist, which takes the 1.4 s; seven in the whole one.
    assert 1.4 * 7 / 6 < parts["check of the scans"]["seconds"] < 3 * 1.4
    assert "pseudo-foreground" not in parts


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config_file", "nowhere.json"], "nowhere.json does not exist"),
        (["--config_file", TRAIN, "--dataset_dir", "/nowhere"], "/nowhere/datalist.json"),
        (["--config_file", MINING], "only trainings of the bundle mn_cotraining"),
        (["--config_file", TRAIN, "--batch_siz", "4"], "did you mean 'batch_size'"),
        (["--config_file", TRAIN, "batch_size", "4"], "'batch_size' is no override"),
        (["--config_file", TRAIN, "--batch_size"], "'--batch_size' is no override"),
        (["--config_file", TRAIN, "--steps", "0"], "--steps is 0"),
        (["--config_file", TRAIN, "--batch_size", "0"], "batch_size is 0"),
        (["--config_file", TRAIN, "--batch_size", "abc"], "batch_size is 'abc'; it must be"),
        (["--config_file", TRAIN, "--sampling", "wrong"], "sampling is 'wrong'; it must be one of"),
        (["--config_file", TRAIN, "--stage_2_epochs", "-1"], "stage_2_epochs is -1; it must be"),
        (["--config_file", TRAIN, "--epoch_length", "0"], "epoch_length is 0; it must be"),
        (["--config_file", TRAIN, "--val_interval", "0"], "val_interval is 0; it must be"),
        (["--config_file", str(ROOT / "README.md")], "README.md is no config"),
        (["--config_file", TRAIN, "--json", str(ROOT)], "is a folder; name the file to write"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(data, capsys, arguments, words):
    arguments += [] if "--dataset_dir" in arguments else ["--dataset_dir", str(data)]
    assert main(["plan", *arguments]) == 1
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error and error.startswith("mnseg: ")


def test_memory_is_counted_without_a_step(data, tmp_path, capsys):
    small = ["--model_2d", "segformer-tiny-random", "--pretrained", "False", "--finetuning", "whole",
             "--network_def#features", "[2,2,4,4,8,2]", "--patch_size", "[32,32,32]", "--batch_size=4",
             "--stage_1_epochs", "2", "--stage_2_epochs", "8"]  # fmt: skip
    code = main(["plan", "--memory", "--config_file", f"['{TRAIN}','{PHANTOM}']", "--dataset_dir", str(data),
                 "--run_dir", str(tmp_path / "run"), "--json", str(tmp_path / "plan.json"), *small])  # fmt: skip
    out, error = capsys.readouterr()
    assert code == 0, error
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    found = json.loads((tmp_path / "plan.json").read_text())["memory_mib"]
    assert list(found) == ["both networks, b_u 0", "3D student, b_u 0", "3D student, b_u 3", "2D student, b_u 0",
                           "2D student, b_u 3", "validation, 3D", "validation, 2D"]  # fmt: skip
    assert all(f"{name:28}" in out for name in found) and min(found.values()) > 1


def test_of_patches_that_may_pass_one_by_one_the_least_memory_is_counted_too(data, tmp_path, capsys):
    """`micro_batch_size auto`: what the batch takes at once, and what a GPU must hold."""
    small = ["--model_2d", "segformer-tiny-random", "--pretrained", "False", "--finetuning", "whole",
             "--network_def#features", "[2,2,4,4,8,2]", "--patch_size", "[32,32,32]", "--batch_size=4",
             "--stage_1_epochs", "2", "--stage_2_epochs", "8"]  # fmt: skip
    found = []
    for more in (["--micro_batch_size", "auto"], ["--micro_batch_size", "1", "--sw_batch_size", "1"]):
        where = ["--dataset_dir", str(data), "--run_dir", str(tmp_path / "run"), "--json", str(tmp_path / "plan.json")]
        assert main(["plan", "--memory", "--config_file", f"['{TRAIN}','{PHANTOM}']", *where, *small, *more]) == 0
        found.append(json.loads((tmp_path / "plan.json").read_text())["memory_mib"])
    said = capsys.readouterr().out
    assert said.count("at least: where a GPU's memory ends") == 1
    auto, one = found
    assert {f"{name}{AT_LEAST}": pytest.approx(mib, rel=0, abs=0.001) for name, mib in one.items()} == {
        name: mib for name, mib in auto.items() if name.endswith(AT_LEAST)
    }
    assert all(auto[name] > 1.5 * mib for name, mib in one.items() if "student" in name)
