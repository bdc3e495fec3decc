"""The one exception that a client of the server is meant to read."""

from __future__ import annotations

__all__ = ["RequestError"]


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
