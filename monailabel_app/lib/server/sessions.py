"""``PUT /session/``: images sent to be segmented without joining the studies."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, UploadFile
from fastapi.background import BackgroundTasks

from lib.errors import RequestError
from lib.server.roles import allowed
from lib.server.threads import Pool

__all__ = ["session_routes"]


def session_routes() -> APIRouter:
    """MONAI Label's route, without unpacking: an archive may write anywhere."""
    router, pool = APIRouter(tags=["Session"], dependencies=allowed("user")), Pool(4)

    @router.put("/session/", summary="Send images for a session")
    async def create(
        background_tasks: BackgroundTasks,
        files: list[UploadFile],
        uncompress: bool = False,
        expiry: int = 0,
    ) -> Any:
        from monailabel.endpoints.session import create_session

        if uncompress:
            raise RequestError(400, "Archives are not unpacked; send the files themselves.")
        return await pool.run(create_session, background_tasks, False, expiry, files)

    return router
