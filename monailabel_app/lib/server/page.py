"""The status page at ``/mnseg/``: three files, no other server, and pictures of scans."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, RedirectResponse, Response

from lib.errors import RequestError
from lib.server.pictures import Thumbnails
from lib.server.roles import allowed
from lib.server.threads import Pool
from mnseg._version import __version__

__all__ = ["page_facts", "page_routes"]

logger = logging.getLogger(__name__)

FILES = {"": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
# The page shows names that clients sent. It sets them as text; this keeps whatever slips through from being run.
HEADERS = {"Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
           "Cache-Control": "no-cache"}  # fmt: skip
QUEUE = 12


def page_routes(app: Any) -> APIRouter:
    """``GET /mnseg/``, its script and style, and ``GET /mnseg/thumbnail/{image}``."""
    router = APIRouter(tags=["mnseg"])
    folder = Path(__file__).with_name("page")
    thumbnails = Thumbnails(app.app_conf.workspace / "thumbnails", app.app_conf.labels)
    # Pictures must not take the processor from inferences, nor a scan that is fetched for one the others' threads.
    pool = Pool(1)

    def draw(image: str) -> Path:
        if image not in app.datastore().list_images():
            raise RequestError(404, f"There is no image {image[:60]!r}.")
        return thumbnails.of(app.datastore().get_image_uri(image), newest_mask(app, image))

    for name, kind in FILES.items():
        _file(router, f"/mnseg/{name}", folder / (name or "index.html"), kind)

    @router.get("/mnseg", include_in_schema=False)
    def slash() -> Response:
        return RedirectResponse("/mnseg/")

    @router.get("/mnseg/thumbnail/{image:path}", dependencies=allowed("user"), include_in_schema=False)
    async def thumbnail(image: str) -> Response:
        picture = await pool.run(draw, image)
        return FileResponse(picture, media_type="image/png", headers={"Cache-Control": "no-cache"})

    return router


def _file(router: APIRouter, path: str, file: Path, kind: str) -> None:
    @router.get(path, dependencies=allowed("user"), include_in_schema=False)
    def serve() -> Response:
        return FileResponse(file, media_type=kind, headers=HEADERS)


def newest_mask(app: Any, image: str) -> str | Path | None:
    """A person's label, else the mask that was last served, else none."""
    store = app.datastore()
    label = store.get_label_by_image_id(image, "final")
    if label:
        return store.get_label_uri(label, "final") or None
    return app.provenance.served_mask(image)


def page_facts(app: Any) -> dict[str, Any]:
    """What the page shows beyond the status of server, training and registry."""
    return {
        "app": {"name": app.name, "version": __version__},
        "scans": app.training.counts(),
        "can_roll_back": bool(app.registry.previous),
        "queue": _queue(app),
    }


def _queue(app: Any) -> list[dict[str, Any]]:
    try:
        return app._strategies["disagreement"].queue(app.datastore(), QUEUE)
    except Exception:  # a broken score file must not take the page away
        logger.exception("the queue cannot be shown")
        return []
