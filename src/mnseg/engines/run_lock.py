"""One training a folder: a second one would write over the first one's files."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import ClassVar

from mnseg.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["RunLock"]


class RunLock:
    """Holds a folder for this process until ``release``, or until the process ends, however it ends.

    The folder itself is locked (``flock``), so that no file is left behind. Where the system has no such locks
    (Windows, some network file systems) nothing is held. A process may hold a folder as often as it likes, until the
    first ``release``: one training of it that broke off does not keep out the next.
    """

    _held: ClassVar[dict[Path, int]] = {}

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(os.path.realpath(folder))
        self._made = False

    def hold(self) -> None:
        """Take the folder, which is made where it does not exist.

        Raises:
            UserError: another training holds it.
        """
        if self.folder in self._held or fcntl is None:
            return
        self._made = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise UserError(
                    f"{self.folder} belongs to a training that still runs: wait for it, end it, or set run_dir to a "
                    "new folder."
                ) from None
        else:
            self._held[self.folder] = descriptor

    def release(self) -> None:
        """Let others have the folder; one that was made for the lock alone goes."""
        if (descriptor := self._held.pop(self.folder, None)) is not None:
            if self._made:
                with contextlib.suppress(OSError):  # there is something in it
                    self.folder.rmdir()
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing would leave it to what was forked meanwhile
            os.close(descriptor)

    @classmethod
    def _forked(cls) -> None:
        """A worker process outlives a killed training for seconds, and must not hold its folder."""
        for descriptor in cls._held.values():
            os.close(descriptor)
        cls._held.clear()


if fcntl is not None:
    os.register_at_fork(after_in_child=RunLock._forked)
