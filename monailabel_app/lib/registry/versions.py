"""Every trained model as a version; one of them is published, and changing which one is a single rename.

    registry/published.json    {"version": "0003", "pinned": false, "previous": ["0002", ...], "event": {...}}
    registry/last_id           the highest number ever given
    registry/events.jsonl      what happened, oldest first
    registry/versions/0003/    model.pt, model.json, version.json, ...

A process that is killed at any moment leaves every version whole or absent, and the published one as it was or as it
becomes. Folders that begin with a dot are what such a process left behind; the next change removes them.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lib.durable import append_json_line, as_json, durable_json, durable_write, read_json_lines, sync, utc
from lib.errors import RequestError
from lib.registry.adoption import bundle_parts
from lib.registry.parts import fill_folder, run_parts
from lib.registry.state import read_state
from lib.registry.version import Version, is_version_id

__all__ = ["Registry", "Version"]

logger = logging.getLogger(__name__)


class Registry:
    """The versions in a folder. All methods may be called by many threads at once, and by other processes.

    Args:
        root: the registry's folder; made when the first version is.
        keep: newest versions that are never removed. Beside them the published version and the last ``keep`` ones
            that were published before it stay.
        clock: seconds since 1970, for the history.
    """

    def __init__(self, root: str | Path, keep: int = 10, clock: Callable[[], float] = time.time) -> None:
        self.root = Path(root)
        self.keep = keep
        self.clock = clock
        self._lock = threading.Lock()

    # ------------------------------------------------------------------------------------------------- reading

    def versions(self) -> list[Version]:
        """All versions, oldest first; a folder whose version.json cannot be read is left out."""
        return [version for version_id in self._ids() if (version := self._load(version_id)) is not None]

    def get(self, version_id: str) -> Version:
        """One version.

        Raises:
            RequestError: 404, there is none of this id.
        """
        version = self._load(version_id) if is_version_id(version_id) else None
        if version is None:
            known = self._ids()
            there = f"the registry has {', '.join(known[-5:])}" if known else "the registry has none yet"
            raise RequestError(404, f"There is no model version {str(version_id)[:40]!r}; {there}.")
        return version

    def of_run(self, run: str) -> Version | None:
        """The version that was made of the run folder of this name; a job that was killed asks before it makes one."""
        return next((version for version in self.versions() if version.facts.get("run") == run), None)

    def published(self) -> Version | None:
        """The version that is served, None before the first.

        When somebody has removed its folder, the newest one that was published before it.
        """
        return next(self.servable(), None)

    def servable(self) -> Iterator[Version]:
        """The published version, then those that were published before it, newest first; read one by one."""
        state = self._state()
        for version_id in [state["version"], *state["previous"]]:
            if version_id and (version := self._load(version_id)) is not None:
                yield version
            elif version_id:
                logger.warning("published version %s has no folder any more", version_id)

    @property
    def pinned(self) -> str | None:
        """Id of the version that nothing replaces by itself, None when none is pinned."""
        state = self._state()
        return state["version"] if state["pinned"] else None

    @property
    def previous(self) -> list[str]:
        """Ids that were published before the present one and can be rolled back to, newest first."""
        return [version_id for version_id in self._state()["previous"] if self._load(version_id) is not None]

    def history(self) -> list[dict[str, Any]]:
        """All events, oldest first: ``kind``, ``when`` (UTC), mostly ``version``, ``by`` and ``reason``."""
        events = read_json_lines(self.root / "events.jsonl")
        unwritten = self._unwritten(self._state(), events)
        return events if unwritten is None else [*events, unwritten]

    # ------------------------------------------------------------------------------------------------ changing

    def create(self, run_dir: str | Path, facts: Mapping[str, Any]) -> Version:
        """Copy a finished run into a new version. It is not published. Old versions are thinned out.

        Args:
            run_dir: folder with model.pt and model.json, and what else `lib.registry.parts.run_parts` names.
            facts: what version.json shall say; ``id``, ``created``, ``run`` and ``model_sha256`` are added.

        Raises:
            UserError: the run lacks its model.
            OSError: the disk is full; nothing of the version is left.
        """
        run_dir = Path(run_dir)
        return self._create(run_parts(run_dir), {"run": run_dir.name, **facts})

    def adopt(self, bundle_dir: str | Path, by: str) -> Version:
        """Make a version of a bundle that was packed earlier, or return the one made of the same weights before.

        It is not published.

        Args:
            bundle_dir: folder with models/model.pt, and model.json in it, in models/ or in configs/; without one, the
                bundle's configs/inference.json says all that the model needs.
            by: who asks.

        Raises:
            RequestError: 400, the folder holds no such bundle.
        """
        parts, facts = bundle_parts(Path(bundle_dir))
        for version in self.versions():
            if "adopted_from" in version.facts and version.facts.get("model_sha256") == facts["model_sha256"]:
                return version
        return self._create(parts, {**facts, "by": by})

    def publish(
        self, version_id: str, by: str, reason: str, verdict: Mapping[str, Any] | None = None
    ) -> bool:
        """Serve a version from now on: one atomic replace. Requests under way keep the version they started with.

        Args:
            version_id: of a version that exists.
            by: who publishes.
            reason: a sentence for the history.
            verdict: what the gate said. With a verdict the publication is the server's own, which a pin forbids;
                without one a person asked for it.

        Returns:
            Whether it is published now; False when a pin forbade it, which is then in the history.

        Raises:
            RequestError: 404, no such version; 409, a person asked for another version than the pinned one.
        """
        with self._exclusive():
            self.get(version_id)
            state = self._state()
            if state["version"] == version_id:
                return True  # a job that was killed behind this line comes here again
            held = state["pinned"]
            if held and verdict is not None:
                self._append({"kind": "kept", "version": version_id, "by": by, "verdict": verdict,
                              "reason": f"Version {state['version']} is pinned, so {version_id} waits: {reason}"})
                return False
            if held:
                raise RequestError(409, f"Version {state['version']} is pinned; unpin it before another version is "
                                        "published.")
            self._switch(state, version_id, state["pinned"],
                         {"kind": "published", "by": by, "reason": reason, "verdict": verdict})
            return True

    def rollback(self, by: str) -> Version:
        """Publish the version that was published before the present one; repeated, it walks further back.

        Raises:
            RequestError: 409, there is none, or the present one is pinned.
        """
        with self._exclusive():
            state = self._state()
            if state["pinned"]:
                raise RequestError(409, f"Version {state['version']} is pinned; unpin it before you roll back.")
            if not (earlier := self.previous):
                raise RequestError(409, "There is no earlier published version to go back to.")
            event = {"kind": "rolled back", "by": by, "from": state["version"],
                     "reason": f"{by} went back from {state['version']} to {earlier[0]}."}
            self._switch({**state, "version": None, "previous": earlier[1:]}, earlier[0], False, event)
            return self.get(earlier[0])

    def pin(self, version_id: str | None, by: str) -> None:
        """Publish a version and hold it until it is unpinned (None): nothing else is published by itself.

        Raises:
            RequestError: 404, no such version; 409, nothing is pinned that could be unpinned.
        """
        with self._exclusive():
            state = self._state()
            if version_id is None:
                if not state["pinned"]:
                    raise RequestError(409, "No version is pinned.")
                self._switch(state, state["version"], False,
                             {"kind": "unpinned", "by": by, "reason": f"{by} unpinned version {state['version']}."})
                return
            self.get(version_id)
            self._switch(state, version_id, True,
                         {"kind": "pinned", "by": by, "reason": f"{by} pinned version {version_id}."})

    def record(self, kind: str, **facts: Any) -> None:
        """Add an event to the history, such as ``record("refused", version="0004", by="gate", reason=…)``."""
        with self._exclusive():
            self._append({"kind": kind, **facts})

    def annotate(self, version_id: str, **facts: Any) -> Version:
        """Add facts to a version's version.json, such as its verdict.

        Raises:
            RequestError: 404, no such version.
        """
        with self._exclusive():
            version = self.get(version_id)
            durable_json(version.path / "version.json", {**version.facts, **facts, "id": version.id})
            return self.get(version_id)

    # --------------------------------------------------------------------------------------------------- inner

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One change at a time, among threads and processes; the system frees the lock of a killed process."""
        self.root.mkdir(parents=True, exist_ok=True)
        with self._lock, open(self.root / ".lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _path(self, version_id: str) -> Path:
        return self.root / "versions" / version_id

    def _ids(self) -> list[str]:
        try:
            names = os.listdir(self.root / "versions")
        except FileNotFoundError:
            return []
        return sorted((name for name in names if is_version_id(name)), key=int)

    def _load(self, version_id: str) -> Version | None:
        try:
            return Version.load(self._path(version_id))
        except (OSError, ValueError) as error:
            if self._path(version_id).is_dir():
                logger.warning("version %s cannot be used: %s", version_id, error)
            return None

    def _state(self) -> dict[str, Any]:
        return read_state(self.root)

    def _switch(self, state: Mapping[str, Any], version_id: str, pinned: bool, event: Mapping[str, Any]) -> None:
        self._settle()
        previous = [other for other in (state["version"], *state["previous"]) if other and other != version_id]
        outcome = {"version": version_id, "pinned": pinned, "previous": list(dict.fromkeys(previous))[: self.keep]}
        event = self._stamped({"version": version_id, **event, "state": outcome})
        # The event travels inside, so that a kill between the two writes loses no history.
        durable_json(self.root / "published.json", {**outcome, "event": event})
        append_json_line(self.root / "events.jsonl", event)

    def _stamped(self, event: Mapping[str, Any]) -> dict[str, Any]:
        return as_json({"event": uuid.uuid4().hex, "when": utc(self.clock()), **event})

    def _append(self, event: Mapping[str, Any]) -> None:
        self._settle()
        append_json_line(self.root / "events.jsonl", self._stamped(event))

    def _settle(self) -> None:
        """Write the event of a switch whose process was killed before it could."""
        event = self._unwritten(self._state(), read_json_lines(self.root / "events.jsonl"))
        if event is not None:
            append_json_line(self.root / "events.jsonl", event)

    @staticmethod
    def _unwritten(state: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        event = state["event"]
        if not event or any(event.get("event") == written.get("event") for written in events):
            return None
        return event

    def _create(self, parts: Mapping[str, Path | bytes], facts: Mapping[str, Any]) -> Version:
        with self._exclusive():
            self._clear_leftovers()
            version_id = self._next_id()
            folder = self.root / "versions" / f".new-{version_id}"
            try:
                fill_folder(folder, parts, {"created": utc(self.clock()), **facts, "id": version_id})
                os.rename(folder, self._path(version_id))
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            sync(self.root / "versions")
            version = self.get(version_id)
            self._append({"kind": "created", "version": version_id, "facts": dict(version.facts)})
            self._thin()
            return version

    def _next_id(self) -> str:
        """The next number, written down before it is used: no id is given twice, not even after a removal."""
        file = self.root / "last_id"
        known = [int(version_id) for version_id in self._ids()]
        known += [int(event["version"]) for event in self.history() if is_version_id(event.get("version"))]
        with suppress(FileNotFoundError, ValueError):  # the history and the folders know the rest
            known.append(int(file.read_text()))
        number = max(known, default=0) + 1
        durable_write(file, lambda temporary: temporary.write_text(f"{number}\n"))
        return f"{number:04d}"

    def _thin(self) -> None:
        state = self._state()
        kept = {state["version"], *state["previous"], *self._ids()[-self.keep :]}
        for version_id in self._ids():
            if version_id not in kept:
                # First out of sight in one step: nobody must find half a version.
                hidden = self.root / "versions" / f".old-{version_id}"
                os.rename(self._path(version_id), hidden)
                shutil.rmtree(hidden, ignore_errors=True)
                self._append({"kind": "removed", "version": version_id, "reason": "Old and not published."})

    def _clear_leftovers(self) -> None:
        for folder in (self.root / "versions").glob(".*"):
            shutil.rmtree(folder, ignore_errors=True)
