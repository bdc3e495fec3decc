"""What may be opened of a file that came over the network: its size and kind, and no way out of it.

A NRRD or MetaImage header may name another file as the place of its voxels. In an upload that would be a file of the
server, so such headers are refused before any reader sees them.
"""

from __future__ import annotations

import re
from pathlib import Path

from lib.errors import RequestError

__all__ = ["MAX_BYTES", "nrrd_fields", "require_sound_upload"]

MAX_BYTES = 512 << 20
SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
# Slicer writes about 400 bytes for each segment.
MAX_HEADER_BYTES = 1 << 20

_NRRD_ELSEWHERE = re.compile(rb"^\s*data ?file\s*:", re.IGNORECASE | re.MULTILINE)
_META_VOXELS = re.compile(rb"^\s*ElementDataFile\s*[=:]\s*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_NRRD_PAIR = re.compile(r"^([^:#\r\n]+):=([^\r\n]*)", re.MULTILINE)


def require_sound_upload(path: Path, max_bytes: int) -> None:
    """Refuse a file that is missing, empty, too large, of another kind, or that points to other files.

    Raises:
        RequestError: 400, no file or an empty one; 413, too large; 415, none of NIfTI, NRRD and MetaImage.
    """
    if not path.is_file():
        raise RequestError(400, "The request came without a label file.")
    size = path.stat().st_size
    if size == 0:
        raise RequestError(400, "The label file is empty (0 bytes); save it again.")
    if size > max_bytes:
        raise RequestError(413, f"The label file has {_amount(size)}, more than the {_amount(max_bytes)} that this "
                                "server accepts; save it compressed (.nii.gz or .nrrd).")
    if not path.name.lower().endswith(SUFFIXES):
        raise RequestError(415, "The label is no file of a kind that this server reads; send it as .nii.gz, .nii, "
                                ".nrrd, .seg.nrrd or .mha.")
    _refuse_detached_voxels(path)


def _amount(size: int) -> str:
    return f"{size / (1 << 20):.1f} MB" if size >= 1 << 20 else f"{size} bytes"


def _refuse_detached_voxels(path: Path) -> None:
    name = path.name.lower()
    with open(path, "rb") as file:
        start = file.read(MAX_HEADER_BYTES)
    if name.endswith(".nrrd"):
        header = _nrrd_header(start)
        sound = header is not None and not _NRRD_ELSEWHERE.search(header)
    elif name.endswith(".mha"):
        voxels = _META_VOXELS.search(start)
        sound = voxels is not None and voxels[1].strip().upper() == b"LOCAL"
    else:
        return
    if not sound:
        raise RequestError(415, "The label file is damaged or keeps its voxels in another file; save header and voxels "
                                "in one file.")


def _nrrd_header(start: bytes) -> bytes | None:
    """The header of a NRRD file, which ends at the first empty line; None when there is no such line."""
    if not start.startswith(b"NRRD"):
        return None
    ends = [place for mark in (b"\n\n", b"\r\n\r\n", b"\n\r\n") if (place := start.find(mark)) >= 0]
    return start[: min(ends)] if ends else None


def nrrd_fields(path: Path) -> dict[str, str]:
    """The key/value pairs (``key:=value``) of a NRRD header; none for other formats."""
    if not path.name.lower().endswith(".nrrd"):
        return {}
    with open(path, "rb") as file:
        header = _nrrd_header(file.read(MAX_HEADER_BYTES)) or b""
    return {key.strip(): value.strip() for key, value in _NRRD_PAIR.findall(header.decode("utf-8", "replace"))}
