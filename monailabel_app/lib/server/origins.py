"""Web pages of other sites cannot use the server through the browser of somebody who may.

The server has no password, so it is the browser that must keep strangers out: MONAI Label lets every page read every
answer (CORS ``*``), and a form on any page can send a POST.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

__all__ = ["SameOrigin", "only_origins"]

READING = ("GET", "HEAD", "OPTIONS")


def only_origins(api: FastAPI, origins: Sequence[str]) -> None:
    """Let pages of these origins in, beside the server's own; the middleware must be built anew afterwards."""
    api.user_middleware[:] = [entry for entry in api.user_middleware if entry.cls is not CORSMiddleware]
    if origins:
        api.user_middleware.append(Middleware(CORSMiddleware, allow_origins=list(origins), allow_methods=["*"],
                                              allow_headers=["*"]))
    api.user_middleware.insert(0, Middleware(SameOrigin, origins=origins))


class SameOrigin:
    """ASGI middleware: a request that changes something and comes from another site's page is answered with 403.

    Programs (Slicer, scripts) send no Origin and are not concerned.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], origins: Sequence[str] = ()) -> None:
        self.app, self.origins = app, {origin.rstrip("/") for origin in origins}

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "http" and scope["method"] not in READING:
            headers = dict(scope["headers"])
            origin, host = (headers.get(name, b"").decode("latin-1") for name in (b"origin", b"host"))
            if origin and origin.partition("://")[2] != host and origin not in self.origins:
                sentence = f"Pages of {origin[:80]} may not use this server; --conf origins names those that may."
                await JSONResponse({"detail": sentence}, 403)(scope, receive, send)
                return
        await self.app(scope, receive, send)
