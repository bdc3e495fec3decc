"""The thread that keeps the server's labels and the DICOM server's segmentations together."""

from __future__ import annotations

import itertools
import logging
import threading
from typing import Any

from lib.datastores.pacs import PacsError
from lib.durable import utc
from lib.errors import RequestError
from lib.labels.seg_export import SegExport
from lib.labels.seg_import import SegImport
from lib.labels.seg_journal import SegJournal

__all__ = ["PacsSync"]

logger = logging.getLogger(__name__)

THOROUGH_TURN = 20  # every so often a request for each series of segmentations


class PacsSync:
    """Stores owed labels and looks for new segmentations: every ``seg_interval`` seconds, when a label is saved, and
    when somebody asks.

    Args:
        app: with a `lib.datastores.dicomweb.DicomScans`.
        interval: seconds.
    """

    def __init__(self, app: Any, interval: float) -> None:
        self.app, self.interval = app, interval
        self.journal = SegJournal(app.app_conf.workspace / "segs.jsonl")
        self.imports, self.exports = SegImport(app, self.journal), SegExport(app, self.journal)
        self.fault, self.looked = "", ""
        self._wake, self._turn = threading.Event(), threading.Lock()

    def start(self) -> None:
        """Begin to work."""
        threading.Thread(target=self._work, name="pacs", daemon=True).start()

    def wake(self) -> None:
        """Work now and not at the next turn; returns at once."""
        self._wake.set()

    def now(self, thorough: bool = True) -> list[dict[str, Any]]:
        """Store and look at once; returns what was found.

        Args:
            thorough: see `lib.labels.seg_import.SegImport.run`.

        Raises:
            PacsError: the server does not answer.
        """
        with self._turn:
            try:
                found = self._exchange(thorough)
            except RequestError as error:
                if not self.fault:
                    logger.warning("%s Labels wait here until it does.", error.sentence)
                self.fault = error.sentence
                raise
            if self.fault:
                logger.info("the DICOM server answers again")
            self.fault, self.looked = "", utc(self.journal.clock())
            return found

    def _exchange(self, thorough: bool) -> list[dict[str, Any]]:
        """A label that cannot go out keeps neither others nor those that come in waiting."""
        try:
            self.exports.run()
        except PacsError:
            found = self.imports.run(thorough)  # raises where the server is away
            self.exports.hold_back()
            return found
        return self.imports.run(thorough)

    def status(self) -> dict[str, Any]:
        """What the page shows."""
        return {
            "server": self.app.datastore().pacs.url,
            "fault": self.fault,
            "looked": self.looked,
            "owed": sorted(self.app.datastore().owed()),
            "refused": dict(self.exports.refused),
            "failed": self.app.datastore().failed(),
            "aside": dict(self.imports.aside),
            "pending": [{**entry, "patient": self._patient(entry.get("image", ""))}
                        for entry in self.journal.all("pending")],
            "reports": self.journal.all("taken", "rejected", "ignored", "refused", "unreadable", "no scan")[-50:],
        }

    def _patient(self, image: str) -> str:
        series = self.app.datastore().series_of(image)
        return series.patient if series else ""

    def _work(self) -> None:
        for turn in itertools.count():
            self._wake.clear()
            try:
                self.now(thorough=turn % THOROUGH_TURN == 0)
            except RequestError:
                pass  # told once, and tried again
            except Exception:
                logger.exception("looking for segmentations goes on after an error")
            self._wake.wait(self.interval)
