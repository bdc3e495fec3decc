"""A thread that looks when something has happened, and now and then: not once for each of a thousand events."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Lookout"]

LOOK_SECONDS = 30.0  # an operating system does not tell of everything, least of all on a share
PAUSE_SECONDS = 1.0


class Lookout:
    """Calls ``look`` soon after `notice`, at most once in ``PAUSE_SECONDS``, and every ``LOOK_SECONDS`` in any case.

    Args:
        look: must not raise.
        name: of the thread.
    """

    def __init__(self, look: Callable[[], Any], name: str) -> None:
        self.look = look
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Begin; what was noticed before is looked at now."""
        self._thread.start()

    def notice(self) -> None:
        """Something has happened; returns at once."""
        self._news.set()

    def _work(self) -> None:
        while True:
            self._news.wait(LOOK_SECONDS)
            self._news.clear()  # before the look: what happens meanwhile is looked at again
            self.look()
            time.sleep(PAUSE_SECONDS)
