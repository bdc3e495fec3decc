"""Headers with wrong but well-formed fields, drawn by hypothesis without randomness."""

from __future__ import annotations

import gzip
import io
import re
import struct
from collections.abc import Iterator
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.tag import Tag

from fuzz.seeds import Seed

__all__ = ["dicom_edits", "drawn", "itk_edits", "nifti_edits"]

Edits = Iterator[tuple[str, dict[str, bytes]]]

REALS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 3.0, 1e-30, 1e30, -1e38, 1e-45, float("nan"), float("inf"),
                     float("-inf")]),
    st.floats(-1e4, 1e4, width=32),
)  # fmt: skip
NUMBERS = st.one_of(
    st.sampled_from(["0", "-1", "1", "2", "3", "4", "7", "30000", "65536", "2147483647", "4294967296", "-9999999999",
                     "1e400", "-1e308", "1e-320", "nan", "inf", "-inf", "abc", "", "0x10", "1,5", "9" * 400, "1e",
                     "0.00001", "0.7", "2.5"]),
    st.integers(-20, 40).map(str),
    st.floats(-5, 5, width=32).map(str),
)  # fmt: skip


def drawn(strategy: st.SearchStrategy, count: int) -> list[Any]:
    """``count`` examples, the same ones in every run."""
    found: list[Any] = []

    @settings(max_examples=count, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


# ---------------------------------------------------------------------------------------------------------- NIfTI

_INTEGERS = st.one_of(
    st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 16, 64, 128, 256, 511, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, -1,
                     -2, 30000, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**40]),
    st.integers(-10, 40),
)  # fmt: skip
_FIELDS = ("dim", "dim", "dim", "pixdim", "pixdim", "datatype", "bitpix", "vox_offset", "magic", "sform_code",
           "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "qoffset_x", "scl_slope", "scl_inter",
           "sizeof_hdr", "xyzt_units", "intent_code")  # fmt: skip
_NIFTI_EDIT = st.lists(st.tuples(st.sampled_from(_FIELDS), st.integers(0, 7), REALS, _INTEGERS), min_size=1, max_size=3)


def nifti_edits(seed: Seed, count: int) -> Edits:
    """One to three fields of the header set to something else."""
    (name, data), = seed.files.items()
    plain = gzip.decompress(data) if name.endswith(".gz") else data
    kind = nib.Nifti2Header if plain[:1] == b"\x1c" else nib.Nifti1Header
    dtype = kind.template_dtype
    for edit in drawn(_NIFTI_EDIT, count):
        header = np.frombuffer(plain[: dtype.itemsize], dtype).copy()
        for field, index, real, whole in edit:
            _set(header, field, index, real, whole)
        changed = header.tobytes() + plain[dtype.itemsize :]
        text = " ".join(f"{field}[{index}]={real:g}|{whole}" for field, index, real, whole in edit)
        yield text, {name: gzip.compress(changed, mtime=0) if name.endswith(".gz") else changed}


def _set(header: np.ndarray, field: str, index: int, real: float, whole: int) -> None:
    flat = header[field].reshape(-1)
    if field == "magic":
        header[field] = (b"ni1", b"n+2", b"", b"n+1\x00\x01")[index % 4]
    elif flat.dtype.kind == "f":
        flat[index % len(flat)] = real
    else:
        flat[index % len(flat)] = np.array(whole).astype(flat.dtype)  # wraps around
    if field != "magic":
        header[field] = flat.reshape(header[field].shape)


# ---------------------------------------------------------------------------------------------- NRRD and MetaImage

_WORDS = ("none", "raw", "gzip", "ascii", "bzip2", "hex", "short", "float", "double", "uchar", "block", "RAS",
          "left-posterior-superior", "right-anterior-superior", "scanner-xyz", "3D-right-handed", "MET_SHORT",
          "MET_FLOAT", "MET_UCHAR", "MET_DOUBLE", "MET_OTHER", "True", "False", "LOCAL", "LIST", "a.raw", "../a.raw",
          "/etc/passwd", "a%03d.raw 1 5 1", "domain domain domain", "little", "big", "(1,0,0) (0,1,0) (0,0,1)",
          "(1,0,0) (1,0,0) (0,0,1)", "(1,0,0) (0,nan,0) (0,0,1)", "none (1,0,0) (0,1,0)", "30000 30000 30000",
          "1000000 1000000 1", "1 0 0 0 1 0 0 0 0", "1 0 0 0 0.1 0 0 0 5", "0 0 0", "1 1 -1")  # fmt: skip
_ITK_EDIT = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from(("number", "number", "number", "word", "word", "drop", "twice",
                                                  "swap", "sizes")),
              st.integers(0, 12), NUMBERS, st.sampled_from(_WORDS)),
    min_size=1, max_size=2,
)  # fmt: skip
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def itk_edits(seed: Seed, count: int) -> Edits:
    """Lines of the text header changed: a number, the value, the order of the numbers; dropped, repeated."""
    data = seed.files[seed.main]
    end = re.search(rb"ElementDataFile[^\n]*\n|\n\n", data)
    head, rest = (data[: end.end()], data[end.end() :]) if end else (data, b"")
    for edit in drawn(_ITK_EDIT, count):
        lines = head.decode("latin-1").split("\n")
        for place, how, index, number, word in edit:
            filled = [i for i, line in enumerate(lines) if re.search(r"[:=] ", line)]
            if filled:
                _edit_line(lines, filled[place % len(filled)], how, index, number, word)
        text = " ".join(f"line {place} {how} {index} {number[:12]} {word}" for place, how, index, number, word in edit)
        yield text, seed.files | {seed.main: "\n".join(lines).encode("latin-1") + rest}


def _edit_line(lines: list[str], i: int, how: str, index: int, number: str, word: str) -> None:
    key, separator, value = re.match(r"(.*?)( ?[:=] )(.*)", lines[i]).groups()
    found = list(_NUMBER.finditer(value))
    if how == "drop":
        del lines[i]
    elif how == "twice":
        lines.insert(index % len(lines), lines[i])
    elif how == "number" and found:
        match = found[index % len(found)]
        lines[i] = key + separator + value[: match.start()] + number + value[match.end() :]
    elif how == "swap" and len(found) > 1:
        lines[i] = key + separator + " ".join(reversed(value.split(" ")))
    elif how == "sizes":
        sized = next((n for n, line in enumerate(lines) if line.startswith(("sizes: ", "DimSize = "))), i)
        lines[sized] = re.sub(r"(sizes: |DimSize = ).*", rf"\g<1>{word if word[0].isdigit() else number}", lines[sized])
    else:
        lines[i] = key + separator + (word if how == "word" else number)


# ---------------------------------------------------------------------------------------------------------- DICOM

_TAGS = {
    "Rows": "US", "Columns": "US", "PixelSpacing": "DS", "ImageOrientationPatient": "DS", "ImagePositionPatient": "DS",
    "RescaleSlope": "DS", "RescaleIntercept": "DS", "BitsAllocated": "US", "BitsStored": "US", "HighBit": "US",
    "PixelRepresentation": "US", "SamplesPerPixel": "US", "PhotometricInterpretation": "CS", "NumberOfFrames": "IS",
    "SliceThickness": "DS", "SeriesInstanceUID": "UI", "SOPClassUID": "UI", "SeriesNumber": "IS", "PixelData": "OW",
    "StudyInstanceUID": "UI", "ReferencedSegmentNumber": "US", "SegmentNumber": "US", "SegmentationType": "CS",
    "SegmentLabel": "LO", "PlanePositionSequence": "SQ", "PlaneOrientationSequence": "SQ",
    "PixelMeasuresSequence": "SQ", "PerFrameFunctionalGroupsSequence": "SQ", "SegmentSequence": "SQ",
    "SharedFunctionalGroupsSequence": "SQ", "SegmentIdentificationSequence": "SQ",
}  # fmt: skip
_SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50",
             "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.1.99", "1.2.3.4", "")  # fmt: skip
_TEXTS = ("MONOCHROME1", "RGB", "PALETTE COLOR", "YBR_FULL", "BINARY", "FRACTIONAL", "LABELMAP", "", "x" * 16,
          "1.2.3.4", "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.2", "ä", "liver")  # fmt: skip
_DICOM_EDIT = st.tuples(
    st.sampled_from(["syntax", "remove", "remove", *_TAGS, *_TAGS]), st.sampled_from(list(_TAGS)),
    st.sampled_from(["one", "all"]), st.integers(0, 99), NUMBERS, st.sampled_from(_TEXTS),
    st.one_of(st.sampled_from([0, 1, 2, 8, 12, 15, 16, 32, 64, 65535]), st.integers(0, 20)),
    st.sampled_from(_SYNTAXES),
)  # fmt: skip


def dicom_edits(seed: Seed, count: int) -> Edits:
    """One tag of one file, or of all files, set to something else or removed; another transfer syntax."""
    for kind, tag, how_many, place, number, text, whole, syntax in drawn(_DICOM_EDIT, count):
        names = sorted(seed.files, reverse=True)
        names = names if how_many == "all" else names[:1] if place % 2 else names[place % len(names) :][:1]
        files = dict(seed.files)
        for name in names:
            if kind == "syntax":
                files[name] = _with_syntax(files[name], syntax)
            else:
                files[name] = _with_tag(files[name], tag if kind == "remove" else kind, kind == "remove",
                                        (place, number, text, whole))
        what = syntax if kind == "syntax" else tag if kind == "remove" else f"{place} {number[:12]}|{text}|{whole}"
        yield f"{how_many} of {len(files)}, {kind} {what}", files


def _with_tag(data: bytes, tag: str, remove: bool, values: tuple[int, str, str, int]) -> bytes:
    place, number, text, whole = values
    with pydicom.config.disable_value_validation():
        dataset = pydicom.dcmread(io.BytesIO(data))
        holders = [one for one in _datasets(dataset) if tag in one] or ([] if remove else [dataset])
        for holder in holders if place % 3 else holders[place % max(len(holders), 1) :][:1]:
            if remove:
                del holder[tag]
            else:
                value = _value(holder, tag, place, number, text, whole)
                holder[tag] = (_raw(tag, value) if isinstance(value, bytes) else DataElement(tag, _TAGS[tag], value))
        stream = io.BytesIO()
        pydicom.dcmwrite(stream, dataset)
    return stream.getvalue()


def _datasets(dataset: pydicom.Dataset) -> list[pydicom.Dataset]:
    inner = [item for element in dataset if element.VR == "SQ" for item in element.value]
    return [dataset, *(found for item in inner for found in _datasets(item))]


def _value(holder: pydicom.Dataset, tag: str, place: int, number: str, text: str, whole: int) -> Any:
    vr = _TAGS[tag]
    if vr == "US":
        return whole
    if vr == "SQ":
        return [pydicom.Dataset()] * (whole % 3)
    if vr == "OW":
        return (bytes(holder.get(tag) or b"")[:-2] + bytes(2 * (whole % 4)))[: None if place % 2 else whole * 2]
    if vr == "DS" and tag in holder and place % 4:
        old = str(holder[tag].value).strip("[]").replace("'", "").split(", ")
        new = [*old]
        new[place % len(old)] = number
        return _written([new, new, old[:-1], [*new, number]][place // 4 % 4] or [""])
    return _written([number]) if vr in ("DS", "IS") else text


def _raw(tag: str, value: bytes) -> RawDataElement:
    """An element as it stands in a file, so that pydicom cannot correct it."""
    value += b" " * (len(value) % 2)
    return RawDataElement(Tag(tag), _TAGS[tag], len(value), value, 0, False, True)


def _written(parts: list[str]) -> bytes:
    return "\\".join(parts).encode()


def _with_syntax(data: bytes, syntax: str) -> bytes:
    """The transfer syntax replaced in the file's own bytes, the lengths around it made right."""
    old = pydicom.dcmread(io.BytesIO(data), specific_tags=[]).file_meta.TransferSyntaxUID.encode()
    old += b"\0" * (len(old) % 2)
    new = syntax.encode() + b"\0" * (len(syntax) % 2)
    mark = b"\x02\x00\x10\x00UI"
    meta = struct.unpack_from("<I", data, 140)[0] + len(new) - len(old)
    data = data[:140] + struct.pack("<I", meta) + data[144:]
    before = mark + struct.pack("<H", len(old)) + old
    return data.replace(before, mark + struct.pack("<H", len(new)) + new, 1)
