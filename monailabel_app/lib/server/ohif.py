"""OHIF's files as MONAI Label brings them, with three faults mended on their way to the browser.

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

# Puts the slices into the order in which OHIF's DICOM library sorts those of the scan: it pairs them by number, so that
# in any other order each is exported onto its mirror image along the stack.
_SORTED = """
      const placeOf = image => {
        const slice = esm.metaData.get('instance', image.referencedImageId);
        const [a, b, c, d, e, f] = Array.from(slice.ImageOrientationPatient, Number);
        const p = slice.ImagePositionPatient;
        return p[0] * (b * f - c * e) + p[1] * (c * d - a * f) + p[2] * (a * e - b * d);
      };
      segImages.sort((one, other) => placeOf(other) - placeOf(one));"""

# What is mended, and the places with what stands before and behind each. A script is mended in all places or in none:
# an export that fails is better than one with the slices in the wrong order. It fails because it is run without its
# data source (two commands have one name). The panel looks for its server on port 8000 whatever the page's address is.
MENDED = (
    (
        "Export DICOM SEG",
        (
            ("", "const segImages = imageIds.map(imageId => esm.cache.getImage(imageId));", _SORTED),
            ("dataSource = dataSource || extensionManager.getActiveDataSource()[0];\n      ",
             "await dataSource.store.dicom(naturalizedReport);", ""),
        ),
    ),
    ("the address of the MONAI Label panel's server", (
        ("window.location.origin + '/' || ", "'http://' + window.location.host.split(':')[0] + ':8000/'", ""),
    )),
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
    """A script without the faults that it has."""
    for _, places in MENDED:
        if all(text.count(fault) == 1 for _, fault, _ in places):
            for before, fault, behind in places:
                text = text.replace(fault, before + fault + behind)
    return text


def _script(path: Path) -> Any:
    try:
        return Response(mended(path.read_text(encoding="utf-8")), media_type="text/javascript")
    except (OSError, UnicodeDecodeError):
        return FileResponse(path, media_type="text/javascript")


def _scripts(folder: Path) -> list[Path]:
    """The scripts with a fault; one that is not found is told once, when the server starts."""
    scripts = {path: path.read_bytes() for path in sorted(folder.glob("*.js"))}
    found: dict[Path, None] = {}
    for what, places in MENDED:
        holders = [path for path, text in scripts.items() if all(text.count(fault.encode()) == 1
                                                                 for _, fault, _ in places)]
        if len(holders) == 1:
            found[holders[0]] = None
        else:
            logger.warning("OHIF is served as it is: the places for mending %s were not found in %s", what, folder)
    return list(found)


def _installed() -> Path:
    import monailabel.endpoints

    return Path(monailabel.endpoints.__file__).parent / "static" / "ohif"
