"""Files that survive a killed process and a power cut: written whole, flushed to the disk, then renamed.

``mnseg.files.atomic_write`` renames; here the content and the folder's entry also reach the disk before the call
returns, and threads that write one file wait for each other (its temporary name is the same for all).
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mnseg.files import atomic_write

__all__ = [
    "append_json_line",
    "as_json",
    "durable_json",
    "durable_write",
    "read_json_lines",
    "sync",
    "utc",
]

# A fixed number of locks, chosen by path: a lock for every file ever written would never be freed.
_LOCKS = [threading.Lock() for _ in range(64)]


def _lock_of(path: Path) -> threading.Lock:
    return _LOCKS[hash(os.path.abspath(path)) % len(_LOCKS)]


def sync(path: str | Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def durable_write(path: str | Path, write: Callable[[Path], Any]) -> Path:
    """``atomic_write`` that has reached the disk when it returns; ``write`` fills the temporary file that it is given.

    A process killed at any moment leaves the old file or the new one. ``write`` must not write durably itself.
    """
    path = Path(path)

    def synced(temporary: Path) -> None:
        write(temporary)
        sync(temporary)

    with _lock_of(path):
        atomic_write(path, synced)
        sync(path.parent)
    return path


def durable_json(path: str | Path, content: Any) -> Path:
    """`durable_write` of JSON; see `as_json`."""
    text = json.dumps(as_json(content), indent=1, ensure_ascii=False, allow_nan=False)
    return durable_write(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


def append_json_line(path: str | Path, content: Mapping[str, Any]) -> None:
    """Add one line of JSON to a file; it has reached the disk when the call returns.

    What a killed process left of a line is closed by a line break, and `read_json_lines` leaves it out.
    """
    path = Path(path)
    line = json.dumps(as_json(content), ensure_ascii=False, allow_nan=False).encode() + b"\n"
    with _lock_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with open(path, "ab+") as file:
            if _ends_in_midst_of_a_line(file):
                line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync(path.parent)


def _ends_in_midst_of_a_line(file: Any) -> bool:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return False
    file.seek(size - 1)
    return file.read(1) != b"\n"


def read_json_lines(path: str | Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, oldest first; lines that are none are left out, a missing file has none."""
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    return [content for line in lines if (content := _object_of(line)) is not None]


def _object_of(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def utc(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 text in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(seconds))


def as_json(content: Any) -> Any:
    """Content that any JSON parser reads: NaN and infinity become null, sets sorted lists, NumPy numbers numbers."""
    if isinstance(content, Mapping):
        return {str(key): as_json(value) for key, value in content.items()}
    if isinstance(content, (set, frozenset)):
        return sorted(as_json(value) for value in content)
    if isinstance(content, (list, tuple)):
        return [as_json(value) for value in content]
    if isinstance(content, Path):
        return str(content)
    if hasattr(content, "tolist"):
        return as_json(content.tolist())
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
