"""Accepted labels wait here until they are stored: a server killed in between finds them when it starts again."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.durable import durable_json, sync

__all__ = ["Inbox", "Submission"]


@dataclass(frozen=True)
class Submission:
    """A label on its way: ``mask`` is the file, ``facts`` say image, tag, author, time and what the client sent."""

    folder: Path
    facts: Mapping[str, Any]

    @property
    def mask(self) -> Path:
        return self.folder / "mask.nii.gz"

    def note(self, edit: Mapping[str, Any]) -> None:
        """Remember that the label is in the history, and what that says."""
        durable_json(self.folder / "edit.json", edit)

    def noted(self) -> dict[str, Any] | None:
        """What `note` was given; None before."""
        try:
            return json.loads((self.folder / "edit.json").read_bytes())
        except FileNotFoundError:
            return None


class Inbox:
    """A folder with one folder for each submission, named by time; it appears there whole or not at all."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._guard = threading.Lock()
        self._last = 0
        self._abandoned = list(root.glob(".*"))  # of a killed server; those of this one are being written

    def _next(self) -> int:
        """The time, or a number behind all that are waiting: a clock that was set back must not turn their order."""
        with self._guard:
            names = [name.lstrip(".")[:20] for name in (os.listdir(self.root) if self.root.is_dir() else [])]
            known = max((int(name) for name in names if name.isdecimal()), default=0)
            self._last = max(time.time_ns(), known + 1, self._last + 1)
            return self._last

    def put(self, write: Callable[[Path], object], facts: Mapping[str, Any]) -> Submission:
        """Keep a submission; it has reached the disk when this returns.

        Args:
            write: fills the file that it is given with the mask.
            facts: for JSON.
        """
        name = f"{self._next():020d}-{uuid.uuid4().hex[:8]}"
        draft = self.root / f".{name}"
        draft.mkdir(parents=True)
        try:
            write(draft / "mask.nii.gz")
            sync(draft / "mask.nii.gz")
            durable_json(draft / "facts.json", {**facts, "id": name})
            os.rename(draft, self.root / name)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        sync(self.root)
        return Submission(self.root / name, {**facts, "id": name})

    def waiting(self) -> list[Submission]:
        """What a killed server left, oldest first. Drafts were never confirmed to anybody and are removed."""
        for draft in self._abandoned:
            shutil.rmtree(draft, ignore_errors=True)
        return self.waiting_folders()

    def waiting_folders(self) -> list[Submission]:
        """The same while the server runs: drafts are being written, and are left alone."""
        if not self.root.is_dir():
            return []
        folders = sorted(folder for folder in self.root.glob("[!.]*") if (folder / "facts.json").is_file())
        return [Submission(folder, json.loads((folder / "facts.json").read_bytes())) for folder in folders]

    def done(self, submission: Submission) -> None:
        """Forget a submission that is stored."""
        hidden = submission.folder.with_name(f".{submission.folder.name}")
        os.rename(submission.folder, hidden)
        shutil.rmtree(hidden, ignore_errors=True)

    def set_aside(self, submission: Submission) -> Path:
        """Keep a submission that can no longer be stored beside the inbox; returns where."""
        target = self.root.with_name(f"{self.root.name}_set_aside") / submission.folder.name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(submission.folder, target)
        return target

    def supersede(self, submission: Submission, failed: Collection[str]) -> None:
        """Forget older submissions of the same scan and tag: they must not come back over it.

        Args:
            submission: the newer one.
            failed: names of those whose storing failed; others may be on their way at this moment.
        """
        mine = (submission.facts.get("image"), submission.facts.get("tag"))
        for other in self.waiting_folders() if failed else ():
            name = other.folder.name
            if name in failed and name < submission.folder.name and (other.facts["image"], other.facts["tag"]) == mine:
                self.done(other)
