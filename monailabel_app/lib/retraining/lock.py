"""One trainer a workspace, also when two servers were started on it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import threading
from pathlib import Path
from typing import IO

__all__ = ["WorkspaceLock", "end_leftover"]


class WorkspaceLock:
    """A file that says which process trains here. The system frees the lock of a process that was killed, so that a
    number left in the file is known to be stale.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._file: IO[str] | None = None
        self._guard = threading.Lock()

    def take(self) -> bool:
        """Whether it is ours now; it stays so until `free`, or the end of the process."""
        with self._guard:
            return self._file is not None or self._take()

    def _take(self) -> bool:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = open(self.path, "a+")  # noqa: SIM115, it stays open as long as the lock is ours
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._file = file
        return True

    def holder(self) -> str:
        """Process id of whoever has it, as far as the file tells."""
        try:
            return self.path.read_text().strip() or "unknown"
        except OSError:
            return "unknown"

    def free(self) -> None:
        """Let others have it."""
        with self._guard:
            if self._file is not None:
                self._file.close()
                self._file = None


def end_leftover(pid: int | None, folder: Path) -> None:
    """Kill what a killed server left running in a run's folder, where the system has not done so itself."""
    if pid is None:
        return
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return
    if str(folder) in command:  # the number may belong to another process by now
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
