"""train.json from datalist to model: what it writes, how it goes on after a kill, what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.transforms import LoadImaged

from kill_at import write_kill_module
from one_thread import one_thread
from short_training import (
    BATCH_SIZE,
    CONFIGS,
    EPOCH_LENGTH,
    STAGE_1,
    STAGE_2,
    command,
    history,
    refusal,
    settings,
    train,
    weights,
    workflow,
    write_data,
)

# Killed in the first of the two iterations of epoch 6, that is in stage 2; the last checkpoint is that of epoch 4.
KILL_AT, CHECKPOINT = 11, 4


_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def assert_same_run(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    kinds = {"network", "network_2d", "optimizer", "optimizer_2d", "pseudo_foreground"}
    assert {name.split("/")[1] for name in a} >= kinds
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    for name in ("model.pt", "model_best.pt"):
        x, y = (torch.load(run / "models" / name, weights_only=True) for run in (one, other))
        assert all(torch.equal(x[key], y[key]) for key in x)
    lines = [[{k: v for k, v in line.items() if k != "seconds"} for line in history(run)] for run in (one, other)]
    assert lines[0] == lines[1]


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory) -> SimpleNamespace:
    """One whole run, with what it loaded and predicted counted."""
    run_dir = tmp_path_factory.mktemp("unbroken")
    loaded: Counter = Counter()
    original = LoadImaged.__call__

    def count(self, item, *args, **kwargs):
        loaded[item["image"]] += 1
        return original(self, item, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LoadImaged, "__call__", count)
        made = train(settings(data, run_dir))
    return SimpleNamespace(run_dir=run_dir, workflow=made, loaded=loaded)


def test_monais_property_check_finds_nothing(unbroken, data, tmp_path):
    assert unbroken.workflow.check_properties() == []
    both = workflow(settings(data, unbroken.run_dir), CONFIGS / "evaluate.json")
    assert both.check_properties() == []


def test_everything_is_written(unbroken):
    run_dir = unbroken.run_dir
    written = {"history.jsonl", "metadata.json", "model.json", "models", "tensorboard"}
    assert {p.name for p in run_dir.iterdir()} >= written
    metadata = json.loads((run_dir / "metadata.json").read_text())
    assert metadata["pretrained_weights"]["license"] is None and metadata["name"] == "mn_cotraining"
    assert {p.name for p in (run_dir / "models").iterdir()} == {"model.pt", "model_best.pt", "checkpoint.pt"}
    assert list((run_dir / "tensorboard").glob("events*"))
    network = unbroken.workflow.parser.get_parsed_content("network")
    for name in ("model.pt", "model_best.pt"):
        network.load_state_dict(torch.load(run_dir / "models" / name, weights_only=True))


def test_history_tells_what_every_epoch_did(unbroken):
    lines = history(unbroken.run_dir)
    assert [line["epoch"] for line in lines] == list(range(1, STAGE_1 + STAGE_2 + 1))
    assert [line["stage"] for line in lines] == [1] * 2 + [2] * 6
    assert [line["student"] for line in lines] == ["both"] * 2 + ["3d", "2d"] * 3
    # (1 - cos(pi k / 6)) / 2 * 4 = 0, 0.27, 1, 2, 3, 3.73
    assert [line["num_unlabeled"] for line in lines] == [0, 0, 0, 0, 1, 2, 3, 3]
    assert all(line["num_labeled"] + line["num_unlabeled"] == BATCH_SIZE for line in lines)
    assert [line["unlabeled_seen"] for line in lines] == [0, 0, 0, 0, 2, 6, 12, 18]
    assert lines[0]["lr_3d"] == pytest.approx(1e-4) and lines[0]["lr_2d"] == pytest.approx(1e-3)
    assert lines[2]["lr_3d"] == pytest.approx(1e-4), "restart"
    for line in lines:
        losses = {key for key in line if key.startswith("loss")}
        students = ["3d", "2d"] if line["student"] == "both" else [line["student"]]
        kinds = ["labeled", "unlabeled"] if line["num_unlabeled"] else ["labeled"]
        assert losses == {f"loss_{kind}_{student}" for kind in kinds for student in students}
        measured = {"val_dice_3d", "val_dice_2d", "pseudo_dice_3d", "pseudo_dice_2d"}
        assert (measured <= line.keys()) == (line["epoch"] in (4, 8))
        assert not (measured & line.keys()) or line["epoch"] in (4, 8)
        assert line["seconds"] > 0


def test_deterministic_part_runs_once_a_scan(unbroken, data):
    """Eight epochs and a refresh load every scan once: pool, validation, and the hidden case once more."""
    lists = json.loads((data / "datalist.json").read_text())
    expected = Counter(str(data / item["image"]) for k in ("labeled", "unlabeled", "validation") for item in lists[k])
    expected[str(data / lists["unlabeled"][0]["image"])] += 1
    assert unbroken.loaded == expected


def test_an_epoch_costs_the_same_however_large_the_pool(unbroken):
    """A refresh predicts `refresh_cases` scans, an epoch draws `epoch_length` batches."""
    parser = unbroken.workflow.parser
    assert len(parser.get_parsed_content("train::dataloader")) == EPOCH_LENGTH
    refreshed = parser.get_parsed_content("pseudo_foreground").refreshed
    # First in epoch 5, where b_u first exceeds 0: two of three scans; three epochs later the one that waited, and one.
    assert sorted(refreshed.values()) == [5, 8, 8]


def test_killed_and_repeated_is_bitwise_the_unbroken_run(unbroken, data, tmp_path):
    write_kill_module(tmp_path, KILL_AT)
    (tmp_path / "kill.json").write_text(json.dumps({"+train::handlers": [{"_target_": "kill_module.Kill"}]}))
    overrides = settings(data, tmp_path / "run")
    (tmp_path / "settings.json").write_text(json.dumps(overrides))
    path = os.pathsep.join([str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    killed = command({}, tmp_path / "settings.json", tmp_path / "kill.json", PYTHONPATH=path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    assert [line["epoch"] for line in history(tmp_path / "run")] == [1, 2, 3, 4, 5]
    checkpoint = torch.load(tmp_path / "run" / "models" / "checkpoint.pt", weights_only=True)
    assert checkpoint["engine"]["epoch"] == CHECKPOINT
    assert not (tmp_path / "run" / "models" / "model.pt").exists()
    train(overrides)
    assert_same_run(unbroken.run_dir, tmp_path / "run")


def test_batches_made_ahead_are_those_made_in_turn(unbroken, data, tmp_path):
    (tmp_path / "loader.json").write_text(json.dumps({"train#dataloader#ahead": "$not has_spare_cores(@device)"}))
    other = train(settings(data, tmp_path / "run"), tmp_path / "loader.json")
    loaders = [made.parser.get_parsed_content("train::dataloader") for made in (unbroken.workflow, other)]
    assert {loader.ahead for loader in loaders} == {False, True}
    assert_same_run(unbroken.run_dir, tmp_path / "run")


def test_stopped_and_repeated_with_moving_average_and_workers(data, tmp_path, monkeypatch):
    more = {"ema_momentum": 0.2, "ema_teacher": True, "num_workers": 2, "finetuning": "whole"}
    whole, parts = settings(data, tmp_path / "whole", **more), settings(data, tmp_path / "parts", **more)
    train(whole)
    broken = workflow(parts)
    trainer = broken.parser.get_parsed_content("train::trainer")
    original = trainer._process_function

    def stop(engine, batch):
        if engine.state.iteration == KILL_AT:
            raise KeyboardInterrupt
        return original(engine, batch)

    monkeypatch.setattr(trainer, "_process_function", stop)
    with pytest.raises(BaseException):  # noqa: B017, PT011
        broken.run()
    assert [line["epoch"] for line in history(tmp_path / "parts")] == [1, 2, 3, 4, 5]
    train(parts)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    product = torch.load(tmp_path / "whole" / "models" / "model.pt", weights_only=True)
    content = torch.load(tmp_path / "whole" / "models" / "checkpoint.pt", weights_only=True)["objects"]
    assert all(torch.equal(product[key], content["ema"][key]) for key in product), "the moving average is the product"
    assert any(not torch.equal(product[key], content["network"][key]) for key in product)


def test_repeating_a_finished_run_changes_nothing(unbroken, data):
    before = (unbroken.run_dir / "history.jsonl").read_text(), weights(unbroken.run_dir)
    train(settings(data, unbroken.run_dir))
    after = (unbroken.run_dir / "history.jsonl").read_text(), weights(unbroken.run_dir)
    assert before[0] == after[0]
    assert all(torch.equal(before[1][key], after[1][key]) for key in before[1])


def test_other_settings_do_not_continue_a_run(unbroken, data):
    message = refusal(settings(data, unbroken.run_dir, batch_size=5))
    assert "batch_size 4 then, 5 now" in message and str(unbroken.run_dir) in message and "run_dir" in message


@pytest.mark.parametrize(("key", "value", "name"), [
    ("optimizer#betas", [0.5, 0.9], "optimizer_def"),
    ("optimizer_2d#_target_", "torch.optim.Adam", "optimizer_2d_def"),
    ("augmentation#transforms#1#prob", 0.5, "augmentation_def"),
    ("train#trainer#teacher_3d", "$@network.eval()", "teacher_3d_def"),
])  # fmt: skip
def test_other_definitions_do_not_continue_a_run(unbroken, data, key, value, name):
    assert f"{name} " in refusal(settings(data, unbroken.run_dir, **{key: value}))


@pytest.mark.parametrize("key", ["run_dir", "ckpt_dir"])
def test_two_trainings_do_not_share_a_folder(data, tmp_path, key):
    folder = tmp_path / "folder"
    folder.mkdir()
    program = ("import sys; from mnseg.engines.run_lock import RunLock; RunLock(sys.argv[1]).hold(); "
               "print(flush=True); sys.stdin.read()")  # fmt: skip
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        message = refusal(settings(data, tmp_path / "run") | {key: str(folder)})
    assert f"{folder} belongs to a training that still runs" in message
    assert list(folder.iterdir()) == []


def test_the_trained_model_is_evaluated_with_what_the_run_wrote(unbroken, data):
    made = ConfigWorkflow(
        config_file=[str(CONFIGS / "evaluate.json"), str(unbroken.run_dir / "model.json")],
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        workflow_type="inference",
        run_dir=str(unbroken.run_dir),
        dataset_dir=str(data),
        device="cpu",
    )
    made.initialize()
    made.run()
    assert made.check_properties() == []
    assert len(list((unbroken.run_dir / "eval" / "predictions").glob("*_pred.nii.gz"))) == 1
    evaluator = made.parser.get_parsed_content("evaluator")
    assert 0 <= evaluator.state.metrics["val_mean_dice"] <= 1
    trained = torch.load(unbroken.run_dir / "models" / "model.pt", weights_only=True)
    used = made.parser.get_parsed_content("network").state_dict()
    assert all(torch.equal(trained[key], used[key]) for key in trained)


def test_mistyped_overlay_key_on_the_command_line(data, tmp_path):
    """One sentence with a hint, no traceback, exit code 1, nothing written."""
    (tmp_path / "mine.json").write_text(json.dumps({"epoch_lenght": 3}))
    done = command({"dataset_dir": data, "run_dir": tmp_path / "run"}, tmp_path / "mine.json")
    assert done.returncode == 1
    assert "'epoch_lenght' (did you mean 'epoch_length'?)" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("mnseg: ")
    assert "Traceback" not in done.stderr and "Traceback" not in done.stdout
    assert not (tmp_path / "run").exists()


def test_false_as_text_is_refused(data, tmp_path):
    message = refusal(settings(data, tmp_path, pretrained="false"))
    assert "pretrained is the text 'false'" in message and "--pretrained False" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sampling": "sometimes"}, "sampling is 'sometimes'"),
        ({"batch_size": 1, "min_labeled": 2}, "batch_size 1"),
        ({"num_unlabeled": 4, "sampling": "fixed"}, "num_unlabeled 4"),
        ({"dataset_dir": "/nowhere"}, "/nowhere/datalist.json does not exist"),
        ({"class_names": ["background", "organ"]}, "labeled_000.nii.gz has values outside 0..1: 2, 3"),
        ({"model_2d": "/nowhere/model"}, "/nowhere/model"),
        ({"run_dir": f"{__file__}/run"}, f"{__file__}/run/model.json cannot be written: {__file__} is not a folder."),
        ({"ckpt_dir": f"{__file__}/models"}, f"{__file__}/models/checkpoint.pt cannot be written"),
    ],
)
def test_bad_settings_are_named(data, tmp_path, change, words):
    assert words in refusal(settings(data, tmp_path, cache_rate=0.0) | change)
    assert not (tmp_path / "models").exists()


def test_labels_without_a_structure_train_and_validate(data, tmp_path):
    """The tube is drawn in one labeled scan of two and in no validation scan: two Dice values make the mean."""
    lists = json.loads((data / "datalist.json").read_text())
    for split in ("labeled", "validation"):
        item = lists[split][0]
        nii = nib.load(data / item["label"])
        label = np.asarray(nii.dataobj)
        partial = np.where(label == 3, 0, label).astype(np.uint8)
        item["label"], item["ignored"] = str(tmp_path / f"{split}.nii.gz"), ["tube"]
        nib.save(nib.Nifti1Image(partial, nii.affine), item["label"])
    (tmp_path / "list.json").write_text(json.dumps(lists))
    seen: list = []

    class Spy:
        def attach(self, engine):
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)

        def __call__(self, engine):
            masks = engine.state.batch["ignored"].tolist() if "ignored" in engine.state.batch else []
            cases = engine.state.batch["case"]
            seen.extend(zip(cases, masks, strict=False))

    made = workflow(settings(data, tmp_path / "run", data_list_file_path=str(tmp_path / "list.json"),
                             stage_1_epochs=1, stage_2_epochs=1, val_interval=1, hidden_cases=0))
    trainer = made.parser.get_parsed_content("train::trainer")
    Spy().attach(trainer)
    made.run()
    first, second = (Path(item["image"]).name.removesuffix(".nii.gz") for item in lists["labeled"])
    assert {case for case, _ in seen} == {first, second}
    assert all(mask == [False, False, False, case == first] for case, mask in seen)
    evaluator = made.parser.get_parsed_content("validate::evaluator")
    assert torch.isnan(evaluator.state.metric_details["mean_dice"]).tolist() == [[False, False, True]]
    assert all(0 <= line["val_dice_3d"] <= 1 for line in history(tmp_path / "run"))


def test_no_validation_case(data, tmp_path):
    """The final model is written; there is no best one."""
    lists = json.loads((data / "datalist.json").read_text()) | {"validation": []}
    (tmp_path / "list.json").write_text(json.dumps(lists))
    train(
        settings(
            data,
            tmp_path / "run",
            data_list_file_path=str(tmp_path / "list.json"),
            stage_1_epochs=1,
            stage_2_epochs=1,
            hidden_cases=0,
        )
    )
    assert {p.name for p in (tmp_path / "run" / "models").iterdir()} == {"model.pt", "checkpoint.pt"}
    assert "val_dice_3d" not in history(tmp_path / "run")[-1]


def test_a_warm_start_begins_with_both_networks_of_another_run(unbroken, data, tmp_path):
    """With steps too small to see, the new run ends where the other one did; its epochs and rates are its own."""
    still = {"stage_1_epochs": 1, "stage_2_epochs": 1, "learning_rate": 1e-30, "learning_rate_2d": 1e-30}
    found = unbroken.run_dir / "models" / "checkpoint.pt"
    train(settings(data, tmp_path, warm_start=str(found), weight_decay=0.0, **still))
    old, new = weights(unbroken.run_dir), weights(tmp_path)
    names = [n for n in old if n.startswith(("/network/", "/network_2d/")) and "running" not in n and "num_b" not in n]
    assert len(names) > 20 and all(torch.equal(old[name], new[name]) for name in names)
    assert [line["epoch"] for line in history(tmp_path)] == [1, 2]


def test_a_checkpoint_from_before_the_key_existed_goes_on(unbroken, data, tmp_path):
    content = torch.load(unbroken.run_dir / "models" / "checkpoint.pt", weights_only=True)
    assert content["settings"].pop("warm_start") == "None"
    (tmp_path / "models").mkdir()
    torch.save(content, tmp_path / "models" / "checkpoint.pt")
    train(settings(data, tmp_path))
