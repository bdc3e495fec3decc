"""What became of every segmentation of the DICOM server that was looked at, so that none is taken twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lib.durable import append_json_line, read_json_lines, utc

__all__ = ["SETTLED", "STATES", "SegJournal"]

STATES = {
    "ours": "written by this server",
    "taken": "became the scan's label",
    "pending": "a person has to decide",
    "rejected": "a person decided against it",
    "ignored": "not a label that a person made",
    "refused": "cannot be a label of this server",
    "unreadable": "cannot be read",
    "no scan": "its series is not among the studies",
}
# A scan may still come, a decision too; nothing else changes by itself.
SETTLED = frozenset(STATES) - {"pending", "no scan"}


class SegJournal:
    """``segs.jsonl`` of a workspace, a line for everything that happened to a SEG; the last one of its UID counts.

    Args:
        path: of the file.
        clock: seconds since 1970.
    """

    def __init__(self, path: str | Path, clock: Callable[[], float] = time.time) -> None:
        self.path, self.clock = Path(path), clock
        self._lock = threading.Lock()
        self._entries: dict[str, dict[str, Any]] = {}
        for entry in read_json_lines(self.path):
            if isinstance(entry.get("uid"), str) and entry.get("state") in STATES:
                self._entries[entry["uid"]] = entry

    def record(self, uid: str, state: str, reason: str = "", **facts: Any) -> dict[str, Any]:
        """Note what became of a SEG; facts that are not given again stay.

        Args:
            uid: its SOPInstanceUID.
            state: one of `STATES`.
            reason: a sentence.
            facts: such as image, study, series, author.
        """
        if state not in STATES:
            raise ValueError(f"there is no state {state!r}")
        with self._lock:
            entry = {**self._entries.get(uid, {}), "uid": uid, "state": state, "reason": reason,
                     "when": utc(self.clock()), **facts}
            append_json_line(self.path, entry)
            self._entries[uid] = entry
            return dict(entry)

    def get(self, uid: str) -> dict[str, Any] | None:
        """The newest entry of a SEG."""
        with self._lock:
            entry = self._entries.get(uid)
            return None if entry is None else dict(entry)

    def all(self, *states: str) -> list[dict[str, Any]]:
        """Entries in these states (default: any), oldest first."""
        with self._lock:
            chosen = [dict(entry) for entry in self._entries.values() if not states or entry["state"] in states]
        return sorted(chosen, key=lambda entry: str(entry.get("when", "")))

    def is_settled(self, uid: str) -> bool:
        """Whether nothing is left to do."""
        entry: Mapping[str, Any] = self.get(uid) or {}
        return entry.get("state") in SETTLED
