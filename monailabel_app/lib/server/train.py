"""``/train/``: MONAI Label's routes, answered by the service that trains; clients see no difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from lib.errors import RequestError
from lib.server.roles import allowed

__all__ = ["train_routes"]

UNDER_WAY = ("SUBMITTED", "RUNNING")


def train_routes(app: Any) -> APIRouter:
    """Status, start and stop of the training."""
    router = APIRouter(prefix="/train", tags=["Train"])

    @router.get("/", summary="Status of the training", dependencies=allowed("user"))
    def status(all: bool = False, check_if_running: bool = False) -> Any:
        task = app.training.task()
        if task is None:
            raise RequestError(404, "No Train Tasks Found")
        if check_if_running and task["status"] not in UNDER_WAY:
            raise RequestError(404, "No Train Tasks are currently Running")
        return [_shown(one) for one in app.training.tasks()] if all else _shown(task)

    @router.post("/", dependencies=allowed("admin"), include_in_schema=False)
    def run(params: dict | None = None, run_sync: bool = False) -> Any:
        return {model: {"result": _start(app, _part(params, model), True), "detail": None} for model in app.trainers()}

    @router.post("/{model}", summary="Train a model", dependencies=allowed("admin"))
    def run_model(
        model: str, params: dict | None = None, run_sync: bool = False, enqueue: bool = False
    ) -> Any:
        if model not in app.trainers():
            raise RequestError(404, f"There is no model {model[:60]!r} that could be trained; there is "
                                    f"{', '.join(app.trainers())}.")
        return _start(app, params or {}, enqueue)

    @router.delete("/", summary="Stop the training", dependencies=allowed("admin"))
    def stop() -> Any:
        task = app.training.task()
        if task is None or task["status"] not in UNDER_WAY:
            return None  # as MONAI Label; Slicer takes it for done
        app.training.stop("a client")
        return _shown(app.training.task())

    return router


def _part(params: Mapping[str, Any] | None, model: str) -> Mapping[str, Any]:
    part = (params or {}).get(model, params)
    return part if isinstance(part, dict) else {}


def _start(app: Any, params: Mapping[str, Any], enqueue: bool) -> Any:
    from_scratch = params.get("from_scratch", False)
    if not isinstance(from_scratch, bool):
        raise RequestError(400, "from_scratch may be true or false.")
    by = params.get("client_id") or "a client"
    return _shown(app.training.now(str(by)[:80], from_scratch=from_scratch, enqueue=enqueue))


def _shown(task: Mapping[str, Any]) -> dict[str, Any]:
    """Slicer shows the last line of ``details``, so there must be one."""
    return {**task, "details": list(task.get("details") or [task["status"].lower()])}
