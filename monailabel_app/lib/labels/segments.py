"""Which class a number in somebody's label file means: by the names of the segments, never by guessing.

3D Slicer sends ``label_info`` with every label: ``[{"name": …, "idx": …}]`` in the order of its segments. It counts
``idx`` over all segments, also over a "background" that it then leaves out, but numbers the voxels of the file 1, 2, …
in the order of those that remain; so the two may differ. A .seg.nrrd carries names and numbers itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.errors import RequestError
from lib.labels.upload import nrrd_fields

__all__ = ["class_values", "classes_of", "plain_name", "segment_entries", "segments_in_file"]

_SEGMENT = re.compile(r"Segment(\d+)_(Name|LabelValue|Layer)")


def plain_name(name: str) -> str:
    """Names are the same in spite of case, underscores and blanks."""
    return " ".join(name.replace("_", " ").lower().split())


def class_values(labels: Sequence[str] | Mapping[str, int]) -> dict[str, int]:
    """The app's classes as ``{name: 1..N}``, without the background: a list is numbered from 1."""
    pairs = labels.items() if isinstance(labels, Mapping) else zip(labels, range(1, len(labels) + 1), strict=True)
    return {str(name): int(value) for name, value in pairs if int(value) > 0}


def segments_in_file(path: Path) -> dict[int, str] | None:
    """Number and name of the segments of a .seg.nrrd; None when the file names none.

    Raises:
        RequestError: 400, its segments overlap, so that it has more than one layer.
    """
    parts: dict[str, dict[str, str]] = {}
    for key, value in nrrd_fields(path).items():
        if match := _SEGMENT.fullmatch(key):
            parts.setdefault(match[1], {})[match[2]] = value
    if len({part.get("Layer", "0") for part in parts.values()}) > 1:
        raise RequestError(400, "The label has segments that overlap (several layers), but a voxel can have only one "
                                "class; let no segments overlap and save again.")
    named = {part["LabelValue"]: part["Name"] for part in parts.values() if {"LabelValue", "Name"} <= part.keys()}
    whole = {int(value): name for value, name in named.items() if re.fullmatch(r"\d{1,6}", value)}
    return whole or None


def classes_of(
    values: Sequence[int], classes: Mapping[str, int], segments: Mapping[int, str] | None, label_info: Any
) -> dict[int, int]:
    """The class of every number that occurs in a label file.

    Args:
        values: numbers above 0 that occur in the file.
        classes: `class_values`.
        segments: `segments_in_file`; they go before ``label_info``.
        label_info: as 3D Slicer sends it; None or empty: the numbers are the classes.

    Raises:
        RequestError: 400, a number has no name, a name no class, or ``label_info`` can be read in two ways.
    """
    if segments is None:
        segments = _from_label_info(values, label_info) if label_info else None
    if segments is None:
        wrong = sorted(set(values) - set(classes.values()))
        if wrong:
            raise RequestError(400, f"The label has the value {wrong[0]}, which is no class of this server: it may "
                                    f"have {_listed(classes)}.")
        return {value: value for value in values}
    nameless = sorted(set(values) - segments.keys())
    if nameless:
        raise RequestError(400, f"The label has the value {nameless[0]}, but no segment name was sent for it; name "
                                "every segment and save again.")
    by_name = {plain_name(name): value for name, value in classes.items()} | {"background": 0}
    unknown = sorted({segments[value] for value in values if plain_name(segments[value]) not in by_name})
    if unknown:
        raise RequestError(400, f"The label has a segment {unknown[0][:60]!r}, which is none of this server's: rename "
                                f"it to one of {_listed(classes)}, or remove it.")
    return {value: by_name[plain_name(segments[value])] for value in values}


def _listed(classes: Mapping[str, int]) -> str:
    return ", ".join(f"{value} ({name})" for name, value in sorted(classes.items(), key=lambda pair: pair[1]))


def _from_label_info(values: Sequence[int], label_info: Any) -> dict[int, str]:
    entries = segment_entries(label_info)
    by_index = dict(entries)
    if len(by_index) < len(set(entries)):
        raise RequestError(400, "label_info gives two names to one idx; give every segment its own.")
    by_order = {place: name for place, (_, name) in enumerate(entries, 1)}
    if set(by_index) == set(by_order) or not set(values) <= by_order.keys():
        return by_index
    if not set(values) <= by_index.keys():
        return by_order
    if any(plain_name(by_index[value]) != plain_name(by_order[value]) for value in values):
        raise RequestError(400, "It is not certain which segment is which, since label_info does not count from 1: "
                                "move the segments of this server to the front of the list and save again.")
    return by_index


def segment_entries(label_info: Any) -> list[tuple[int, str]]:
    """Number and name of every segment that a client names.

    Raises:
        RequestError: 400, it is no such list.
    """
    try:
        entries = [(entry["idx"], entry["name"]) for entry in label_info]
    except (TypeError, KeyError) as error:
        raise RequestError(400, 'label_info must be a list like [{"name": "liver", "idx": 1}].') from error
    for index, name in entries:
        if isinstance(index, bool) or not isinstance(index, int) or not isinstance(name, str):
            raise RequestError(400, "label_info must have a whole number as idx and a text as name in every entry.")
    return entries
