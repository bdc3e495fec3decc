"""``POST /scoring/``: there is nothing to start, since every training scores the scans by itself."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from lib.errors import RequestError
from lib.server.roles import allowed

__all__ = ["scoring_routes"]


def scoring_routes() -> APIRouter:
    """In the place of MONAI Label's, which would build the app a second time on the live workspace."""
    router = APIRouter(prefix="/scoring", tags=["Scoring"], dependencies=allowed("admin"))

    @router.post("/", include_in_schema=False)
    @router.post("/{method}", summary="Refused: scans are scored behind every training")
    def run(method: str = "") -> Any:
        raise RequestError(409, "The scans are scored behind every training; there is no scoring to start by hand.")

    return router
