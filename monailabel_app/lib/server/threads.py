"""Routes that block run in threads, so that a status poll never waits for anybody's inference.

MONAI Label declares all its routes ``async`` and then computes, reads and downloads in them, on the one thread that
serves everybody. None of them awaits anything (but the proxy, see below), so each can as well be run to its end in a
thread of its own.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio
from fastapi import APIRouter
from fastapi.routing import APIRoute

from lib.datastores.pacs import CONNECT_SECONDS, READ_SECONDS
from lib.errors import RequestError
from lib.server.dicomweb_paths import require_dicomweb_path
from lib.server.info import require_sound_image_info, require_sound_info
from lib.server.known import require_image, require_label
from lib.server.plain_json import json_object

__all__ = ["Pool", "move_proxy_into_threads", "threaded"]

PROXIED = 16  # requests of viewers to the DICOM server at once
JSON_FIELDS = {"info", "params"}  # forms in which clients send a JSON object


class Pool:
    """A few threads for one kind of work, so that it leaves those of the other routes free.

    Args:
        size: how many requests are worked on at once; others wait in line.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._limiter: anyio.CapacityLimiter | None = None

    async def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._limiter is None:  # it belongs to the event loop, which does not run yet when routes are made
            self._limiter = anyio.CapacityLimiter(self.size)
        return await anyio.to_thread.run_sync(functools.partial(work, *args, **kwargs), limiter=self._limiter)


def threaded(router: APIRouter, datastore: Any) -> list[APIRoute]:
    """MONAI Label's blocking routes of one of its routers, each run in a thread.

    On the way, an image or label that the datastore does not know is refused with a sentence.
    """
    return [
        _rebuilt(route, _in_thread(route.endpoint, datastore if route.path.startswith("/datastore/") else None))
        for route in router.routes
        if isinstance(route, APIRoute) and inspect.iscoroutinefunction(route.endpoint)
    ]


def _in_thread(endpoint: Callable[..., Any], datastore: Any | None) -> Callable[..., Any]:
    def run(**kwargs: Any) -> Any:
        for field in JSON_FIELDS & kwargs.keys():
            if isinstance(kwargs[field], str):
                content = json_object(kwargs[field], field)
                if field == "info" or endpoint.__name__ == "api_update_label_info":  # whose field is params
                    (require_sound_image_info if "image" in kwargs else require_sound_info)(content)
        if datastore is not None:
            _require_known(datastore, kwargs)
        return asyncio.run(endpoint(**kwargs))

    run.__name__ = endpoint.__name__
    run.__signature__ = inspect.signature(endpoint, eval_str=True)  # from which FastAPI reads the parameters
    return run


def _require_known(datastore: Any, kwargs: dict[str, Any]) -> None:
    image_id = kwargs.get("image") or kwargs.get("label") or kwargs.get("id")
    if not isinstance(image_id, str):
        return
    if "tag" in kwargs:
        require_label(datastore, image_id, kwargs["tag"])
    else:
        require_image(datastore, image_id)


def _rebuilt(route: APIRoute, endpoint: Callable[..., Any]) -> APIRoute:
    return APIRoute(
        route.path,
        endpoint,
        methods=route.methods,
        name=route.name,
        tags=route.tags,
        summary=route.summary,
        responses=route.responses,
        deprecated=route.deprecated,
        include_in_schema=route.include_in_schema,
        response_model=None,
        dependencies=route.dependencies,
    )


def move_proxy_into_threads(proxy: Any, is_dicomweb: bool) -> None:
    """The same for the DICOMweb proxy, the one route that awaits: the body, which is at hand once it was read here.

    It has threads of its own, and a limit of time, so that a DICOM server that hangs does not take the others' away.
    What viewers ask for behind "?" is left out, as by MONAI Label: with it OHIF lists no segmentation of Orthanc's.
    """
    blocking = getattr(proxy.proxy_dicom, "blocking", proxy.proxy_dicom)
    pool = Pool(PROXIED)
    if not hasattr(proxy.requests, "timed"):
        proxy.requests = _timed(proxy.requests)

    async def proxy_dicom(request: Any, op: str, path: str) -> Any:
        if not is_dicomweb:
            raise RequestError(404, "The studies are a folder; there is no DICOMweb server behind this one.")
        require_dicomweb_path(path)
        await request.body()
        return await pool.run(_answer, lambda: asyncio.run(blocking(request, op, path)))

    proxy_dicom.blocking = blocking
    proxy.proxy_dicom = proxy_dicom


def _timed(requests: Any) -> SimpleNamespace:
    """The two functions that the proxy calls, which would wait for ever."""
    limit = (CONNECT_SECONDS, READ_SECONDS)
    return SimpleNamespace(get=functools.partial(requests.get, timeout=limit),
                           post=functools.partial(requests.post, timeout=limit), timed=True)  # fmt: skip


def _answer(ask: Callable[[], Any]) -> Any:
    import requests
    import urllib3

    try:
        return ask()
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise RequestError(503, f"The DICOMweb server does not answer ({type(error).__name__}).") from error
