"""step.py: kinds of steps that are what they say, options."""

from __future__ import annotations

import json

import pytest
import step
from bench_common import overrides_of

from mnseg.errors import UserError


def test_bundle_is_timed_for_every_kind_of_step(tmp_path, capsys):
    """The trainer itself runs; `MeasuredSteps._check` raises when a batch is not of the kind that its row names."""
    out = tmp_path / "out.json"
    tiny = ["network_def#features=[4, 4, 8, 8, 16, 4]", "batch_size=3"]
    argv = ["--steps", "1", "--warmup", "0", "--unlabeled", "2", "--unlabeled-cases", "2", "--volumes", "1"]
    assert step.main([*argv, "--warmup-volumes", "0", "--device", "cpu", "--set", *tiny, "--json", str(out)]) == 0
    rows = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    parts = {name: set(row["parts_median_s"]) for name, row in rows.items()}
    assert parts == {
        "labeled step, both": {"update_3d", "update_2d"},
        "labeled step, 3D alone": {"update_3d"},
        "labeled step, 2D alone": {"update_2d"},
        "3D student, b_u 2": {"teacher_2d", "update_3d"},
        "2D student, b_u 2": {"teacher_3d", "update_2d"},
        "validation volume, 3D": set(),
        "validation volume, 2D": set(),
    }
    for row in rows.values():
        assert 0 < sum(row["parts_median_s"].values()) <= row["max_s"] or not row["parts_median_s"]
        assert 0 < row["waiting_share"] < 1
    assert "2D student, b_u 2" in capsys.readouterr().out


def test_bad_options_are_one_sentence(tmp_path, capsys):
    for argv, words in (
        (["--steps", "0"], "argument --steps: '0' is not a whole number of at least 1"),
        (["--threads", "-1"], "argument --threads: '-1' is not a whole number"),
        (["--set", "batch_size"], "step.py: 'batch_size' is no override"),
        (["--device", "foo"], "step.py: --device foo is no device"),
        (["--device", "meta"], "step.py: --device meta is no device"),
        (["--device", "cuda:99"], "step.py: --device cuda:99, but torch sees no such GPU here"),
        (["--json", str(tmp_path)], f"step.py: {tmp_path} is a folder"),
        (["--datalist", str(tmp_path / "empty.json")], f"step.py: {tmp_path / 'empty.json'} has no labeled scan"),
    ):
        (tmp_path / "empty.json").write_text('{"labeled": [], "unlabeled": []}')
        with pytest.raises(SystemExit):
            step.main(argv)
        error = capsys.readouterr().err
        assert words in error and "Traceback" not in error


def test_overrides_are_read_as_python_and_else_as_text():
    pairs = ["a=1", "b=[1, 2]", "c=None", "d=linear", "e#f=x=y"]
    assert overrides_of(pairs) == {"a": 1, "b": [1, 2], "c": None, "d": "linear", "e#f": "x=y"}
    with pytest.raises(UserError, match="key=value"):
        overrides_of(["=3"])
