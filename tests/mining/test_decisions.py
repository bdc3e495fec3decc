"""The CSV of decisions, the counts, and the stop where nothing is left."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from mining.scenes import Oracle
from mnseg.errors import UserError
from mnseg.mining import KEPT, MinedImage, Miner, count_decisions, require_some_kept, told, write_decisions
from mnseg.mining.decisions import COLUMNS

ROW = {"class": 1, "size": 25, "box": (1, 2, 6, 7), "predicted_iou": 0.81234567, "agreement": 0.5, "stability": None,
       "kept": True, "reason": ""}  # fmt: skip
SMALL = ROW | {"predicted_iou": None, "agreement": None, "kept": False, "reason": "component too small"}


def mined() -> list[MinedImage]:
    label = np.zeros((4, 4), dtype=np.uint8)
    return [
        MinedImage("a, b", label, KEPT, [ROW, SMALL]),
        MinedImage("c", None, "nothing found"),
        MinedImage("d", None, "agreement too low", [ROW | {"kept": False, "reason": "agreement too low"}]),
        MinedImage("e", None, "agreement too low", [ROW | {"kept": False, "reason": "agreement too low"}]),
    ]


def test_every_image_has_a_row(tmp_path):
    path = write_decisions(mined(), tmp_path / "new" / "decisions.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["case"] for row in rows] == ["a, b", "a, b", "c", "d", "e"]
    assert rows[0] == {
        "case": "a, b", "decision": "kept", "class": "1", "size": "25", "row0": "1", "column0": "2", "row1": "6",
        "column1": "7", "predicted_iou": "0.8123", "agreement": "0.5000", "stability": "", "kept": "yes", "reason": "",
    }  # fmt: skip
    assert rows[1]["kept"] == "no" and rows[1]["predicted_iou"] == ""
    assert rows[2]["decision"] == "nothing found" and rows[2]["class"] == ""


def test_a_broken_write_leaves_the_old_file(tmp_path):
    path = write_decisions(mined(), tmp_path / "decisions.csv")
    before = path.read_text()

    def broken():
        yield mined()[0]
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        write_decisions(broken(), path)
    assert path.read_text() == before and [each.name for each in tmp_path.iterdir()] == ["decisions.csv"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="decisions.csv cannot be written"):
        write_decisions(mined(), tmp_path / "file" / "decisions.csv")


def test_counts():
    counts = count_decisions(mined())
    assert counts == {"kept": 1, "nothing found": 1, "agreement too low": 2}
    assert told(counts) == "2 agreement too low, 1 kept, 1 nothing found"


def test_nothing_kept_names_the_counts_and_the_threshold():
    miner = Miner(Oracle([]), min_agreement=0.55)
    require_some_kept({KEPT: 1, "agreement too low": 99}, miner)
    counts = {"agreement too low": 3, "nothing found": 4, "stability too low": 1}
    with pytest.raises(UserError, match=r"4 nothing found, 3 agreement too low.*lower min_agreement \(now 0\.55\)"):
        require_some_kept(counts, miner)
    with pytest.raises(UserError, match=r"4 nothing found\): train the small network longer.*min_component_size"):
        require_some_kept({"nothing found": 4}, miner)
    with pytest.raises(UserError, match="no image to mine"):
        require_some_kept({}, miner)
