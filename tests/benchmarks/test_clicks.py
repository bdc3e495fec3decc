"""clicks.py: what is shown of a truth lies in it, and the figures are those of the masks."""

from __future__ import annotations

import nibabel as nib
import numpy as np
from clicks import main, shown

from mnseg.data.phantom import write_phantom_dataset


def test_points_lie_inside_and_the_box_around():
    truth = np.zeros((20, 20, 12), bool)
    truth[5:12, 6:15, 2:10] = True
    clicks = shown(truth, 4, 1)
    assert [point[2] for point in clicks.foreground.tolist()] == [3, 5, 7, 9]
    assert truth[tuple(clicks.foreground.T)].all() and len(clicks.background) == 0
    assert clicks.box.tolist() == [[4, 12], [5, 15], [1, 10]]
    assert shown(truth, 1, -1).box is None and shown(truth, 0, 100).box.tolist() == [[0, 19], [0, 19], [0, 11]]


def test_a_table_of_phantoms(tmp_path, monkeypatch, capsys):
    write_phantom_dataset(tmp_path, 1, 0, 0, 0, size=32)
    values = set(np.unique(nib.load(next((tmp_path / "labels").iterdir())).dataobj).tolist()) - {0}
    monkeypatch.setattr("sys.argv", ["clicks.py", "--data", str(tmp_path), "--cases", "1"])
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("|")[2:4] for line in lines if line.startswith("| labeled_")]
    assert {int(value) for value, _ in rows} == values
    assert f"mean Dice {np.mean([float(dice) for _, dice in rows]):.3f}" in lines[-1]
