"""Writing files whole or not at all; telling whether a file has changed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from mnseg.errors import UserError

__all__ = [
    "Stamp",
    "atomic_save",
    "atomic_write",
    "parts_of",
    "read_json",
    "require_writable",
    "save_tensors",
    "shared_write",
    "stamp_of",
]


def atomic_write(path: str | Path, write: Callable[[Path], Any]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, then rename it: readers never see half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One name for all attempts: what a killed process leaves behind is overwritten by the next.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # a full disk is reported without the file's name
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    return path


def shared_write(path: str | Path, write: Callable[[Path], Any]) -> Path:
    """`atomic_write` where several processes may write the same file at once: each fills a file of its own."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not mkstemp, whose files are for their owner alone.
    temporary = path.with_name(f".{uuid4().hex}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def save_tensors(content: Any, path: str | Path) -> None:
    """``torch.save``, whose words for a full disk, a wrong position in its file, become an ``OSError``."""
    import torch  # here, so that commands that save no tensors start quickly

    try:
        torch.save(content, path)
    except RuntimeError as error:
        if not any(words in str(error) for words in ("unexpected pos", "PytorchStreamWriter", "iostream error")):
            raise
        free = shutil.disk_usage(Path(path).parent).free / 2**20
        raise OSError(errno.ENOSPC, f"the disk may be full, {free:.0f} MiB are left", str(path)) from error


def atomic_save(content: Any, path: str | Path) -> Path:
    """``torch.save``, whole or not at all; ``content`` must load with ``weights_only=True``.

    Raises:
        UserError: the disk is full.
    """
    try:
        return atomic_write(path, lambda temporary: save_tensors(content, temporary))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise UserError(f"{path} cannot be written ({error.strerror}).") from error


def read_json(path: str | Path, what: str) -> Any:
    """The content of a JSON file that a person may have written; ``what`` names its kind for the error.

    Raises:
        UserError: not JSON, a key twice in one object (the first would be lost silently), or nested too deeply.
        OSError: the file is missing or cannot be read.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise UserError(f'{what} {path} has the key "{twice}" twice in one object; keep one.')
        return content

    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(f"{what} {path} cannot be read ({error}).") from error
    except RecursionError as error:
        raise UserError(f"{what} {path} is nested too deeply.") from error
    except ValueError as error:  # also numbers with thousands of digits
        raise UserError(f"{what} {path} is not valid JSON: {error}.") from error


def require_writable(path: str | Path) -> None:
    """Raise a `UserError` when the file ``path`` could not be written; nothing is created.

    Long work asks before it starts. The nearest folder that exists must allow the missing ones to be made.
    """
    path = Path(os.path.abspath(path))
    if path.is_dir():
        raise UserError(f"{path} is a folder; name the file to write.")
    folder = next(parent for parent in path.parents if os.path.lexists(parent))
    if not folder.is_dir():
        raise UserError(f"{path} cannot be written: {folder} is not a folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be written: {folder} may not be written to.")


class Stamp(NamedTuple):
    """One file of a scan as the file system describes it; times in ns."""

    name: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


def stamp_of(path: str | Path) -> list[Stamp]:
    """Marks of all files that a scan consists of, without reading them: equal marks, equal scan.

    Raises:
        OSError: there is no such file, or it is no regular one.
    """
    return [_stamp(part) for part in parts_of(path)]


def _stamp(part: Path) -> Stamp:
    found = part.stat()
    if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for without end
        raise OSError(errno.EINVAL, "no regular file", str(part))
    return Stamp(part.name, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def parts_of(path: str | Path) -> list[Path]:
    """The files that a scan consists of, sorted.

    A folder (a DICOM series) consists of its files; a header (.mhd, .nhdr) also of the data files beside it that it
    names, and of those with its stem.

    Raises:
        OSError: the folder cannot be read.
    """
    from mnseg.data.itk_headers import data_files  # here, since mnseg.data imports this module

    path = Path(path)
    if path.is_dir():
        return sorted(part for part in path.iterdir() if part.is_file())
    if path.suffix.lower() in (".mhd", ".nhdr"):
        stem = path.stem.split(".")[0]
        parts = [part for part in path.parent.iterdir() if part.name.split(".")[0] == stem and part.is_file()]
        return sorted({path, *parts, *data_files(path)})
    return [path]
