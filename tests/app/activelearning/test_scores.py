"""scores.json is read once, and a broken one counts as none."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from lib.activelearning.scores import ScoreReader, Scores, newest_scores
from lib.registry.versions import Registry

SCANS = {
    "a": {"disagreement": 0.3, "features": [1.0, 5.0, 2.0], "stamp": ""},
    "b": {"disagreement": None, "features": [3.0, 5.0, 4.0], "stamp": ""},
    "labeled": {"features": [2.0, 5.0, 6.0], "stamp": ""},
    "bad": {"fault": "bad.nii.gz is no volume", "stamp": ""},
}


def write(path, scans):
    path.write_text(json.dumps({"format": 1, "scans": scans}))
    return path


def test_by_hand(tmp_path):
    """Deviations of the first and third number: sqrt(2/3), sqrt(8/3); the second is always 5."""
    scores = Scores.read("0003", write(tmp_path / "scores.json", SCANS))
    assert scores.disagreement == {"a": 0.3, "b": None} and scores.faults == {"bad": "bad.nii.gz is no volume"}
    wanted = np.array([-1 / np.sqrt(2 / 3), 0, -2 / np.sqrt(8 / 3)]) / np.sqrt(3)
    assert scores.features["a"] == pytest.approx(wanted)
    assert scores.features["labeled"] == pytest.approx(np.array([0, 0, 2 / np.sqrt(8 / 3)]) / np.sqrt(3))


def test_read_once_until_the_file_or_the_version_changes(tmp_path):
    path = write(tmp_path / "scores.json", SCANS)
    version = ["0003"]
    read = ScoreReader(lambda: (version[0], path))
    first = read()
    assert read() is first
    version[0] = "0004"
    assert read().version == "0004"
    write(path, {"a": {"disagreement": 0.9, "features": [1.0]}})
    os.utime(path, ns=(1, 1))
    assert read().disagreement == {"a": 0.9}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"scans": []}', '{"scans": {"a": 3}}', '{"scans": {"a": {"disagreement": "x"}}}',
     '{"scans": {"a": {"features": [1]}, "b": {"features": [1, 2]}}}', '{"scans": {"a": {"features": [NaN]}}}'],
)  # fmt: skip
def test_a_broken_file_counts_as_none(tmp_path, text, caplog):
    path = tmp_path / "scores.json"
    path.write_text(text)
    assert ScoreReader(lambda: ("0001", path))() is None
    assert str(path) in caplog.text


def test_no_version_and_no_file(tmp_path):
    assert ScoreReader(lambda: None)() is None
    assert ScoreReader(lambda: ("0001", tmp_path / "missing.json"))() is None


def test_until_the_published_version_has_scored_the_scans_the_newest_scores_hold(tmp_path):
    registry = Registry(tmp_path / "registry")

    def version():
        run = tmp_path / str(len(registry.versions()))
        run.mkdir()
        for name in ("model.pt", "model.json"):
            (run / name).write_text("{}")
        return registry.create(run, {})

    assert newest_scores(registry) is None
    first, second, third = version(), version(), version()
    assert newest_scores(registry) is None
    write(first.scores, SCANS)
    registry.publish(third.id, "the server", "better")
    assert newest_scores(registry) == ("mnseg 0001", first.scores)
    write(second.scores, SCANS)  # kept back
    assert newest_scores(registry) == ("mnseg 0002", second.scores)
    write(third.scores, SCANS)
    assert newest_scores(registry) == ("mnseg 0003", third.scores)
    registry.publish(first.id, "anna", "by hand")
    assert newest_scores(registry) == ("mnseg 0001", first.scores), "the published one's, not the newest"
