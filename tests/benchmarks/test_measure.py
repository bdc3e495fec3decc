"""measure.py: which weights are measured on which scans, and when earlier results no longer count."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from pathlib import Path

import measure
import pytest

from mnseg.errors import UserError


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A finished run whose evaluations are counted: each writes a table with its own number as Dice."""
    calls = []

    class Workflow:
        def __init__(self, overlays, override):
            self.output = Path(override["output_dir"])
            split = override["evaluate_split"]
            self.cases = [item["image"].removesuffix(".nii") for item in json.loads(list_file.read_text())[split]]
            calls.append((self.output.name, split, [Path(path).name for path in overlays]))

        def run(self):
            self.output.mkdir(parents=True, exist_ok=True)
            lines = [f"{case},{len(calls)}" for case in self.cases]
            (self.output / "field_metrics.csv").write_text("\n".join(["case,dice", *lines]) + "\n")

        def finalize(self):
            pass

    list_file = tmp_path / "datalist.json"
    write_cases(list_file, ["a", "b"])
    (tmp_path / "run" / "models").mkdir(parents=True)
    for name in ("model.pt", "checkpoint.pt"):
        (tmp_path / "run" / "models" / name).touch()
        os.utime(tmp_path / "run" / "models" / name, (1000, 1000))
    monkeypatch.setattr(measure, "open_bundle", lambda config, overlays, kind, **override: Workflow(overlays, override))
    args = Namespace(dataset="phantom", folder=tmp_path, datalist=list_file)
    return tmp_path / "run", args, calls


def write_cases(path: Path, testing: list[str]) -> None:
    content = {"labeled": [], "validation": ["v"], "testing": testing}
    path.write_text(json.dumps({split: [{"image": f"{case}.nii", "label": f"{case}_label.nii"} for case in cases]
                                for split, cases in content.items()}))  # fmt: skip


def numbers(rows: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(row["case"], row["dice"]) for row in rows]


def test_each_network_and_split_has_its_own_results(place):
    run_dir, args, calls = place
    for network in ("g", "f", "both", "flips"):
        measure.evaluate(run_dir, network, args)
    measure.evaluate(run_dir, "g", Namespace(**vars(args), split="validation"))
    assert calls == [
        ("eval", "testing", ["model.json", "field.json"]),
        ("eval_2d", "testing", ["model.json", "field.json", "network_2d.json"]),
        ("eval_both", "testing", ["model.json", "field.json", "both_networks.json"]),
        ("eval_flips", "testing", ["model.json", "field.json", "flips.json"]),
        ("eval_validation", "validation", ["model.json", "field.json"]),
    ]


@pytest.mark.parametrize(
    ("network", "weights"),
    [("g", "model.pt"), ("f", "checkpoint.pt"), ("both", "checkpoint.pt"), ("flips", "model.pt")],
)
def test_newer_weights_and_other_cases_are_measured_anew(place, network, weights):
    run_dir, args, calls = place
    assert numbers(measure.evaluate(run_dir, network, args)) == [("a", "1"), ("b", "1")]
    assert numbers(measure.evaluate(run_dir, network, args)) == [("a", "1"), ("b", "1")], "nothing has changed"
    (table,) = run_dir.glob("*/field_metrics.csv")
    later = table.stat().st_mtime + 10
    os.utime(run_dir / "models" / weights, (later, later))
    assert numbers(measure.evaluate(run_dir, network, args)) == [("a", "2"), ("b", "2")], "trained on"
    os.utime(run_dir / "models" / weights, (1000, 1000))
    for cases in (["a"], ["a", "b", "c"], ["a", "d"]):
        write_cases(args.datalist, cases)
        measured = len(calls)
        found = numbers(measure.evaluate(run_dir, network, args))
        assert found == [(case, str(measured + 1)) for case in cases]


def test_a_run_that_has_not_finished_is_not_measured(place):
    run_dir, args, calls = place
    (run_dir / "models" / "model.pt").unlink()
    with pytest.raises(UserError, match="has not finished"):
        measure.evaluate(run_dir, "g", args)
    assert not calls
