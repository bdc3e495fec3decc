"""``PUT /session/``: images sent to be segmented without joining the studies."""

from __future__ import annotations

import os
from typing import Any

from fastapi import APIRouter, UploadFile
from fastapi.background import BackgroundTasks

from lib.errors import RequestError
from lib.server.images import SUFFIXES, require_scan
from lib.server.roles import allowed
from lib.server.threads import Pool
from lib.server.uploads import stored

__all__ = ["session_routes"]


def session_routes(app: Any) -> APIRouter:
    """MONAI Label's route, without unpacking: an archive may write anywhere."""
    router, pool = APIRouter(tags=["Session"], dependencies=allowed("user")), Pool(4)

    @router.put("/session/", summary="Send images for a session")
    async def create(
        background_tasks: BackgroundTasks,
        files: list[UploadFile],
        uncompress: bool = False,
        expiry: int = 0,
    ) -> Any:
        if uncompress:
            raise RequestError(400, "Archives are not unpacked; send the files themselves.")
        return await pool.run(_create, app, background_tasks, expiry, files)

    return router


def _create(app: Any, background_tasks: BackgroundTasks, expiry: int, files: list[UploadFile]) -> Any:
    from monailabel.endpoints.session import create_session

    for file in files:
        head = file.file.read(132)
        file.file.seek(0)
        if head[128:] == b"DICM":  # one slice of a series
            continue
        with stored(file, SUFFIXES) as path:
            require_scan(path, os.path.basename(file.filename or ""), app.app_conf.in_channels)
        file.file.seek(0)
    return create_session(background_tasks, False, expiry, files)
