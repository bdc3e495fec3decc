"""What the DICOMweb proxy may be asked for: it has the DICOM server's password, and everybody may use it.

``..``, in whatever way it is written, would lead out of DICOMweb into the rest of the server's interface. So letters of
DICOMweb's own paths are let through, and nothing that a library or a server on the way could read as anything else.
"""

from __future__ import annotations

import re

from lib.errors import RequestError

__all__ = ["require_dicomweb_path"]

# No "%", which hides other letters; no "?", "#", ";" or backslash, behind which the path would be another one.
PATH = re.compile(r"/*(studies|series|instances)(/(?!\.{1,2}(/|$))[\w.,:=@~+-]*)*", re.ASCII)


def require_dicomweb_path(path: str) -> None:
    """Raises: RequestError, 400, for what is no path of studies, series or instances below DICOMweb's root."""
    if not PATH.fullmatch(path):
        raise RequestError(400, "The DICOM server may be asked for studies, series and instances, not for "
                                f"{path[:80]!r}: write a DICOMweb path such as studies/UID/series.")
