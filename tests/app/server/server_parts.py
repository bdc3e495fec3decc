"""A tiny model, and a training that trains nothing, so that routes can be tested in a second."""

from __future__ import annotations

import itertools
import json
import threading
import time

from lib.errors import RequestError

LABELS = ("lobe", "bean", "tube")
SIZE = 32


class FakeTraining:
    """Has the methods of ``lib.retraining.service.TrainingService``; `calls` says what was asked of it."""

    def __init__(self, conf, datastore, registry, provenance, traffic, clock=time.time):
        self.conf, self.registry, self.calls, self.saved = conf, registry, [], []
        self._task, self._ids, self.enabled = None, itertools.count(1), True
        self._lock = threading.Lock()

    def start(self):
        self.calls.append(("start",))

    def close(self):
        self.calls.append(("close",))

    def left_out(self):
        return {}

    def label_saved(self, *image_ids):
        with self._lock:
            self.saved.extend(image_ids)

    def now(self, by, from_scratch=False, enqueue=False):
        if self._task and self._task["status"] == "RUNNING":
            raise RequestError(429, "A training is under way; stop it first.")
        self.calls.append(("now", by, from_scratch))
        log = self.conf.workspace / "runs" / "0001" / "log.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("epoch 1 of 9 <b>\n")
        self._task = {"id": str(next(self._ids)), "status": "RUNNING", "start_ts": "2026-01-01 00:00:00",
                      "request": {"model": "mnseg"}, "details": ["epoch 1 of 9"]}
        return self.task()

    def stop(self, by):
        self.calls.append(("stop", by))
        if not self._task or self._task["status"] != "RUNNING":
            raise RequestError(404, "No training is running.")
        self._task = self._task | {"status": "STOPPED", "end_ts": "2026-01-01 00:00:09", "details": []}

    def enable(self, on, by):
        self.calls.append(("enable", on, by))
        self.enabled = on

    def status(self):
        running = bool(self._task and self._task["status"] == "RUNNING")
        progress = {"epoch": 1, "max_epochs": 9, "stage": 1, "losses": {"labeled 3D": 0.5}, "dice": {"3D": None}}
        job = {"id": "0001", "step": "train", "progress": progress, "seconds_left": 80.0, "details": ["epoch 1 of 9"]}
        return {"on": self.enabled, "running": running, "paused": False, "reason": "No label is new.", "waiting": [],
                "not_before": None, "failures": 0, "last_end": None, "job": job if running else None}

    def counts(self):
        return {"total": 6, "labeled": 2, "training": 1, "validation": 1, "unedited": 0}

    def task(self):
        return self._task

    def tasks(self):
        return [self._task] if self._task else []

    def progress(self):
        return None


def use_fakes():
    """Let main.py find these instead of the real ones."""
    import lib.retraining.service

    lib.retraining.service.TrainingService = FakeTraining


def tiny_run(folder, seed, labels=LABELS):
    """What a run leaves behind, with random weights: another seed, other masks."""
    import torch
    from monai.networks.nets import BasicUNet

    options = {"spatial_dims": 3, "in_channels": 1, "out_channels": len(labels) + 1, "features": [4] * 6}
    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    torch.save(BasicUNet(**options).state_dict(), folder / "model.pt")
    overlay = {
        "class_names": ["background", *labels],
        "patch_size": [SIZE] * 3,
        "network_def": {"_target_": "BasicUNet", **options},
    }
    (folder / "model.json").write_text(json.dumps(overlay))
    return folder
