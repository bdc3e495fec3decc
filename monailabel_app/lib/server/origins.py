"""Web pages of other sites cannot use the server through the browser of somebody who may.

The server has no password, so it is the browser that must keep strangers out: MONAI Label lets every page read every
answer (CORS ``*``), a form on any page can send a POST, and a page can give its own name to the server
(`lib.server.names`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from lib.server.names import is_own_name, own_names

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
    """ASGI middleware: what another site's page asks is answered with 403.

    That is a request that changes something and comes from a page of another origin, and any that calls the server by a
    name which is not its own. Programs (Slicer, scripts) send no Origin and are not concerned by the first.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], origins: Sequence[str] = ()) -> None:
        self.app, self.origins = app, {origin.rstrip("/") for origin in origins}
        self.names = own_names(origins)

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        if scope["type"] == "http" and (sentence := self._refusal(scope)):
            await JSONResponse({"detail": sentence}, 403)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, scope: dict) -> str:
        headers = dict(scope["headers"])
        origin, host = (headers.get(name, b"").decode("latin-1") for name in (b"origin", b"host"))
        if host and not is_own_name(host, self.names):
            return (f"The server does not know {host[:80]!r} as a name of its own: call it by its address, or start it "
                    f"with --conf origins http://{host[:80]} (https:// behind a proxy that has a certificate).")
        is_foreign = origin and origin.partition("://")[2] != host and origin not in self.origins
        if scope["method"] not in READING and is_foreign:
            return f"Pages of {origin[:80]} may not use this server; --conf origins names those that may."
        return ""
