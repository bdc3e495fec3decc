"""The model's file may be fetched, never replaced or removed: what is served is decided by the registry."""

from __future__ import annotations

from fastapi import APIRouter

from lib.errors import RequestError
from lib.server.roles import allowed

__all__ = ["model_routes"]


def model_routes() -> APIRouter:
    """Refusals in the place of MONAI Label's routes that overwrite the model's file."""
    router = APIRouter(tags=["Model"], dependencies=allowed("annotator"))

    @router.put("/model/{model}", include_in_schema=False)
    @router.delete("/model/{model}", include_in_schema=False)
    def refuse(model: str) -> None:
        raise RequestError(403, "Versions are published and taken back by /mnseg/publish/ID and /mnseg/rollback; a "
                                "model's file cannot be replaced.")

    return router
