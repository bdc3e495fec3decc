"""Scans of sessions are patients' data: they go when they expire, also those of a server that was stopped or killed.

MONAI Label looks for expired sessions only once this process has made one, and gives up for good at a session whose
facts were not yet written when the server was killed.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

from monailabel.utils.sessions import SessionInfo, Sessions

__all__ = ["SESSION", "remove_expired"]

SESSION = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

logger = logging.getLogger(__name__)


def remove_expired(sessions: Sessions, clock: Callable[[], float] = time.time) -> int:
    """Remove expired sessions from the disk, whoever made them; never fails.

    Args:
        sessions: of the server. What else lies in their folder is left alone.
        clock: seconds since 1970.

    Returns:
        How many there were.
    """
    count = 0
    try:
        folders = [folder for folder in Path(sessions.store_path).iterdir() if SESSION.fullmatch(folder.name)]
    except FileNotFoundError:  # there was no session yet
        folders = []
    except OSError:
        logger.exception("expired sessions cannot be looked for in %s", sessions.store_path)
        folders = []
    for folder in folders:
        try:
            if _end_of(folder, sessions.expiry) < clock():
                sessions.remove_session(folder.name)  # which says nothing when it cannot
                if folder.exists():
                    raise OSError("some of its files are still there")
                count += 1
        except Exception:  # the others must not wait
            logger.exception("the session %s cannot be removed", folder)
    return count


def _end_of(folder: Path, expiry: float) -> float:
    """When a session expires, seconds since 1970; where its facts cannot be read, by the age of its files.

    They are written in place: a reader may meet half of them in a session that somebody uses at this moment.
    """
    try:
        facts = SessionInfo(json.loads((folder / "meta.info").read_bytes()))
        return facts.last_access_ts + (facts.expiry or expiry)
    except (OSError, ValueError, TypeError, AttributeError):
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir())) + expiry
