"""What can be stored as JSON and given to any reader of it: finite numbers, and texts that UTF-8 can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lib.errors import RequestError

__all__ = ["require_storable"]


def require_storable(content: Any, what: str) -> None:
    """Refuse what Python's JSON lets pass and other readers do not: it would be stored, and then break every answer.

    Raises:
        RequestError: 400; NaN, an infinite number, or half of a pair of surrogates.
    """
    parts = [content]
    while parts:  # no recursion: Python's JSON reads what is nested more deeply than functions may be
        part = parts.pop()
        if isinstance(part, float) and not math.isfinite(part):
            raise RequestError(400, f"{what} holds {part}, which is no number of JSON.")
        if isinstance(part, str):
            _require_characters(part, what)
        elif isinstance(part, Mapping):
            parts += [*part.keys(), *part.values()]
        elif isinstance(part, (list, tuple)):
            parts += part


def _require_characters(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(400, f"{what} holds {ascii(text[error.start])}, which is no character.") from error
