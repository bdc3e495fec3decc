"""compare.py: both networks measured on the scan's grid, the tables' arithmetic, and the commands of the rows."""

from __future__ import annotations

import ast
import json
import math
import sys
from argparse import Namespace
from pathlib import Path

import compare
import measure
import nibabel as nib
import numpy as np
import protocols
import pytest
import rows
import tables
import torch
from bench_common import open_bundle
from monai.inferers import sliding_window_inference

from mnseg.data.phantom import write_phantom_dataset
from mnseg.errors import UserError

TINY = {
    "network_def#features": [4, 4, 8, 8, 16, 4], "batch_size": 2, "epoch_length": 3, "stage_1_epochs": 1,
    "stage_2_epochs": 2, "warmup_epochs": 0, "sampling": "fixed", "num_unlabeled": 1, "hidden_cases": 0,
    "val_interval": 9, "model_2d": "segformer-tiny-random", "pretrained": False, "finetuning": "whole",
}  # fmt: skip
OVERLAYS = ["configs/datasets/phantom.json", "configs/recipes/cpu.json"]


def row(case: str, name: str, dice: float, hd95: float) -> dict[str, str]:
    return {"case": case, "class_name": name, "dice": str(dice), "jaccard": "0.5", "hd95_voxel": str(hd95),
            "asd_voxel": "1.0"}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run, the workflow that trained it, and the arguments that compare.py would have."""
    folder = tmp_path_factory.mktemp("compare")
    datalist = write_phantom_dataset(folder / "data", 2, 2, 1, 0)
    run_dir = folder / "run"
    own = {"run_dir": str(run_dir), "dataset_dir": str(folder / "data"), "device": "$torch.device('cpu')"}
    workflow = open_bundle("train.json", OVERLAYS, "train", **own, **TINY)
    workflow.run()
    parser, generator = workflow.parser, torch.Generator().manual_seed(0)
    with torch.no_grad():  # after so few steps the 2D network says the same everywhere: make it say something
        for weight in parser.get_parsed_content("network_2d").parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=generator)
    parser.get_parsed_content("training_state").save(parser.get_parsed_content("train::trainer"))
    return run_dir, parser, Namespace(dataset="hippocampus", folder=folder / "data", datalist=datalist)


def test_the_2d_network_is_measured_as_it_was_trained_and_on_the_scans_grid(trained):
    run_dir, parser, args = trained
    model_json = (run_dir / "model.json").read_bytes()
    rows = measure.evaluate(run_dir, "f", args)
    assert [r["class_name"] for r in rows] == ["lobe", "bean", "tube"]
    # the oracle: the live network of the training, on the volume as validation while training saw it
    network, image = parser.get_parsed_content("network_2d").eval(), parser.get_parsed_content("validate::dataset")[0]
    with torch.no_grad():
        logits = sliding_window_inference(image["image"].as_tensor()[None], (32, 32, 32), 4, network, overlap=0.5)
    expected = logits[0].argmax(0).numpy()
    # Else a mask that lies the wrong way round would fit as well.
    assert all((np.flip(expected, axis) != expected).mean() > 0.01 for axis in range(3))
    scan = nib.load(parser.get_parsed_content("datalist")["validation"][0]["image"])
    mask = nib.load(run_dir / "eval_2d" / "predictions" / "validation_000_pred.nii.gz")
    assert np.abs(mask.affine - scan.affine).max() < 1e-4 and mask.shape == scan.shape
    found = np.asarray(nib.as_closest_canonical(mask).dataobj)
    assert (found == expected).mean() > 0.999  # ties may fall either way
    truth = image["label"].numpy()[0]
    for r in rows:
        a, b = expected == int(r["class"]), truth == int(r["class"])
        assert float(r["dice"]) == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), abs=0.01)
    assert (run_dir / "model.json").read_bytes() == model_json


def test_tables_of_a_real_run(trained, capsys):
    run_dir, _, args = trained
    text = compare.tables({"supervised": run_dir, "mn": run_dir, "late": run_dir / "nowhere"}, args)
    assert "late: not finished" in capsys.readouterr().err
    g = [line.split(" | ") for line in text.splitlines() if line.startswith("| supervised | g")][0]
    f = [line.split(" | ") for line in text.splitlines() if line.startswith("| supervised | f")][0]
    assert (g[7], f[7]) == ("6", "6")  # 3 in stage 1, 3 each in stage 2
    assert g[8] == "6"  # two epochs of three batches with one unlabeled patch
    assert g[9].endswith("(epochs)")
    assert "| mn | g | +0.00 [+nan" in text  # the same weights; one case has no interval


def test_results_are_measured_again_only_when_weights_or_cases_changed(trained, monkeypatch):
    run_dir, _, args = trained
    first = measure.evaluate(run_dir, "g", args)
    monkeypatch.setattr(measure, "open_bundle", lambda *a, **k: pytest.fail("measured again"))
    assert measure.evaluate(run_dir, "g", args) == first


def test_a_missed_class_has_no_distance_but_counts_in_dice():
    rows = [row("a", "x", 0.8, 2.0), row("a", "y", 0.0, math.nan), row("b", "x", math.nan, math.nan)]
    assert tables.per_case(rows, "dice") == {"a": 0.4, "b": pytest.approx(math.nan, nan_ok=True)}
    assert tables.per_case(rows, "hd95_voxel")["a"] == 2.0
    assert tables.per_case(rows, "dice", "x")["a"] == 0.8


def test_spread_is_the_sample_standard_deviation():
    assert tables.spread([0.7, 0.9, math.nan], 100) == "80.00 ± 14.14"
    assert tables.spread([math.nan]) == "-"
    assert tables.spread([0.5]) == "0.50"


def test_differences_are_paired_by_case_not_by_position():
    supervised = [row(case, "x", dice, 1) for case, dice in (("a", 0.5), ("b", 0.6), ("c", 0.7))]
    better = [row(case, "x", dice, 1) for case, dice in (("c", 0.8), ("a", 0.6), ("b", 0.7))]
    text = tables.difference_table({("supervised", "g"): supervised, ("mn", "g"): better})
    assert "| mn | g | +10.00 [+10.00, +10.00] |" in text
    with pytest.raises(UserError, match="different cases"):
        tables.difference_table({("supervised", "g"): supervised, ("mn", "g"): better[:2]})


def test_extra_settings_cannot_undo_what_makes_a_row(tmp_path):
    args = Namespace(dataset="la", recipe="configs/recipes/cpu.json", folder="D", datalist="L", weights="W",
                     extra="sampling=linear")  # fmt: skip
    command = rows.train_command("uniform", tmp_path, args)
    files = command[command.index("--config_file") + 1]
    names = [Path(name).name for name in ast.literal_eval(files)]
    assert names == ["train.json", "la.json", "cpu.json", "extra.json", "uniform.json"]
    assert "--sampling" not in command
    assert "--model_2d" in command
    assert "--model_2d" not in rows.train_command("resunet50", tmp_path, args)  # the row names its own
    assert "configs/networks/swin_unetr.json" in " ".join(rows.train_command("swin_unetr", tmp_path, args))
    with pytest.raises(UserError, match="no row 'nonsense'"):
        rows.train_command("nonsense", tmp_path, args)


def test_time_and_exit_code_of_a_command(tmp_path):
    busy = "import os, time; t = time.process_time()\nwhile time.process_time() - t < 0.3: pass\ntime.sleep(0.3)"
    with (tmp_path / "log").open("w") as log:
        script = f"{busy}\nprint(os.environ['OMP_NUM_THREADS']); exit(3)"
        result = rows._run_timed([sys.executable, "-c", script], 1, log)
    assert result["exit_code"] == 3
    assert 0.3 <= result["cpu_s"] <= result["wall_s"] - 0.2
    assert (tmp_path / "log").read_text() == "1\n"


def test_finished_rows_are_skipped_and_others_rows_refused(tmp_path, capsys, monkeypatch):
    args = Namespace(dataset="la", recipe="configs/recipes/cpu.json", folder="D", datalist="L", weights="W", extra="",
                     threads=1, jobs=1)  # fmt: skip
    monkeypatch.setattr(rows, "_run_timed", lambda *a: {"exit_code": 0, "wall_s": 60.0, "cpu_s": 30.0})
    assert rows.train_row("mn", tmp_path, args) == 0
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").touch()
    assert rows.train_row("mn", tmp_path, args) == 0
    assert "finished before" in capsys.readouterr().out
    record = json.loads((tmp_path / "benchmark.json").read_text())
    assert (record["wall_s"], record["cpu_s"], len(record["attempts"])) == (60.0, 30.0, 1)
    args.weights = "OTHER"
    with pytest.raises(UserError, match="another command"):
        rows.train_row("mn", tmp_path, args)


def test_datalist_of_the_protocol_is_that_of_the_command(shared_dir, tmp_path):
    from mnseg.cli import main

    folder = shared_dir / "data" / "la"
    protocols.make_datalist(protocols.PROTOCOLS["la"], folder, 8, tmp_path / "ours.json")
    split = ["--labeled", "first:8", "--validation", "last:10", "--test", "last:10:10", "--keep-hidden", "--no-check"]
    names = ["--class-names", "background,left atrium", "--order", str(folder / "train.list")]
    scans = ["--images", str(folder / "images"), "--labels", str(folder / "labels"), "-o", str(tmp_path / "cli.json")]
    assert main(["datalist", *scans, *split, *names]) == 0
    ours = json.loads((tmp_path / "ours.json").read_text())
    assert ours == json.loads((tmp_path / "cli.json").read_text())
    counts = {name: len(ours[name]) for name in ("labeled", "unlabeled", "validation", "testing")}
    assert counts == {"labeled": 8, "unlabeled": 52, "validation": 10, "testing": 10}
