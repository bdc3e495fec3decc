"""OHIF's files as MONAI Label brings them, with two faults mended on their way to the browser.

Nothing of OHIF is kept here: the text of a fault is looked for in the files that are served, and where it is not found
they are served as they are.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response

from lib.server.roles import allowed

__all__ = ["MENDED", "mended", "ohif_routes"]

# What is wrong, the text with the fault, and what takes its place. The export command is run without its data source
# (two commands have one name), and the panel looks for the server on port 8000 whatever address the page came from.
MENDED = (
    (
        "Export DICOM SEG",
        "await dataSource.store.dicom(naturalizedReport);",
        "dataSource = dataSource || extensionManager.getActiveDataSource()[0];\n"
        "      await dataSource.store.dicom(naturalizedReport);",
    ),
    (
        "the MONAI Label panel's server",
        "'http://' + window.location.host.split(':')[0] + ':8000/'",
        "window.location.origin + '/'",
    ),
)

logger = logging.getLogger(__name__)


def ohif_routes(folder: Path | None = None) -> APIRouter:
    """A route in front of MONAI Label's for every script that is mended.

    Args:
        folder: OHIF's files; default: those of the installed MONAI Label.
    """
    router = APIRouter(prefix="/ohif", include_in_schema=False, dependencies=allowed("user"))
    for name in _scripts(folder or _installed()):
        router.add_api_route(f"/{name.name}", functools.partial(_script, name), methods=["GET"])
    return router


def mended(text: str) -> str:
    """A script without the faults that occur in it exactly once."""
    for _, fault, remedy in MENDED:
        if text.count(fault) == 1:
            text = text.replace(fault, remedy)
    return text


def _script(path: Path) -> Any:
    try:
        return Response(mended(path.read_text(encoding="utf-8")), media_type="text/javascript")
    except (OSError, UnicodeDecodeError):
        return FileResponse(path, media_type="text/javascript")


def _scripts(folder: Path) -> list[Path]:
    """The scripts with a fault; a fault that is not found is told once, when the server starts."""
    found: dict[Path, None] = {}
    for what, fault, _ in MENDED:
        mark = fault.encode()
        holders = [path for path in sorted(folder.glob("*.js")) if path.read_bytes().count(mark) == 1]
        if len(holders) == 1:
            found[holders[0]] = None
        else:
            logger.warning("OHIF is served as it is: the place for mending %s was not found in %s", what, folder)
    return list(found)


def _installed() -> Path:
    import monailabel.endpoints

    return Path(monailabel.endpoints.__file__).parent / "static" / "ohif"
