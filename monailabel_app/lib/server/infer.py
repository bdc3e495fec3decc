"""``POST /infer/{model}``: a mask of an image of the datastore, of a session, or of a file that is sent along."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fastapi import APIRouter, UploadFile
from fastapi.responses import FileResponse, JSONResponse, Response
from requests_toolbelt import MultipartEncoder
from starlette.background import BackgroundTask

from lib.errors import RequestError
from lib.server.known import require_image
from lib.server.plain_json import json_object
from lib.server.roles import allowed
from lib.server.session_cleanup import SESSION
from lib.server.threads import Pool
from lib.server.uploads import Params, stored

__all__ = ["infer_routes"]

OUTPUTS = ("all", "image", "json", "dicom_seg")


def infer_routes(app: Any) -> APIRouter:
    """The route in the place of MONAI Label's; parameters and answers are the same."""
    router, pool = APIRouter(tags=["Infer"], dependencies=allowed("user")), Pool(4)

    @router.post("/infer/{model}", summary="Segment an image")
    async def infer(
        model: str,
        image: str = "",
        session_id: str = "",
        params: Params = "{}",
        file: UploadFile | None = None,
        label: UploadFile | None = None,  # some clients send one; the model needs none
        output: str | None = None,
    ) -> Response:
        return await pool.run(_infer, app, model, image, session_id, params, file, output or "all")

    for path in ("/infer/wsi/{model}", "/infer/wsi_v2/{model}", "/batch/infer/{model}"):
        _not_offered(router, path)
    return router


def _not_offered(router: APIRouter, path: str) -> None:
    @router.post(path, include_in_schema=False)
    def refuse(model: str) -> None:
        raise RequestError(400, "This server segments one scan at a time, by POST /infer/mnseg; for a folder of scans "
                                "run the bundle's inference.json.")


def _infer(
    app: Any, model: str, image: str, session_id: str, params: str, file: UploadFile | None, output: str
) -> Response:
    task = app.infer_task(model)
    if output not in OUTPUTS:
        raise RequestError(400, f"output is {output[:60]!r}; it may be {', '.join(OUTPUTS)}.")
    request = dict(json_object(params, "params"))
    with ExitStack() as stack:
        path, name = _source(app, image, session_id, file, stack)
        extension = ".nii.gz" if output == "dicom_seg" else request.get("result_extension")
        known = image if file is None and not session_id else None
        if known and isinstance(request.get("client_id"), str):
            app.reservations.hold(known, request["client_id"][:200])
        mask, answer = task(
            {**request, "result_extension": extension, "image": path, "image_id": known, "name": name}
        )
    return ANSWERS[output](app, path, mask, answer)


def _source(
    app: Any, image: str, session_id: str, file: UploadFile | None, stack: ExitStack
) -> tuple[str, str]:
    """Path of the scan, and what the client calls it."""
    if file is not None:
        return str(stack.enter_context(stored(file))), os.path.basename(file.filename or "the file")
    if session_id:
        session = app.sessions().get_session(session_id) if SESSION.fullmatch(session_id) else None
        if session is None:
            raise RequestError(404, f"There is no session {session_id[:60]!r}; it may have expired.")
        return session.image, os.path.basename(session.image)
    if not image:
        raise RequestError(400, "Name an image of the studies (?image=ID), or send a file.")
    require_image(app.datastore(), image)
    return app.datastore().get_image_uri(image), image


def _whole(app: Any, scan: str, mask: str, answer: Mapping[str, Any]) -> Response:
    try:
        fields = {
            "params": (None, json.dumps(answer), "application/json"),
            "image": (os.path.basename(mask), Path(mask).read_bytes(), "application/octet-stream"),
        }
        message = MultipartEncoder(fields=fields)
        return Response(message.to_string(), media_type=message.content_type)
    finally:
        Path(mask).unlink(missing_ok=True)


def _image(app: Any, scan: str, mask: str, answer: Mapping[str, Any]) -> Response:
    return _file(mask, "application/octet-stream")


def _json(app: Any, scan: str, mask: str, answer: Mapping[str, Any]) -> Response:
    Path(mask).unlink(missing_ok=True)
    return JSONResponse(dict(answer))


def _dicom_seg(app: Any, scan: str, mask: str, answer: Mapping[str, Any]) -> Response:
    from mnseg.data.dicom_seg_write import EmptyMaskError, write_dicom_seg

    series = next((scan.removesuffix(ext) for ext in (".nii.gz", ".nii", ".nrrd") if scan.endswith(ext)), scan)
    output = Path(mask.removesuffix(".nii.gz") + ".dcm")
    try:
        if not os.path.isdir(series):
            raise RequestError(400, "A DICOM SEG can only be made of a DICOM series; ask for output=image.")
        if not answer["label_names"]:
            raise RequestError(400, "A DICOM SEG names its structure: send label, or ask for output=image.")
        write_dicom_seg(series, mask, output, app.app_conf.class_names, answer["model"])
    except EmptyMaskError as error:
        raise RequestError(422, "The model finds nothing on this scan, and an empty DICOM SEG cannot be "
                                "written.") from error
    finally:
        Path(mask).unlink(missing_ok=True)
    return _file(str(output), "application/dicom")


def _file(path: str, media_type: str) -> FileResponse:
    gone = BackgroundTask(lambda: Path(path).unlink(missing_ok=True))
    return FileResponse(path, media_type=media_type, filename=os.path.basename(path), background=gone)


ANSWERS: dict[str, Callable[..., Response]] = {
    "all": _whole, "image": _image, "json": _json, "dicom_seg": _dicom_seg,
}  # fmt: skip
