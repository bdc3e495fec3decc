"""``/mnseg/…``: what the status page shows and does; for scripts as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter

from lib.errors import RequestError
from lib.infers.published import MODEL_NAME
from lib.server.page import page_facts
from lib.server.roles import allowed

__all__ = ["api_routes", "status_of"]


def api_routes(app: Any) -> APIRouter:
    """``GET /mnseg/status`` and the buttons: train, stop, on, off, publish, rollback, pin, unpin.

    Each button takes an optional JSON object with ``by``, the name in the history, and answers with the new status.
    """
    router = APIRouter(prefix="/mnseg", tags=["mnseg"])

    @router.get("/status", dependencies=allowed("user"))
    def status() -> dict[str, Any]:
        return status_of(app)

    def button(path: str, press: Callable[..., Any]) -> None:
        if "{version}" in path:
            @router.post(path, dependencies=allowed("admin"))
            def with_version(version: str, body: dict | None = None) -> dict[str, Any]:
                press(_by(body), version)
                return status_of(app)
        else:
            @router.post(path, dependencies=allowed("admin"))
            def without(body: dict | None = None) -> dict[str, Any]:
                press(_by(body), **_from_scratch(body) if path == "/train" else {})
                return status_of(app)

    registry, training = app.registry, app.training

    def usable(version: str) -> str:
        app.infer_task(MODEL_NAME).serving.require_usable(registry.get(version))
        return version

    def go_back(by: str) -> None:
        if registry.previous and not registry.pinned:
            usable(registry.previous[0])
        registry.rollback(by)

    button("/train", lambda by, from_scratch=False: training.now(by, from_scratch=from_scratch))
    button("/stop", lambda by: training.stop(by))
    button("/on", lambda by: training.enable(True, by))
    button("/off", lambda by: training.enable(False, by))
    button("/publish/{version}", lambda by, version: registry.publish(usable(version), by, f"{by} published it."))
    button("/rollback", go_back)
    button("/pin/{version}", lambda by, version: registry.pin(usable(version), by))
    button("/unpin", lambda by: registry.pin(None, by))
    return router


def status_of(app: Any) -> dict[str, Any]:
    """Everything that the page shows, but pictures."""
    serving = app.infer_task(MODEL_NAME).serving
    version = serving.version()
    return {
        **page_facts(app),
        "labels": app.app_conf.label_indices,
        "model": {"version": version.id, "name": version.name} if version else None,
        "model_fault": serving.fault() or None,
        "pinned": app.registry.pinned,
        "versions": [{**version.facts, "id": version.id, "name": version.name} for version in app.registry.versions()],
        "history": app.registry.history()[-50:],
        "training": app.training.status(),
        "datastore": app.datastore().status(),
        "min_labels": app.app_conf.min_labels,
        "inference_under_way": app.traffic.busy,
        "dicom": app.pacs_sync.status() if app.pacs_sync else None,
        "notice": "not for diagnosis",
    }


def _by(body: dict | None) -> str:
    by = (body or {}).get("by") or "the page"
    if not isinstance(by, str):
        raise RequestError(400, "by must be a text.")
    return by[:80]


def _from_scratch(body: dict | None) -> dict[str, bool]:
    value = (body or {}).get("from_scratch", False)
    if not isinstance(value, bool):
        raise RequestError(400, "from_scratch may be true or false.")
    return {"from_scratch": value}
