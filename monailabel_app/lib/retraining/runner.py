"""The command that a training is at: one at a time, to be paused, resumed and stopped from other threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lib.trainers.process import Child, StoppedError

__all__ = ["Runner"]


class Runner:
    """Runs commands for the thread that works, and obeys the others.

    paused: an inference has priority; what starts meanwhile waits. stopping: somebody ended the training. closing: the
    server ends. lines: the last ones that the newest command printed.
    """

    def __init__(self) -> None:
        self.paused = self.stopping = self.closing = False
        self.lines: Sequence[str] = ()
        self._child: Child | None = None
        self._hold = threading.RLock()  # an inference waits for it, so it is never held for long

    @property
    def ended(self) -> bool:
        """Whether no further command may start."""
        return self.stopping or self.closing

    def begin(self) -> None:
        """Before the first command of a training."""
        self.lines, self.stopping = (), False

    def run(self, command: Sequence[str], folder: Path, env: Mapping[str, str], started: Callable[[int], None]) -> None:
        """Run a command to its end.

        Args:
            command: program and arguments.
            folder: where its log goes.
            env: its environment.
            started: gets its process id.

        Raises:
            StoppedError: it was stopped, or must not start any more.
            ChildError: it failed.
        """
        child = Child(command, folder, env, started)
        with self._hold:
            if self.ended:
                raise StoppedError
            self._child, self.lines = child, child.lines
            if self.paused:
                child.pause()
        try:
            child.run()
        finally:
            with self._hold:
                self._child = None

    def pause(self) -> None:
        with self._hold:
            self.paused = True
            if self._child is not None:
                self._child.pause()

    def resume(self) -> None:
        with self._hold:
            self.paused = False
            if self._child is not None:
                self._child.resume()

    def stop(self) -> None:
        """End the training that the command belongs to."""
        self._end("stopping")

    def close(self) -> None:
        """End the command because the server ends; its training is gone on with later."""
        self._end("closing")

    def _end(self, why: str) -> None:
        with self._hold:
            setattr(self, why, True)
            child = self._child
        if child is not None:  # it may take seconds, in which an inference must not wait
            child.stop()
