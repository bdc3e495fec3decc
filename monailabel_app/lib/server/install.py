"""Puts our routes before MONAI Label's, and its remaining ones into threads.

It happens while the server starts, after MONAI Label has made its application: there is no earlier moment at which an
app's code runs. So the routes go before the existing ones, and the middleware is built anew.
"""

from __future__ import annotations

import importlib
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware

from lib.server.api import api_routes
from lib.server.dataset import dataset_routes
from lib.server.errors import install_error_answers
from lib.server.images import image_routes
from lib.server.infer import infer_routes
from lib.server.labels import label_routes
from lib.server.logs import log_routes
from lib.server.models import model_routes
from lib.server.ohif import ohif_routes
from lib.server.origins import only_origins
from lib.server.pacs import pacs_routes
from lib.server.page import page_routes
from lib.server.plain_json import PlainJson
from lib.server.scoring import scoring_routes
from lib.server.sessions import session_routes
from lib.server.threads import move_proxy_into_threads, threaded
from lib.server.train import train_routes
from lib.server.uploads import UploadLimit

__all__ = ["install"]

MODULES = ("info", "model", "infer", "batch_infer", "train", "activelearning", "scoring", "datastore", "logs", "ohif",
           "session")  # fmt: skip


def install(api: FastAPI, app: Any) -> None:
    """Make ``api``, MONAI Label's application, serve ``app``."""
    ours = [
        route
        for router in (
            api_routes(app), infer_routes(app), train_routes(app), label_routes(app), image_routes(app),
            log_routes(app), session_routes(app), model_routes(), page_routes(app), pacs_routes(app), ohif_routes(),
            scoring_routes(), dataset_routes(app),
        )  # fmt: skip
        for route in router.routes
    ]
    theirs = [
        route
        for name in MODULES
        for route in threaded(importlib.import_module(f"monailabel.endpoints.{name}").router, app.datastore())
    ]
    api.router.routes[:0] = ours + theirs
    move_proxy_into_threads(importlib.import_module("monailabel.endpoints.proxy"), app.app_conf.is_dicomweb)
    install_error_answers(api)
    only_origins(api, app.app_conf.origins)
    api.user_middleware.insert(0, Middleware(PlainJson))
    api.user_middleware.insert(0, Middleware(UploadLimit, max_mb=app.app_conf.max_upload_mb))
    api.middleware_stack = api.build_middleware_stack()
