"""SHA-256 of files that are asked for again and again, and seldom change."""

from __future__ import annotations

import os
from pathlib import Path

from lib.registry.parts import sha256_of

__all__ = ["StampedDigests"]


class StampedDigests:
    """Reads a file again only when its size, time or inode is another; what it knows ends with the process."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, int, int], str]] = {}

    def of(self, path: str | os.PathLike) -> str:
        """Raises: OSError, the file cannot be read."""
        stat = os.stat(path)
        stamp = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
        known = self._known.get(os.fspath(path))
        if known is None or known[0] != stamp:
            known = self._known[os.fspath(path)] = (stamp, sha256_of(Path(path)))
        return known[1]
