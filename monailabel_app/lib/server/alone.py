"""One server on a folder of scans, and one in a workspace.

Two servers on one folder do not see each other's labels, and each writes the index of the folder as it knows it.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

from mnseg.errors import UserError

__all__ = ["only_server_of", "only_server_on"]

_locks: dict[Path, Any] = {}  # held as long as the process lives


def only_server_on(studies: str | Path) -> None:
    """Hold a folder of scans until the process ends, whatever the workspace is.

    Raises:
        UserError: another server holds it, or nothing can be written in it.
    """
    path = Path(studies).resolve() / ".mnseg.lock"
    try:
        held = _hold(path)
    except OSError as error:
        raise UserError(f"{studies} cannot be written to ({error.strerror}), but labels are kept in it: change its "
                        "permissions, or copy the scans.") from error
    if not held:
        raise UserError(f"Another server uses the scans in {studies}: stop it, or use that one; two servers on one "
                        "folder would lose labels.")


def only_server_of(workspace: Path) -> None:
    """Make the workspace, and hold it until the process ends.

    Raises:
        UserError: another server holds it, or nothing can be written in it.
    """
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        held = _hold(workspace / ".server.lock")
    except OSError as error:
        raise UserError(f"The workspace {workspace} cannot be written to ({error.strerror}): name another folder with "
                        "--conf workspace.") from error
    if not held:
        raise UserError(f"Another server uses the workspace {workspace}: stop it, or, if that one's scans are others, "
                        "name another folder with --conf workspace.")


def _hold(path: Path) -> bool:
    """Whether the file is locked by us; the system frees it even when the process is killed."""
    if path in _locks:
        return True
    file = open(path, "w")  # noqa: SIM115, it stays open
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    except OSError:
        file.close()
        raise
    _locks[path] = file
    return True
