"""Who has which scan open, so that several readers get different ones."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lib.errors import RequestError
from lib.storable import require_storable
from mnseg.files import atomic_write

__all__ = ["Offer", "Reservation", "Reservations", "SHARED_CLIENTS"]

logger = logging.getLogger(__name__)

# Every Slicer whose user has not set a name sends "user-xyz": no two requests of it need come from one person.
SHARED_CLIENTS = frozenset({"", "user-xyz"})
PASSED_MINUTES = 24 * 60
# A list of unlabeled scans that was read before a label came may be used so much later.
STALE_SECONDS = 60


@dataclass(frozen=True)
class Reservation:
    """A scan that a client has open: since, and until when it is kept for that client (seconds, as of the clock)."""

    image: str
    client: str
    since: float
    until: float


@dataclass(frozen=True)
class Offer:
    """A scan given to a client. ``note`` tells what is unusual about it, "" if nothing is."""

    image: str
    note: str
    until: float


class Reservations:
    """Scans that are open, by client; safe to use from several threads.

    A client has one scan at a time: who asks for another has put the last one back, and is not offered that one again
    for a day as long as there are others. Clients that share a name (``SHARED_CLIENTS``) keep each scan until its time
    is over or its label is saved.

    Args:
        minutes: a scan is kept for a client so long after it was last offered or used.
        clock: seconds; in tests, a fake one.
        path: reservations are kept here over a restart of the server; None: in memory only. Of a broken file what can
            be used is taken.
    """

    def __init__(
        self, minutes: float = 30, clock: Callable[[], float] = time.time, path: str | Path | None = None
    ) -> None:
        self.seconds = minutes * 60
        self.clock = clock
        self.path = None if path is None else Path(path)
        self._lock = threading.RLock()
        self._open: dict[str, Reservation] = {}
        self._passed: dict[str, dict[str, float]] = {}
        self._done: dict[str, float] = {}
        self._load()

    def offer(
        self, client: str, images: Iterable[str], choose: Callable[[Sequence[str], Sequence[str]], str]
    ) -> Offer | None:
        """Choose a scan for a client and keep it for them; None when there is no scan at all.

        When all are open with others, the one that has been open longest is given, with a note.

        Args:
            client: who asks.
            images: the unlabeled scans.
            choose: called with the scans to choose from and those that others have open; it must not ask for a lock
                that a caller of this object holds.

        Raises:
            RequestError: 400, the client's name cannot be stored.
        """
        require_storable(client, "The client's name")
        with self._lock:
            self._expire()
            images = [image for image in images if image not in self._done]
            if not images:
                return None
            self._put_back(client)
            others = [image for image in self._open if image in set(images)]
            free = [image for image in images if image not in self._open]
            passed = self._passed.get(client, {})
            fresh = [image for image in free if image not in passed]
            note = ""
            if fresh:
                image = choose(fresh, others)
            elif free:
                image = min(free, key=lambda name: passed[name])
                note = "you have had this scan before; there is no other free one"
            else:
                image = min(others, key=lambda name: self._open[name].since)
                minutes = max(0, (self.clock() - self._open[image].since) / 60)
                note = f"every scan is open with somebody; this one has been for {minutes:.0f} min, the longest"
            until = self._keep(image, client)
            return Offer(image, note, until)

    def hold(self, image: str, client: str) -> bool:
        """A client uses a scan (say, predicts it): it becomes theirs if nobody else has it, and their time starts anew.

        Returns:
            Whether it is theirs now.

        Raises:
            RequestError: 400, the client's name cannot be stored.
        """
        require_storable(client, "The client's name")
        with self._lock:
            self._expire()
            current = self._open.get(image)
            if current is not None and current.client != client:
                return False
            self._keep(image, client)
            return True

    def release(self, image: str) -> None:
        """Its label was saved (call it after the datastore has it), or the scan is gone."""
        with self._lock:
            self._expire()
            self._done[image] = self.clock()
            for passed in self._passed.values():
                passed.pop(image, None)
            if self._open.pop(image, None) is not None:
                self._save()

    def current(self) -> dict[str, Reservation]:
        """What is open now, by image."""
        with self._lock:
            self._expire()
            return dict(self._open)

    def _keep(self, image: str, client: str) -> float:
        now = self.clock()
        before = self._open.get(image)
        since = before.since if before is not None and before.client == client else now
        self._open[image] = Reservation(image, client, since, now + self.seconds)
        self._save()
        return now + self.seconds

    def _put_back(self, client: str) -> None:
        if client in SHARED_CLIENTS:
            return
        for image in [image for image, kept in self._open.items() if kept.client == client]:
            del self._open[image]
            self._passed.setdefault(client, {})[image] = self.clock()

    def _expire(self) -> None:
        """Drop what is over. A clock that was set back must not keep a scan longer: no time lies in the future."""
        now = self.clock()
        latest = now + self.seconds
        kept = [replace(one, since=min(one.since, now), until=min(one.until, latest)) for one in self._open.values()]
        self._open = {one.image: one for one in kept if one.until > now}
        self._done = _until(now, self._done, STALE_SECONDS)
        passed = {client: _until(now, images, PASSED_MINUTES * 60) for client, images in self._passed.items()}
        self._passed = {client: images for client, images in passed.items() if images}

    def _save(self) -> None:
        if self.path is None:
            return
        text = json.dumps([asdict(kept) for kept in self._open.values()], indent=1)
        try:
            atomic_write(self.path, lambda path: path.write_text(text))
        except OSError as error:  # a full disk must not keep anybody from labeling
            logger.warning("%s cannot be written (%s): open scans are forgotten at a restart", self.path, error)

    def _load(self) -> None:
        if self.path is None or not self.path.exists():
            return
        try:
            entries = json.loads(self.path.read_text())
            if not isinstance(entries, list):
                raise ValueError("no list")
        except (OSError, ValueError, RecursionError) as error:
            logger.warning("%s cannot be read (%s): no scan counts as open", self.path, error)
            return
        known = [known for entry in entries if (known := _reservation(entry)) is not None]
        self._open = {kept.image: kept for kept in known}
        if len(known) < len(entries):
            logger.warning("%s: %d entries are none and left out", self.path, len(entries) - len(known))


def _until(now: float, times: Mapping[str, float], seconds: float) -> dict[str, float]:
    """The newest of these times; one that lies behind a clock that was set back counts as now."""
    return {image: min(at, now) for image, at in times.items() if at > now - seconds}


def _reservation(entry: Any) -> Reservation | None:
    """An entry of the file; None for what would break an answer that shows it."""
    try:
        kept = Reservation(entry["image"], entry["client"], float(entry["since"]), float(entry["until"]))
        require_storable(asdict(kept), "An entry")
    except (ValueError, TypeError, KeyError, OverflowError, RequestError):
        return None
    return kept if isinstance(kept.image, str) and isinstance(kept.client, str) else None
