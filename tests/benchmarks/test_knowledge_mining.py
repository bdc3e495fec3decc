"""knowledge_mining.py: its rows, commands and the arithmetic of its tables."""

from __future__ import annotations

import ast
import json
from argparse import Namespace
from pathlib import Path

import knowledge_mining
import pytest
from knowledge_mining import Row


def case(name: str, dice: float) -> dict[str, str]:
    return {"case": name, "class_name": "polyp", "dice": str(dice), "jaccard": str(dice / 2), "hd95_voxel": "nan"}


def test_rows_and_labels_of_the_protocol():
    rows = knowledge_mining.rows_of([25, 50, 75], knowledge_mining.SCHEDULES)
    assert len(rows) == 10 and rows[-1] == Row(100, "supervised")
    assert [row.labels for row in rows[::3]] == [65, 130, 195, 260]
    assert knowledge_mining.TRAINING + knowledge_mining.VALIDATION + knowledge_mining.TESTING == 400


def test_rows_differ_in_schedule_and_datalist_alone():
    args = Namespace(out=Path("/out"), recipe="configs/mining/cpu.json", promptable="random-walker", extra="")
    commands = [knowledge_mining.command(Row(25, name), 3, Path("/run"), args) for name in ("supervised", "continuous")]
    assert [a for a, b in zip(*commands, strict=True) if a != b] == ["supervised"]
    assert commands[0][commands[0].index("--dataset_dir") + 1] == "/out/data_25"
    for name in ast.literal_eval(commands[0][commands[0].index("--config_file") + 1]):
        assert (knowledge_mining.ROOT / name).is_file()


def test_values_are_means_over_seeds_by_case_and_differences_are_paired():
    alone = {0: [case("a", 0.5), case("b", 0.7)], 1: [case("a", 0.7), case("b", 0.9)]}
    mined = {0: [case("a", 0.8), case("b", 0.9)], 1: [case("a", 0.8), case("b", 0.9)], 2: [case("a", 0), case("b", 0)]}
    assert knowledge_mining.over_seeds(alone, "dice") == pytest.approx({"a": 0.6, "b": 0.8})
    text = knowledge_mining.paired_table({Row(25, "supervised"): alone, Row(25, "continuous"): mined})
    # Over the seeds that both have: a 0.8 - 0.6, b 0.9 - 0.8.
    assert "| 25 % | continuous | U-Net++ alone | +15.00 [" in text
    assert text.count("\n") == 2, "no row without mining at 25 %, none with all labels"


def test_the_value_table_names_mined_masks_and_cost(tmp_path, monkeypatch):
    row, args = Row(50, "one_time"), Namespace(out=tmp_path)
    folder = row.run_dir(tmp_path, 0)
    folder.mkdir(parents=True)
    (folder / "history.jsonl").write_text("\n".join(json.dumps(line) for line in (
        {"epoch": 1}, {"epoch": 2, "mined_kept": 40.0, "pseudo_dice_2d": 0.5},
        {"epoch": 3, "mined_kept": 50.0, "pseudo_dice_2d": 0.625},
    )))  # fmt: skip
    (folder / "benchmark.json").write_text(json.dumps({"wall_s": 120, "cpu_s": 90}))
    monkeypatch.setattr(knowledge_mining.torch, "load", lambda *args, **kwargs: {"engine": {"iteration": 1000}})
    text = knowledge_mining.value_table({row: {0: [case("a", 0.5), case("b", 0.7)]}}, args)
    cells = [cell.strip() for cell in text.splitlines()[-1].strip("| ").split("|")]
    assert cells == ["130 (50 %)", "one-time", "1", "60.00 ± 14.14", "30.00 ± 7.07", "-", "2", "60.0", "50, 62.5",
                     "1000", "2.0 min", "1.5 min"]  # fmt: skip


def test_what_is_named_twice_is_trained_once(tmp_path, monkeypatch, capsys):
    """Two trainings in one folder would refuse each other."""
    trained = []
    monkeypatch.setattr(knowledge_mining, "data_of", lambda *_: None)
    monkeypatch.setattr(knowledge_mining, "run_once", lambda name, *_: trained.append(name) or 0)
    twice = ["--shares", "50", "50", "--seeds", "1", "1", "--schedules", "one_time"]
    with pytest.raises(SystemExit):
        knowledge_mining.main(["--data", str(tmp_path), "--out", str(tmp_path), *twice])
    assert sorted(trained) == ["100_supervised, seed 1", "50_one_time, seed 1"]
    assert "No run has finished" in capsys.readouterr().err
