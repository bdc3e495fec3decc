"""What Slicer reads of the training."""

from __future__ import annotations

import pytest

pytest.importorskip("monailabel", reason="needs the extra 'app'")

from lib.trainers.co_train_task import CoTrainTask  # noqa: E402
from lib.trainers.progress import Progress  # noqa: E402


class Service:
    def __init__(self, task=None, progress=None, job=None, dice=None):
        self._task, self._progress, self._job = task, progress, job
        facts = {"verdict": {"dice": dice}}
        version = type("Version", (), {"id": "0002", "facts": facts})() if dice is not None else None
        self.registry = type("Registry", (), {"published": lambda _: version})()

    def task(self):
        return self._task

    def progress(self):
        return self._progress

    def status(self):
        return {"job": self._job}

    def clock(self):
        return 1100.0


def test_before_anything():
    task = CoTrainTask(Service())
    assert task.stats() == {"best_metric": 0.0} and task.info()["config"] == {"from_scratch": False}


def test_during_a_training():
    progress = Progress(3, 10, 1, 20.0, {"loss_labeled_3d": 0.5}, 0.7, 0.6, 0.7)
    job = {"started": 1000.0, "ended": None, "seconds_left": 20.0}
    stats = CoTrainTask(Service({"status": "RUNNING"}, progress, job, 0.9)).stats()
    assert (stats["best_metric"], stats["epoch"], stats["total_epochs"]) == (0.9, 3, 10)
    assert stats["current_time"] == "0:01:40" and "total_time" not in stats and stats["version"] == "0002"
    assert stats["train"]["losses"] == {"loss_labeled_3d": 0.5}


def test_after_it_and_without_a_version():
    stats = CoTrainTask(Service({"status": "DONE"}, Progress(10, 10, 2, dice_3d=0.7),
                                {"started": 1000.0, "ended": 1060.0})).stats()
    assert (stats["best_metric"], stats["total_time"]) == (0.7, "0:01:00")
