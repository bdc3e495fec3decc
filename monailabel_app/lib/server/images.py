"""``PUT /datastore/image``: a scan that a client sends is looked at before it joins the studies."""

from __future__ import annotations

import os
import re
from typing import Any

from fastapi import APIRouter, UploadFile

from lib.errors import RequestError
from lib.server.info import require_sound_image_info
from lib.server.plain_json import json_object
from lib.server.roles import allowed
from lib.server.threads import Pool
from lib.server.uploads import Params, stored, suffix_of

__all__ = ["SUFFIXES", "image_routes", "require_scan"]

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
ID = re.compile(r"[\w][\w .+=@()-]{0,199}")
LONGEST = 200  # bytes of a name; with the suffix of a file under way a file system takes 255


def image_routes(app: Any) -> APIRouter:
    """Upload of a scan, also under the older path that the client library still uses."""
    router, pool = APIRouter(tags=["Datastore"], dependencies=allowed("annotator")), Pool(4)

    @router.put("/datastore/", include_in_schema=False)
    @router.put("/datastore/image", summary="Add a scan to the studies")
    async def add(file: UploadFile, image: str | None = None, params: Params = "{}") -> Any:
        return await pool.run(_add, app, image, params, file)

    return router


def _add(app: Any, image: str | None, params: str, file: UploadFile) -> dict[str, str]:
    name = os.path.basename(file.filename or "")
    image_id = image or name.removesuffix(suffix_of(name, SUFFIXES)) or name
    if not ID.fullmatch(image_id):
        raise RequestError(400, f"{image_id[:60]!r} cannot name an image: use letters, digits, '_', '-' and '.'.")
    if len(image_id.encode()) > LONGEST:
        raise RequestError(400, f"{image_id[:60]!r}… is too long to name a file: an image's name may have {LONGEST} "
                                "bytes, of which letters with accents take two or more.")
    info = dict(json_object(params, "params"))
    require_sound_image_info(info)
    with stored(file, SUFFIXES) as path:
        require_scan(path, name, app.app_conf.in_channels)
        return {"image": app.datastore().add_image(image_id, str(path), info)}


def require_scan(path: Any, name: str, channels: int) -> None:
    """Read a scan whole.

    Raises:
        RequestError: 422, it is none that the model could be used on.
    """
    import numpy as np

    from mnseg.data.volume_io import open_volume, read_voxels
    from mnseg.errors import UserError

    try:
        volume = open_volume(path)
        voxels = read_voxels(volume, path)  # all of it: half a file has a header as well
    except (UserError, OSError) as error:
        raise RequestError(422, f"{name} is no scan that can be read.") from error
    shape = voxels.shape
    if len(shape) not in (3, 4) or (shape[3] if len(shape) == 4 else 1) != channels:
        wanted = "three axes" if channels == 1 else f"three axes and {channels} channels"
        raise RequestError(422, f"{name} has shape {tuple(shape)}; a scan has {wanted}.")
    if not np.isfinite(voxels).all():
        raise RequestError(422, f"{name} has NaN or infinite voxels.")
