"""``GET /logs/``: the server's log and that of the newest training, without anything from the network."""

from __future__ import annotations

import html
import shutil
import subprocess
from collections import deque
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

from lib.errors import RequestError
from lib.server.roles import allowed

__all__ = ["log_routes"]

PAGE = """<!doctype html><meta charset="utf-8"><title>mnseg: log</title>{refresh}
<pre style="font-size: 13px; white-space: pre-wrap">{text}</pre>
<script>scrollTo(0, document.body.scrollHeight)</script>
"""


def log_routes(app: Any) -> APIRouter:
    """Lines of both logs, as text or as a page."""
    router = APIRouter(prefix="/logs", tags=["Others"], dependencies=allowed("admin"))

    @router.get("/", summary="Logs of the server and of the newest training")
    def logs(lines: int = 300, html: bool = True, text: bool = False, refresh: int = 0) -> Response:
        content = _logs(app, min(max(lines, 1), 100_000))
        return PlainTextResponse(content) if text or not html else _page(content, refresh)

    @router.get("/gpu", summary="What nvidia-smi says")
    def gpu() -> Response:
        tool = shutil.which("nvidia-smi")
        if tool is None:
            raise RequestError(404, "This computer has no nvidia-smi, so there is nothing to tell of a GPU.")
        try:
            found = subprocess.run([tool], capture_output=True, text=True, timeout=20, check=False)
        except subprocess.TimeoutExpired as error:
            raise RequestError(503, "nvidia-smi does not answer.") from error
        return PlainTextResponse(found.stdout + found.stderr)

    return router


def _page(content: str, refresh: int) -> HTMLResponse:
    tag = f'<meta http-equiv="refresh" content="{max(refresh, 3)}">' if refresh > 0 else ""
    return HTMLResponse(PAGE.format(refresh=tag, text=html.escape(content)))


def _logs(app: Any, lines: int) -> str:
    runs = sorted((path for path in app.app_conf.workspace.glob("runs/*/log.txt")), key=lambda path: path.parent.name)
    parts = [("the server", Path(app.app_dir) / "logs" / "app.log")]
    parts += [(f"training {path.parent.name}", path) for path in runs[-1:]]
    return "\n".join(f"== {title}\n{_tail(path, lines)}" for title, path in parts if path.is_file())


def _tail(path: Path, lines: int) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return "".join(deque(file, lines))
