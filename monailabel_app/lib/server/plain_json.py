"""What clients send as JSON must be storable (see `lib.storable`)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from email.message import Message
from typing import Any

from fastapi.responses import JSONResponse

from lib.errors import RequestError
from lib.storable import require_storable

__all__ = ["PlainJson", "json_object"]

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
    """Whether FastAPI would read the body as JSON; older ones do so also when no type is given."""
    headers = {name.lower(): value for name, value in reversed(scope["headers"])}  # of two the first one counts
    if not headers.get(b"content-type"):
        return b"content-length" in headers or b"transfer-encoding" in headers
    message = Message()
    message["content-type"] = headers[b"content-type"].decode("latin-1")
    kind, subtype = message.get_content_maintype(), message.get_content_subtype()
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))


def _look(body: bytes) -> None:
    if len(body) > LARGEST:
        raise RequestError(413, f"A JSON body may have {LARGEST // 1_000_000} MB.")
    try:
        content = json.loads(body or b"null")
    except (ValueError, RecursionError):  # the route says what is wrong
        return
    require_storable(content, "The request")
