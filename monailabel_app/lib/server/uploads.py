"""Files that clients send: refused while they stream when they are too large, stored under names of our own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from fastapi import Form, UploadFile
from fastapi.responses import JSONResponse

from lib.errors import RequestError

__all__ = ["Params", "UploadLimit", "stored"]

SUFFIXES = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".mha")
# The form field in which clients send a JSON object.
Params = Annotated[str, Form()]
FORM_BYTES = 1 << 20  # what a form adds to its file


class UploadLimit:
    """ASGI middleware: a request body above a limit is answered with 413 and never reaches a route.

    What is sent beyond the limit is read and dropped for as much again, because most clients read the answer only when
    they have sent everything; then the connection is closed.

    Args:
        app: the application.
        max_mb: the limit, in megabytes.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], max_mb: float) -> None:
        self.app, self.max_mb = app, max_mb
        self.max_bytes = int(max_mb * 1e6) + FORM_BYTES

    async def __call__(self, scope: dict, receive: Callable[[], Awaitable[dict]], send: Callable) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self.max_bytes:
            if b"expect" not in headers:
                await self._drop(receive)
            await self._refuse(scope, receive, send)
            return
        await self._counted(scope, receive, send)

    async def _counted(self, scope: dict, receive: Callable[[], Awaitable[dict]], send: Callable) -> None:
        received, begun, too_large = 0, False, False

        async def counting() -> dict:
            nonlocal received, too_large
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                too_large = True
                raise _TooLarge
            return message

        async def unless_too_large(message: dict) -> None:
            nonlocal begun
            if not too_large:  # what a route makes of the break is of no interest
                begun = True
                await send(message)

        try:
            await self.app(scope, counting, unless_too_large)
        except Exception:
            if not too_large:
                raise
        if too_large and not begun:
            await self._drop(receive)
            await self._refuse(scope, receive, send)

    async def _drop(self, receive: Callable[[], Awaitable[dict]]) -> None:
        dropped, more = 0, True
        while more and dropped <= self.max_bytes:
            message = await receive()
            dropped += len(message.get("body", b""))
            more = message["type"] == "http.request" and message.get("more_body", False)

    async def _refuse(self, scope: dict, receive: Callable, send: Callable) -> None:
        sentence = f"The request is larger than {self.max_mb:g} MB; the server's --conf max_upload_mb sets the limit."
        answer = JSONResponse({"detail": sentence}, 413, headers={"connection": "close"})
        await answer(scope, receive, send)


class _TooLarge(Exception):
    pass


@contextmanager
def stored(upload: UploadFile, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[Path]:
    """A temporary file with what was sent, gone behind the block.

    Raises:
        RequestError: 400, the file's name does not end as that of a volume.
    """
    suffix = suffix_of(upload.filename, suffixes)
    handle, name = tempfile.mkstemp(prefix="mnseg-upload-", suffix=suffix)
    try:
        with os.fdopen(handle, "wb") as file:
            shutil.copyfileobj(upload.file, file)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def suffix_of(filename: str | None, suffixes: tuple[str, ...] = SUFFIXES) -> str:
    """The suffix of a name that a client gave; a name without one is taken for compressed NIfTI, as by MONAI Label."""
    name = os.path.basename(filename or "").lower()
    if "." not in name:
        return ".nii.gz"
    for suffix in suffixes:
        if name.endswith(suffix):
            return suffix
    raise RequestError(400, f"{name[-60:]}: send a file whose name ends in {', '.join(suffixes)}.")
