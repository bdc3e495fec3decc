"""Who may call our routes, when MONAI Label's authorization is switched on; without it everybody may."""

from __future__ import annotations

from typing import Any

from fastapi import Depends
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC

__all__ = ["allowed", "caller"]

ROLES = {
    "user": settings.MONAI_LABEL_AUTH_ROLE_USER,
    "annotator": settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR,
    "admin": settings.MONAI_LABEL_AUTH_ROLE_ADMIN,
}


def caller(role: str) -> Any:
    """Default value of a route's parameter that is to hold the user."""
    return Depends(RBAC(ROLES[role]))


def allowed(role: str) -> list[Any]:
    """A router's ``dependencies``."""
    return [caller(role)]
