"""published.json: which version is published, and what it says when the file is damaged."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.durable import read_json_lines

__all__ = ["read_state"]

logger = logging.getLogger(__name__)

NO_STATE: Mapping[str, Any] = {"version": None, "pinned": False, "previous": [], "event": None}


def read_state(root: Path) -> dict[str, Any]:
    """The keys version (id or None), pinned, previous (ids, newest first) and event (of the last switch) of a registry.

    Args:
        root: its folder.
    """
    try:
        content = json.loads((root / "published.json").read_bytes())
        if isinstance(content["previous"], list) and isinstance(content["pinned"], bool):
            return {**NO_STATE, **content}
    except FileNotFoundError:
        return {**NO_STATE}
    except (ValueError, KeyError, TypeError):
        pass
    logger.error("%s is damaged; the history says what was published", root / "published.json")
    return _state_of_history(root)


def _state_of_history(root: Path) -> dict[str, Any]:
    """What published.json said, as far as the events know it; each switch carries its outcome."""
    for event in reversed(read_json_lines(root / "events.jsonl")):
        if isinstance(event.get("state"), dict):
            return {**NO_STATE, **event["state"], "event": event}
    return {**NO_STATE}
