"""Digests of the bytes of scans, remembered so that a second start does not read them all again."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path

from mnseg.errors import UserError
from mnseg.files import parts_of, shared_write, stamp_of

__all__ = ["ContentDigests"]

logger = logging.getLogger(__name__)

# A file that is written twice within one tick of the file system's clock has the same times both times, so the mark
# of a file that has just been written proves nothing yet.
SETTLED_NS = 2_000_000_000


class ContentDigests:
    """Digest of the bytes that a scan consists of; read again only where the file system says that they may be others.

    ``digests.json`` in the folder holds each scan's digest beside the size, modification time, change time and inode
    of its files (`stamp_of`). Programs can set the modification time back; the change time they cannot.

    Args:
        folder: where ``digests.json`` lies. Runs may share it: entries that two write at once are computed again.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / "digests.json"
        self.known = self._read()
        self.fresh: dict[str, list[str]] = {}

    def of(self, path: str | Path) -> str:
        """Digest (32 hexadecimal digits) of a file, of the files of a folder, or of a header with its data files.

        Raises:
            OSError: there is no such file, or it cannot be read.
        """
        name = str(Path(path).absolute())
        began = time.time_ns()
        stamp = stamp_of(path)
        mark = hashlib.sha256(json.dumps(stamp).encode()).hexdigest()[:32]
        if (entry := self.known.get(name)) and entry[0] == mark:
            return entry[1]
        digest = _digest(path)
        if max((max(part.mtime_ns, part.ctime_ns) for part in stamp), default=0) < began - SETTLED_NS:
            self.known[name] = self.fresh[name] = [mark, digest]
        return digest

    def save(self) -> None:
        """Write what is new, and keep what others have written in the meantime.

        Raises:
            UserError: when the folder cannot be written.
        """
        if not self.fresh:
            return
        text = json.dumps(self._read() | self.fresh)
        try:
            shared_write(self.path, lambda path: path.write_text(text, encoding="utf-8"))
        except OSError as error:
            message = f"{self.path} cannot be written ({error.strerror}): set cache_dir to another folder."
            raise UserError(message) from error
        self.fresh = {}

    def _read(self) -> dict[str, list[str]]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return {name: [str(mark), str(digest)] for name, (mark, digest) in content.items()}
        except (FileNotFoundError, NotADirectoryError):  # the latter is said when something is written there
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning("%s cannot be read (%s): all scans are read again.", self.path, error)
            return {}


def _digest(path: str | Path) -> str:
    whole = hashlib.sha256()
    parts = parts_of(path)
    for part in parts:
        with open(part, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{part.name if len(parts) > 1 else ''}:{digest}\n".encode())
    return whole.hexdigest()[:32]
