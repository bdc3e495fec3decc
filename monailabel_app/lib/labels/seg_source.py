"""Did a person make this segmentation? Only then may it become a label."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["OURS", "author_of", "facts_of", "is_ours", "is_trusted", "made_when", "program_of", "why_not_a_label"]

OURS = "mnseg"
BY_HAND = ("MANUAL", "SEMIAUTOMATIC")
UNSAID = ("", "unspecified", "none", "anonymous", "unknown")
LONGEST = 120


def why_not_a_label(dataset: Any, sources: Collection[str] = ()) -> str:
    """Why a DICOM SEG does not count as somebody's label, or "" when it does.

    It counts when all its segments are MANUAL or SEMIAUTOMATIC, or when its Manufacturer, ManufacturerModelName or
    SeriesDescription is one of ``sources`` (whole, in any case). What this program wrote never counts, whatever it
    says of itself: labels that people send to the server are stored as SEG as well.

    Args:
        dataset: of the file.
        sources: trusted programs (``--conf seg_sources``).
    """
    if is_ours(dataset):
        return "It was written by this program."
    kinds = {_text(segment, "SegmentAlgorithmType").upper() or "nothing" for segment in dataset.SegmentSequence}
    if kinds <= set(BY_HAND) or is_trusted(dataset, sources):
        return ""
    said = ", ".join(sorted(kinds - set(BY_HAND)))
    return (f"Its segments are {said}, so no person vouches for them; made by {program_of(dataset)}. If its masks "
            "shall count as labels, name the program in --conf seg_sources.")


def is_ours(dataset: Any) -> bool:
    """Whether this program wrote it, on whatever server."""
    return _text(dataset, "Manufacturer").lower() == OURS


def is_trusted(dataset: Any, sources: Collection[str]) -> bool:
    """Whether it comes from one of the programs that were named."""
    names = {source.lower() for source in sources}
    keys = ("Manufacturer", "ManufacturerModelName", "SeriesDescription")
    return any(_text(dataset, key).lower() in names for key in keys if _text(dataset, key))


def author_of(dataset: Any) -> str:
    """Who made it: ContentCreatorName, else OperatorsName, else "unknown"."""
    for key in ("ContentCreatorName", "OperatorsName"):
        value = dataset.get(key)
        first = value[0] if isinstance(value, (list, tuple)) and value else value
        name = " ".join(str(first or "").replace("^", " ").split())
        if name.lower() not in UNSAID:
            return name[:80]
    return "unknown"


def program_of(dataset: Any) -> str:
    """What made it, by its own words."""
    names = [_text(dataset, key) for key in ("Manufacturer", "ManufacturerModelName")]
    names.append(str(getattr(dataset, "file_meta", {}).get("ImplementationVersionName", "")))
    told = list(dict.fromkeys(name for name in names if name.lower() not in UNSAID))
    return ", ".join(told)[:LONGEST] or "a program without a name"


def made_when(dataset: Any) -> str:
    """Date and time of its content as DICOM writes them, "" if unsaid."""
    date, time = _text(dataset, "ContentDate"), _text(dataset, "ContentTime")
    return f"{date} {time}".strip()


def facts_of(dataset: Any) -> Mapping[str, str]:
    """What is kept beside a label that came from a SEG."""
    return {"author": author_of(dataset), "made": made_when(dataset), "program": program_of(dataset),
            "description": _text(dataset, "SeriesDescription")}


def _text(dataset: Any, key: str) -> str:
    """One line; a SEG may come from anywhere."""
    return " ".join(str(dataset.get(key) or "").split())[:LONGEST]
