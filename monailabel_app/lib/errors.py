"""The one exception that a client of the server is meant to read, and a system's errors in words."""

from __future__ import annotations

import errno

__all__ = ["RequestError", "in_words", "is_full"]


class RequestError(Exception):
    """A request that cannot be carried out: an HTTP status (4xx) and one sentence that says what to do.

    Args:
        status: HTTP status of the answer, such as 400, 404, 409 or 413.
        sentence: names the image, model, label or key that is wrong.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence


def is_full(error: OSError) -> bool:
    """Whether there was no room left, on the disk or in somebody's share of it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def in_words(error: OSError) -> str:
    """What the system says, without the server's paths."""
    return "the server's disk is full" if is_full(error) else (error.strerror or type(error).__name__).lower()
