"""``/mnseg/segs``, ``/mnseg/pending``, ``/mnseg/masks``: segmentations that come from the DICOM server and go there."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from lib.errors import RequestError
from lib.server.known import require_image
from lib.server.roles import allowed
from lib.server.threads import Pool

__all__ = ["pacs_routes"]


def pacs_routes(app: Any) -> APIRouter:
    """What viewers stored, what waits for a decision, and the model's mask for viewers without a panel of ours."""
    router, pool = APIRouter(prefix="/mnseg", tags=["mnseg"]), Pool(2)

    @router.get("/segs", dependencies=allowed("user"))
    def segmentations() -> dict[str, Any]:
        return _sync(app).status()

    @router.post("/segs", dependencies=allowed("annotator"))
    def look_now() -> dict[str, Any]:
        return {"found": _sync(app).now(), **_sync(app).status()}

    @router.get("/pending", dependencies=allowed("user"))
    def pending() -> list[dict[str, Any]]:
        return _sync(app).journal.all("pending")

    @router.post("/pending/{uid}/{decision}", dependencies=allowed("annotator"))
    def decide(uid: str, decision: str, body: dict | None = None) -> dict[str, Any]:
        if decision not in ("accept", "reject"):
            raise RequestError(404, "A pending segmentation can be accepted or rejected: /mnseg/pending/UID/accept.")
        return getattr(_sync(app).imports, decision)(uid, _by(body))

    @router.post("/masks/{image}", dependencies=allowed("user"))
    async def put_mask(image: str) -> dict[str, Any]:
        return await pool.run(_put_mask, app, image)

    return router


def _put_mask(app: Any, image: str) -> dict[str, Any]:
    exports = _sync(app).exports
    require_image(app.datastore(), image)
    return exports.put_mask(image)


def _sync(app: Any) -> Any:
    if app.pacs_sync is None:
        raise RequestError(404, "The studies are a folder; segmentations are exchanged with a DICOM server only.")
    return app.pacs_sync


def _by(body: dict | None) -> str:
    by = (body or {}).get("by") or "somebody"
    if not isinstance(by, str):
        raise RequestError(400, "by must be a text.")
    return by[:80]
