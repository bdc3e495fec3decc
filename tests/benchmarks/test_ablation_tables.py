"""ablations.py: each training has its own seed, each cell and dot its own row, network and metric."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from pathlib import Path

import ablations
import matplotlib.figure
import rows
import torch


def line(case: str, dice: float, jaccard: float = 0.5, hd95: float = 1.0, asd: float = 1.0) -> dict[str, str]:
    values = {"dice": dice, "jaccard": jaccard, "hd95_voxel": hd95, "asd_voxel": asd}
    return {"case": case, "class_name": "x", **{name: str(value) for name, value in values.items()}}


RESULTS = {
    ("mn", "g"): {0: [line("a", 0.8, 0.7, 4, 2), line("b", 0.6, 0.5, 2, 1)],
                  1: [line("a", 0.6, 0.5, 8, 4), line("b", 0.4, 0.3, math.nan, math.nan)]},
    ("mn", "f"): {0: [line("a", 0.3), line("b", 0.1)], 1: [line("a", 0.3), line("b", 0.1)]},
    ("linear", "g"): {1: [line("b", 0.5), line("a", 0.7)]},
    ("linear", "f"): {1: [line("b", 0.5), line("a", 0.7)]},
}  # fmt: skip


def finished(folder: Path, wall: float, cpu: float) -> None:
    """A run of two epochs of ten updates, the first of both networks, the second of the 2D one alone."""
    (folder / "models").mkdir(parents=True)
    torch.save({"settings": {"epoch_length": 10}}, folder / "models" / "checkpoint.pt")
    epochs = [{"epoch": 1, "student": "both", "unlabeled_seen": 3}, {"epoch": 2, "student": "2d", "unlabeled_seen": 9}]
    (folder / "history.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    (folder / "benchmark.json").write_text(json.dumps({"wall_s": wall, "cpu_s": cpu}))


def test_each_seed_is_trained_with_its_own_seed_behind_what_was_asked_for(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(ablations, "train_row", lambda row, folder, args: seen.append((row, folder, args.extra)))
    args = Namespace(extra="val_cases=1", minutes=None, jobs=1, out=tmp_path)
    ablations.train([("mn", 0), ("mn", 1), ("linear", 1)], args)
    assert seen == [
        ("mn", tmp_path / "seed_0" / "mn", "val_cases=1 seed=0"),
        ("mn", tmp_path / "seed_1" / "mn", "val_cases=1 seed=1"),
        ("linear", tmp_path / "seed_1" / "linear", "val_cases=1 seed=1"),
    ]


def test_what_is_asked_for_wins_over_the_settings_of_the_scale(tmp_path):
    """The later word is the one that counts."""
    (tmp_path / "la" / "images").mkdir(parents=True)
    (tmp_path / "datalist.json").write_text(json.dumps({"labeled": [{"image": "a.nii", "label": "a.nii"}] * 8}))
    argv = ["--scale", "lite", "--data", str(tmp_path), "--weights", "W", "--out", str(tmp_path)]
    args = ablations.build_parser().parse_args([*argv, "--extra", "val_cases=9"])
    ablations.prepare(args)
    assert rows.overrides_of(rows.words_of(args.extra))["val_cases"] == 9


def test_rows_that_are_named_get_all_seeds(monkeypatch):
    asked = []
    monkeypatch.setattr(ablations, "prepare", lambda args: None)
    monkeypatch.setattr(ablations, "jobs_of", lambda *given: asked.append(given) or [])
    for more in ([], ["--rows", "mn", "linear"]):
        assert ablations.main(["--scale", "tiny", "--table-only", "--seeds", "2", *more]) == 0
    assert [seeded for _, _, seeded in asked] == [ablations.SCALES["tiny"].seeded, ["mn", "linear"]]


def test_the_cells_of_a_row_are_its_own(tmp_path):
    for row, seed in (("mn", 0), ("linear", 1)):
        finished(tmp_path / f"seed_{seed}" / row, wall=120.0, cpu=180.0)
    lines = ablations.as_markdown(RESULTS, Namespace(out=tmp_path), {"whole": "costs too much"}).splitlines()
    table = {tuple(cells[:2]): cells[2:] for cells in (x.strip("| ").split(" | ") for x in lines if x.startswith("| "))}
    # Means over seeds: Dice of a 0.7, of b 0.5; HD95 of a 6, b has none in seed 1 and so none at all.
    assert table["M&N", "g"] == ["70.00, 50.00", "60.00 ± 14.14", "50.00 ± 14.14", "6.00", "3.00", "1", "-", "10",
                                 "2.0 min", "3.0 min"]  # fmt: skip
    assert table["M&N", "f"][-3:] == ["20", "2.0 min", "3.0 min"]
    # Of seed 1 alone, each to M&N's network of the same kind, paired by case.
    assert table["linear sampling", "g"][6] == "+10.00 [+10.00, +10.00]"
    assert table["linear sampling", "f"][6] == "+40.00 [+40.00, +40.00]"
    assert "Not measured: f: whole network: costs too much." in lines[-1]


def test_what_several_attempts_took_is_added_up(tmp_path, monkeypatch):
    args = Namespace(extra="", threads=1, jobs=1)
    attempts = iter([{"exit_code": 1, "wall_s": 60.0, "cpu_s": 30.0}, {"exit_code": 0, "wall_s": 90.0, "cpu_s": 50.0}])
    monkeypatch.setattr(rows, "_run_timed", lambda *given: next(attempts))
    for _ in range(2):
        rows.run_once("mn", ["train"], tmp_path, args)
    record = json.loads((tmp_path / "benchmark.json").read_text())
    assert (record["wall_s"], record["cpu_s"]) == (150.0, 80.0)


def test_a_dot_stands_at_the_name_of_its_row(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    monkeypatch.setattr(ablations, "atomic_write", lambda path, write: write(path))
    ablations.plot(RESULTS, "g", tmp_path / "a.png")
    (panel,) = drawn[0].axes
    names = dict(zip(panel.get_yticks(), (label.get_text() for label in panel.get_yticklabels()), strict=True))
    points = [(names[y], x) for dots in panel.collections for x, y in dots.get_offsets().tolist()]
    # Two seeds and their mean; one seed, which is its own mean.
    means = [("M&N", 50), ("M&N", 60), ("M&N", 70), ("linear sampling", 60), ("linear sampling", 60)]
    assert [(name, round(x, 9)) for name, x in sorted(points)] == means
