"""Where a NRRD or MetaImage file keeps its voxels, and how many bytes there are, before ITK believes the header."""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path

from mnseg.errors import UserError

__all__ = ["data_files", "meta_voxel_bytes", "stored_bytes"]

HEADER_BYTES = 1 << 16
_DATA_FILE = re.compile(rb"^(?:ElementDataFile *=|data ?file:) *([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_IS_PACKED = re.compile(rb"^CompressedData *= *[Tt1]", re.MULTILINE)
_PACKED = re.compile(rb"^CompressedDataSize *= *(\d+)", re.MULTILINE)


def stored_bytes(path: str) -> int:
    """Bytes that the voxels of a NRRD or MetaImage file can come from: those of the file, or of its data files.

    Raises:
        UserError: the data file is missing or no regular file (ITK would wait for a pipe), or too short.
    """
    with open(path, "rb") as file:
        header = file.read(HEADER_BYTES)
    stored = _data_bytes(path, header)
    # ITK allocates as much as the header says, and never ends for a 0.
    if (packed := _PACKED.search(header)) and not 0 < int(packed[1][:20]) <= stored:
        raise UserError(f"{path} is damaged: its header claims {packed[1][:20].decode()} compressed bytes, there are "
                        f"{stored}.")
    return stored


def data_files(path: str | os.PathLike) -> list[Path]:
    """Files that hold the voxels of a .mhd or .nhdr file, besides itself; of a list of slices, all beside it.

    Raises:
        OSError: the header cannot be read.
    """
    with open(path, "rb") as file:
        text = _data_file(file.read(HEADER_BYTES))
    if text.upper() == "LOCAL":
        return []
    if _are_many(text):
        return sorted(part for part in Path(path).parent.iterdir() if part.is_file())
    data = Path(path).parent / text
    return [data] if data.is_file() else []


def _data_file(header: bytes) -> str:
    name = _DATA_FILE.search(header)
    return name[1].decode("utf-8", "replace").strip() if name else "LOCAL"


def _are_many(text: str) -> bool:
    """A file for every slice."""
    return text.upper().startswith("LIST") or "%" in text


def meta_voxel_bytes(path: str) -> int | None:
    """Bytes of voxels that a MetaImage file really holds, unpacked; None for other formats and many data files.

    ITK takes what memory holds for voxels that a compressed file lacks, without a word.

    Raises:
        zlib.error: the compressed voxels are damaged.
    """
    with open(path, "rb") as file:
        header = file.read(HEADER_BYTES)
    name = _DATA_FILE.search(header)
    if not path.lower().endswith((".mha", ".mhd")) or name is None or b"HeaderSize" in header[: name.end()]:
        return None
    text = name[1].decode("utf-8", "replace").strip()
    if _are_many(text):
        return None
    local = text.upper() == "LOCAL"
    start = header.index(b"\n", name.end()) + 1 if local else 0
    file_name = path if local else os.path.join(os.path.dirname(path), text)
    if not _IS_PACKED.search(header[: name.end()]):
        return os.path.getsize(file_name) - start
    return _unpacked_bytes(file_name, start)


def _unpacked_bytes(path: str, start: int) -> int:
    unpack, count = zlib.decompressobj(zlib.MAX_WBITS | 32), 0
    with open(path, "rb") as file:
        file.seek(start)
        while chunk := file.read(1 << 16):
            count += len(unpack.decompress(chunk))
    if not unpack.eof:
        raise zlib.error("the compressed voxels end too early")
    return count


def _data_bytes(path: str, header: bytes) -> int:
    text = _data_file(header)
    if text.upper() == "LOCAL":
        return os.path.getsize(path)
    if _are_many(text):
        return sum(part.stat().st_size for part in Path(path).parent.iterdir() if part.is_file())
    data = os.path.join(os.path.dirname(path), text)
    if not os.path.isfile(data):
        raise UserError(f"{path} cannot be read: its data file {data!r} is missing or no regular file.")
    return os.path.getsize(data)
