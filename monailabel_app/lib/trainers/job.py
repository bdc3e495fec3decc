"""A training as the workspace knows it: runs/0004/job.json says what is done, so that a restarted server goes on."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from lib.durable import durable_json

__all__ = ["ENDED", "Job", "Runs"]

logger = logging.getLogger(__name__)

ENDED = ("DONE", "ERROR", "STOPPED")
NO_FACTS: Mapping[str, Any] = {
    "status": "SUBMITTED",
    "step": "",
    "done": [],
    "begun": {},
    "starts": {},
    "folds": [],
    "left_out": {},
    "notes": [],
    "seconds": {},
    "error": None,
    "version": None,
    "outcome": None,
    "pid": None,
    "started": None,
    "ended": None,
}


class Job:
    """A run folder and what job.json says of it. Every change is on the disk when the call returns.

    facts: "id", "status" (SUBMITTED, RUNNING, DONE, ERROR, STOPPED), "by", "reason", "from_scratch", "step" (under
    way), "done" (steps), "begun" (step -> how often), "starts" (model -> where it began), "folds" (those that train),
    "left_out" (case -> why), "notes", "seconds" (step -> s), "error" (a sentence), "version" (id, once there is one),
    "outcome" ("published", "kept"), "pid" (of the child), "started", "ended" (seconds since 1970).
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.facts = {**json.loads(json.dumps(NO_FACTS)), **facts}
        self._lock = threading.Lock()

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def ended(self) -> bool:
        return self.facts["status"] in ENDED

    def update(self, **facts: Any) -> None:
        """Change facts."""
        with self._lock:
            self.facts = {**self.facts, **facts}
            durable_json(self.folder / "job.json", self.facts)

    def begin(self, step: str) -> int:
        """Note that a step begins; returns how often it has."""
        begun = {**self.facts["begun"], step: self.facts["begun"].get(step, 0) + 1}
        self.update(step=step, begun=begun)
        return begun[step]

    def forget_begin(self) -> None:
        """The step was broken off by the end of the server, for which it cannot be blamed."""
        step = self.facts["step"]
        self.update(begun={**self.facts["begun"], step: max(self.facts["begun"].get(step, 1) - 1, 0)})

    def finish(self, step: str, seconds: float) -> None:
        """Note that a step is done."""
        self.update(done=[*self.facts["done"], step], seconds={**self.facts["seconds"], step: round(seconds, 2)})

    def note(self, text: str) -> None:
        """Keep a sentence that whoever looks at the training should read."""
        if text not in self.facts["notes"]:
            self.update(notes=[*self.facts["notes"], text])

    def task(self, details: Iterable[str] = ()) -> dict[str, Any]:
        """As MONAI Label's ``/train/`` describes a task; ``details`` are never empty, since Slicer reads the last."""
        facts = self.facts
        lines = [*details, *([facts["error"]] if facts["error"] else [])]
        begun = facts["started"] or facts["created"]
        return {
            "id": f"mnseg-training-{self.id}",
            "status": facts["status"],
            "request": {"model": "mnseg", "from_scratch": facts["from_scratch"], "by": facts["by"]},
            "start_ts": _written(begun),
            **({"end_ts": _written(facts["ended"])} if facts["ended"] else {}),
            "details": lines[-20:] or [f"Training {self.id}: {facts['status'].lower()}"],
        }


class Runs:
    """The folder of all runs.

    Args:
        root: runs/ of the workspace.
        keep: ended runs whose folders stay; what matters of them is in the registry.
    """

    def __init__(self, root: Path, keep: int = 3) -> None:
        self.root = Path(root)
        self.keep = keep

    def all(self) -> list[Job]:
        """All jobs, oldest first; a folder without a readable job.json is none."""
        found = []
        for folder in sorted(self.root.glob("[0-9]*"), key=lambda folder: (len(folder.name), folder.name)):
            try:
                found.append(Job(folder, json.loads((folder / "job.json").read_bytes())))
            except (OSError, ValueError, TypeError) as error:
                logger.warning("%s is no run: %s", folder, error)
        return found

    def create(self, at_least: int = 0, **facts: Any) -> Job:
        """A new job; its number is larger than all before and than ``at_least``."""
        self.root.mkdir(parents=True, exist_ok=True)
        numbers = [int(folder.name) for folder in self.root.glob("[0-9]*") if folder.name.isdecimal()]
        folder = self.root / f"{max([at_least, *numbers], default=0) + 1:04d}"
        unfinished = self.root / ".new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        Job(unfinished, facts).update()
        unfinished.rename(folder)
        return Job(folder, facts)

    def thin(self) -> None:
        """Remove the oldest ended runs."""
        ended = [job for job in self.all() if job.ended]
        for job in ended[: max(len(ended) - self.keep, 0)]:
            shutil.rmtree(job.folder, ignore_errors=True)


def _written(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
