"""One command of a training as a child process: behind the server in everything, and never without it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

__all__ = ["Child", "ChildError", "StoppedError", "last_sentence"]

LAUNCH = Path(__file__).with_name("launch.py")
NICENESS = 10
GRACE = 5.0
LINES = 200
LONGEST = 600

# MONAI Label's logging.json gives this logger to /logs.
logger = logging.getLogger("task_train")


class ChildError(Exception):
    """The command failed; the text is the sentence it ended with."""


class StoppedError(Exception):
    """The command was ended on request."""


class Child:
    """A command in a process group of its own: nice, killed with the server, to be paused and stopped as a whole.

    The kernel kills it when the thread that called `run` ends, so that thread must be one that lives as long.

    Args:
        command: program and arguments.
        folder: working directory; ``log.txt`` in it gets all that the command prints.
        env: additions to the server's environment.
        on_start: called with the process id.
        on_line: called with every line.
        grace: seconds between the request to end and the kill.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        env: Mapping[str, str] | None = None,
        on_start: Callable[[int], object] = lambda pid: None,
        on_line: Callable[[str], object] = lambda line: None,
        grace: float = GRACE,
    ) -> None:
        self.command = [str(part) for part in command]
        self.folder = Path(folder)
        self.env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self.on_start, self.on_line = on_start, on_line
        self.grace = grace
        self.lines: deque[str] = deque(maxlen=LINES)
        self._lock = threading.RLock()
        self._process: subprocess.Popen | None = None
        self._ended = threading.Event()
        self._stopped = self._paused = False

    def run(self) -> None:
        """Run the command to its end.

        Raises:
            ChildError: it failed.
            StoppedError: `stop` was called.
        """
        with self._lock:
            if self._stopped:
                raise StoppedError
            self._process = self._start()
            if self._paused:
                self._signal(signal.SIGSTOP)
        cleaner = threading.Thread(target=self._kill_what_is_left, daemon=True)
        cleaner.start()
        try:
            self.on_start(self._process.pid)
            self._follow()
        except BaseException:
            self._signal(signal.SIGKILL)
            raise
        finally:
            cleaner.join()
            with self._lock:
                code = self._process.wait()  # nobody else reaps it, so that its number is ours until here
            self._process.stdout.close()
            self._ended.set()
        if self._stopped:
            raise StoppedError
        if code != 0:
            raise ChildError(_why(code, list(self.lines)))

    def pause(self) -> None:
        """Stop the clock of all its processes; before `run`, it will begin paused."""
        with self._lock:
            self._paused = True
            self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        with self._lock:
            self._paused = False
            self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the command: asked first, killed after ``grace`` seconds. Returns when it has ended."""
        with self._lock:
            self._stopped = True
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)  # a paused process hears nothing but a kill
        if self._process is not None and not self._ended.wait(self.grace):
            with self._lock:
                self._signal(signal.SIGKILL)
            self._ended.wait()

    def _start(self) -> subprocess.Popen:
        launch = [sys.executable, str(LAUNCH), str(os.getpid()), str(NICENESS)]
        return subprocess.Popen(
            [*launch, *self.command],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,  # also splits at \r, which a progress bar writes
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )

    def _follow(self) -> None:
        with open(self.folder / "log.txt", "a", encoding="utf-8") as log:
            for line in self._process.stdout:
                line = line.rstrip()
                if not line:
                    continue
                self.lines.append(line)
                with contextlib.suppress(OSError):  # a full disk must not end the reading, or the child would hang
                    log.write(line + "\n")
                    log.flush()
                logger.info(line)
                self.on_line(line)

    def _kill_what_is_left(self) -> None:
        """When the command has ended, end what it started: it would hold the pipe open. Not yet reaped, the command
        keeps the number of the group from being given to others."""
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        """To all processes of the group; the group exists as long as one of them does."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)


def last_sentence(lines: Sequence[str]) -> str:
    """What a failed command wanted to say: mnseg's own sentence if there is one, else the error without traceback."""
    for position in range(len(lines) - 1, -1, -1):
        if lines[position].startswith("mnseg: "):
            text = " ".join(line.strip() for line in lines[position:])
            return _shortened(text.removeprefix("mnseg: "))
    for line in reversed(lines):
        if not line.startswith((" ", "Traceback", "\t")) and re.search(r"\w", line):
            return _shortened(line)
    return ""


def _why(code: int, lines: list[str]) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (perhaps the memory was used up)" if name == "SIGKILL" else ""
        return f"It was ended by the system with {name}{hint}."
    return last_sentence(lines) or f"It ended with exit code {code} and said nothing."


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
