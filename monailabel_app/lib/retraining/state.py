"""The policy's state in a file, which outlives the server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lib.durable import durable_json
from lib.retraining.policy import PolicyState

__all__ = ["StateStore"]

LAST_SECOND = 2.5e11  # no later time of day exists for datetime


@dataclass
class StateStore:
    """The policy's state in a file, of which this process is the only writer.

    A broken file is set aside and told about; it never stops the server, and switches retraining off: perhaps it was.

    Args:
        path: state.json of the workspace.
        tell: called with a sentence when the file was broken (``lambda text: registry.record("failed", reason=text)``).
    """

    path: Path
    tell: Callable[[str], Any] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _last: PolicyState | None = field(default=None, init=False, repr=False)

    def load(self) -> PolicyState:
        """The state; a fresh one when there was never a file, one that is off when the file was broken.

        Raises:
            OSError: the file cannot be read now, and was not before.
        """
        with self._lock:
            return self._load()

    def save(self, state: PolicyState) -> None:
        """Replace the state; it has reached the disk when the call returns."""
        with self._lock:
            self._save(state)

    def change(self, step: Callable[[PolicyState], PolicyState]) -> PolicyState:
        """Load, change and save, without another thread in between: ``store.change(lambda s: s.label_saved(id))``."""
        with self._lock:
            before = self._load()
            after = step(before)
            if after != before:
                self._save(after)
            return after

    def _save(self, state: PolicyState) -> None:
        durable_json(self.path, asdict(state))
        self._last = state

    def _load(self) -> PolicyState:
        try:
            content = Path(self.path).read_bytes()
        except OSError as error:  # away for a moment, or too many files are open: the state is what it was
            if self._last is None and not isinstance(error, FileNotFoundError):
                raise
            return self._last or PolicyState()
        try:
            self._last = _state_of(json.loads(content))
        except (ValueError, RecursionError) as error:
            self._last = PolicyState(on=False)
            self._set_aside(error)
        return self._last

    def _set_aside(self, error: Exception) -> None:
        aside = Path(self.path).with_suffix(".broken.json")
        try:
            Path(self.path).replace(aside)
            durable_json(self.path, asdict(PolicyState(on=False)))
        except OSError:
            aside = aside if aside.exists() else Path(self.path)
        if self.tell is not None:
            self.tell(f"The retraining state {self.path} could not be read ({str(error)[:80]}); it begins anew and is "
                      f"off until somebody switches it on, the old file is {aside.name}.")


def _state_of(content: Any) -> PolicyState:
    if not isinstance(content, Mapping):
        raise ValueError("no JSON object")
    known = {name.name for name in fields(PolicyState)}
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
              if key in known}
    for key, kinds in _KINDS.items():
        if key in values and not (isinstance(values[key], kinds) and _sound(values[key])):
            raise ValueError(f"{key} is {values[key]!r:.40}")
    return PolicyState(**values)


def _sound(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(isinstance(part, str) for part in value)
    return not isinstance(value, (int, float)) or 0 <= value < LAST_SECOND


_KINDS: Mapping[str, tuple[type, ...]] = {
    "on": (bool,),
    "waiting": (tuple,),
    "in_run": (tuple,),
    "last_end": (int, float, type(None)),
    "asked_by": (str, type(None)),
    "from_scratch": (bool,),
    "failures": (int,),
    "again": (bool,),
}
