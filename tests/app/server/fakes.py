"""A training that trains nothing, so that routes can be tested in a second."""

from __future__ import annotations

import itertools
import threading
import time

from lib.errors import RequestError


class FakeTraining:
    """Has the methods of ``lib.retraining.service.TrainingService``; `calls` says what was asked of it."""

    def __init__(self, conf, datastore, registry, provenance, traffic, clock=time.time):
        self.conf, self.calls, self.saved = conf, [], []
        self._task, self._ids, self.enabled = None, itertools.count(1), True
        self._lock = threading.Lock()

    def start(self):
        self.calls.append(("start",))

    def close(self):
        self.calls.append(("close",))

    def label_saved(self, image_id):
        with self._lock:
            self.saved.append(image_id)

    def now(self, by, from_scratch=False):
        if self._task and self._task["status"] == "RUNNING":
            raise RequestError(429, "A training is under way; stop it first.")
        self.calls.append(("now", by, from_scratch))
        log = self.conf.workspace / "runs" / "0001" / "log.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("epoch 1 of 9 <b>\n")
        self._task = {"id": str(next(self._ids)), "status": "RUNNING", "start_ts": "2026-01-01 00:00:00",
                      "request": {"model": "mnseg"}, "details": ["epoch 1 of 9"]}

    def stop(self, by):
        self.calls.append(("stop", by))
        if self._task:
            self._task |= {"status": "STOPPED", "end_ts": "2026-01-01 00:00:09", "details": []}

    def enable(self, on, by):
        self.calls.append(("enable", on, by))
        self.enabled = on

    def status(self):
        return {"enabled": self.enabled, "running": bool(self._task and self._task["status"] == "RUNNING")}

    def task(self):
        return self._task

    def statistics(self):
        return {"best_metric": 0.8}


def use_fakes():
    """Let main.py find these instead of the real ones."""
    import lib.retraining.service

    lib.retraining.service.TrainingService = FakeTraining
