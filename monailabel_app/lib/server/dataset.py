"""``GET /datastore/dataset``: all scans with final labels in one ZIP.

MONAI Label makes a file in the temporary folder each time and leaves it there: patients' data, as large as the studies.
The file here has no name, so that it is gone with the answer, with a client that hangs up, and with a killed server.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from typing import IO, Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from lib.errors import RequestError
from lib.server.roles import allowed
from lib.server.threads import Pool

__all__ = ["dataset_routes"]

CHUNK = 1 << 20  # bytes


def dataset_routes(app: Any) -> APIRouter:
    """The route in the place of MONAI Label's; the ZIP is laid out as there."""
    router, pool = APIRouter(tags=["Datastore"], dependencies=allowed("annotator")), Pool(2)

    @router.get("/datastore/dataset", summary="Download scans and final labels as a ZIP")
    async def dataset(limit_cases: int | None = None) -> StreamingResponse:
        archive = await pool.run(_archive, app.datastore(), limit_cases)
        headers = {"content-length": str(archive.seek(0, os.SEEK_END)),
                   "content-disposition": 'attachment; filename="dataset.zip"'}
        return StreamingResponse(_chunks(archive), media_type="application/zip", headers=headers)

    return router


def _archive(store: Any, limit_cases: int | None) -> IO[bytes]:
    """``image/<file>``, ``label/<file>`` of each scan, and the index as ``metadata.json``; an open file."""
    cases = store.datalist()
    if not cases:
        raise RequestError(404, "No scan has a final label yet, so there is nothing to download.")
    archive = tempfile.TemporaryFile()  # noqa: SIM115, the answer closes it
    with zipfile.ZipFile(archive, "w", strict_timestamps=False) as zipped:  # 1980 for a file without a time
        for case in cases[:limit_cases] if limit_cases and limit_cases > 0 else cases:
            for key, path in case.items():
                zipped.write(path, f"{key}/{os.path.basename(path)}")
        zipped.writestr("metadata.json", json.dumps(store.json(), default=str))
    return archive


def _chunks(archive: IO[bytes]) -> Iterator[bytes]:
    with archive:
        archive.seek(0)
        while chunk := archive.read(CHUNK):
            yield chunk
