"""What clients send as JSON must be storable: finite numbers, and texts that UTF-8 can hold."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi.responses import JSONResponse

from lib.errors import RequestError

__all__ = ["PlainJson", "json_object", "require_storable"]

LARGEST = 4_000_000  # bytes of a JSON body that is looked at; nothing that clients send is near it


def json_object(text: str | None, what: str) -> Mapping[str, Any]:
    """A form field that must hold a JSON object, or nothing.

    Raises:
        RequestError: 400.
    """
    try:
        content = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"The field {what} is no valid JSON: {error}.") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise RequestError(400, f"The field {what} must hold a JSON object, not {type(content).__name__}.")
    require_storable(content, f"The field {what}")
    return content


def require_storable(content: Any, what: str) -> None:
    """Refuse what Python's JSON lets pass and other readers do not: it would be stored, and then break every answer.

    Raises:
        RequestError: 400; NaN, an infinite number, or half of a pair of surrogates.
    """
    if isinstance(content, float) and not math.isfinite(content):
        raise RequestError(400, f"{what} holds {content}, which is no number of JSON.")
    if isinstance(content, str):
        try:
            content.encode()
        except UnicodeEncodeError as error:
            raise RequestError(400, f"{what} holds {ascii(content[error.start])}, which is no character.") from error
    if isinstance(content, Mapping):
        content = [*content.keys(), *content.values()]
    if isinstance(content, (list, tuple)):
        for part in content:
            require_storable(part, what)


class PlainJson:
    """ASGI middleware: a JSON body that is not storable is answered with 400 and never reaches a route.

    What goes on to a DICOM server is that server's concern.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Callable[[], Awaitable[dict]], send: Callable) -> None:
        if scope["type"] != "http" or not _is_json(scope) or scope["path"].startswith("/proxy"):
            await self.app(scope, receive, send)
            return
        messages, size, more = [], 0, True
        while more and size <= LARGEST:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False)
        try:
            _look(b"".join(message.get("body", b"") for message in messages))
        except RequestError as error:
            await JSONResponse({"detail": error.sentence}, error.status)(scope, receive, send)
            return

        async def again() -> dict:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, again, send)


def _is_json(scope: dict) -> bool:
    kind = next((value for name, value in scope["headers"] if name.lower() == b"content-type"), b"")
    return kind.split(b";")[0].strip().lower() == b"application/json"


def _look(body: bytes) -> None:
    if len(body) > LARGEST:
        raise RequestError(413, f"A JSON body may have {LARGEST // 1_000_000} MB.")
    try:
        content = json.loads(body or b"null")
    except (ValueError, RecursionError):  # the route says what is wrong
        return
    require_storable(content, "The request")
