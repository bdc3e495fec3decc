"""inference.py: every road is timed and compared with the plain one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from inference import _dice, main


def test_roads_are_timed(tmp_path, capsys):
    small = ["--size", "34", "32", "32", "--patch-size", "32", "32", "32", "--features", "4", "4", "4", "4", "8", "4"]
    assert main([*small, "--repeats", "1", "--device", "cpu", "--json", str(tmp_path / "out.json")]) == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "out.json").read_text())["rows"]}
    assert list(rows)[:2] == ["plain", "channels last"]
    assert rows["plain"]["ratio"] == 1 and rows["plain"]["dice_lost"] == 0
    assert all(row["seconds"] > 0 and row["dice_lost"] < 0.01 for row in rows.values())
    assert "times as fast" in capsys.readouterr().out


def test_dice_by_hand():
    a, b = np.array([0, 1, 1, 2]), np.array([0, 1, 0, 0])
    assert _dice(a, b, 3) == pytest.approx((2 / 3 + 0) / 2)
    assert _dice(a * 0, b * 0, 3) == 1


@pytest.mark.parametrize("argv", [["--run-dir", "/nowhere"]])
def test_a_missing_run_is_named(argv, capsys):
    with pytest.raises(SystemExit):
        main(argv)
    assert "/nowhere has no models/model.pt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--device", "foo"], "inference.py: --device foo is no device"),
        (["--patch-size", "30", "30", "30"], "inference.py: patch_size [30, 30, 30] does not fit"),
        (["--repeats", "0"], "argument --repeats: '0' is not a whole number of at least 1"),
        (["--json", f"{__file__}/out.json"], f"inference.py: {__file__}/out.json cannot be written"),
    ],
)
def test_bad_options_are_said_before_anything_is_measured(argv, words, capsys):
    with pytest.raises(SystemExit):
        main(argv)
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
