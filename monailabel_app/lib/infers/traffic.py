"""Inference first: training stands still while somebody waits for a mask, but not for ever.

A clinician waits for a mask, nobody waits for an epoch. On one GPU or a few cores both at once make both slow, so
whoever trains listens here, stops its processes when an inference begins and lets them go on when the last one ended.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Traffic"]

logger = logging.getLogger(__name__)


class Traffic:
    """Counts the inferences under way and tells listeners when the first begins and the last ends.

    Args:
        patience: seconds of uninterrupted inference after which training gets a turn all the same.
        turn: length of that turn, in seconds. With the defaults, readers who ask without a break leave a fifth of the
            time to training.

    Listeners are called one after another, in the order of the events, from several threads; they must be quick. What
    they raise is logged: a training that cannot be stopped must not cost anybody a mask.
    """

    def __init__(self, patience: float = 60.0, turn: float = 15.0) -> None:
        self.patience, self.turn = patience, turn
        self._lock = threading.RLock()
        self._listeners: list[tuple[Callable[[], object], Callable[[], object]]] = []
        self._count = 0
        self._holding = False
        self._timer: threading.Timer | None = None

    @property
    def busy(self) -> bool:
        """Whether an inference is under way."""
        return self._count > 0

    def listen(self, on_busy: Callable[[], object], on_idle: Callable[[], object]) -> None:
        """Have ``on_busy`` called when training should stop, ``on_idle`` when it may go on.

        A listener that comes while an inference runs is told at once.
        """
        with self._lock:
            self._listeners.append((on_busy, on_idle))
            if self._holding:
                _call(on_busy)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Around everything that somebody waits for."""
        with self._lock:
            self._count += 1
            if self._count == 1:
                self._hold()
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1
                if self._count == 0:
                    self._release()

    def _hold(self) -> None:
        self._holding = True
        for on_busy, _ in self._listeners:
            _call(on_busy)
        self._schedule(self.patience, self._give_turn)

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._holding:
            self._holding = False
            for _, on_idle in self._listeners:
                _call(on_idle)

    def _schedule(self, seconds: float, what: Callable[[threading.Timer], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        timer = threading.Timer(seconds, lambda: what(timer))
        timer.daemon = True
        self._timer = timer
        timer.start()

    def _give_turn(self, timer: threading.Timer) -> None:
        with self._lock:
            if timer is self._timer and self._count:  # else the last inference ended while we waited for the lock
                self._release()
                self._schedule(self.turn, self._take_back)

    def _take_back(self, timer: threading.Timer) -> None:
        with self._lock:
            if timer is self._timer and self._count:
                self._hold()


def _call(listener: Callable[[], object]) -> None:
    try:
        listener()
    except Exception:
        logger.exception("a listener of the traffic failed")
