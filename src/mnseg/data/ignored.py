"""Partial labels: the structures that a reader did not draw in a scan.

A datalist item may say ``"ignored": ["tumor"]`` (names of the datalist's "class_names", or label values). Its voxels
labeled background may then be tumor; the loss and the metrics leave the structure out for this scan.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mnseg.data.case_check import CaseResult, Finding
from mnseg.data.case_table import read_case_table
from mnseg.errors import UserError

__all__ = ["ignored_indices", "read_ignored", "with_ignored_masks", "wrong_ignored"]


def ignored_indices(
    value: Any, class_names: Sequence[str] | None, num_classes: int | None = None, where: str = "an item"
) -> list[int]:
    """The label values that "ignored" names, sorted.

    Args:
        value: what the item says: a list of class names or label values, or one of them.
        class_names: names of the label values 0, 1, …, if the datalist has them.
        num_classes: number of classes; default: as many as ``class_names``. With neither, any value above 0 passes.
        where: the item, for the message.

    Raises:
        UserError: an unknown name or value, the background, or all structures.
    """
    names = list(class_names or [])
    num_classes = num_classes or len(names) or None
    entries = [value] if isinstance(value, (str, int)) else value
    if not isinstance(entries, Sequence):
        raise UserError(f'{where}: "ignored" must be a list of class names or label values.')
    indices = sorted({_index(entry, names, where) for entry in entries})
    if wrong := [index for index in indices if index < 0 or (num_classes and index >= num_classes)]:
        raise UserError(f'{where}: "ignored" names the label value {wrong[0]}, but there are {num_classes} classes.')
    if 0 in indices:
        raise UserError(f'{where}: "ignored" names the background, which cannot be left out; name structures.')
    if num_classes and indices and len(indices) >= num_classes - 1:
        raise UserError(f'{where}: "ignored" names all structures, so its label says nothing; move the scan to '
                        '"unlabeled" without its label.')
    return indices


def _index(entry: Any, names: list[str], where: str) -> int:
    if isinstance(entry, int) and not isinstance(entry, bool):
        return entry
    if entry in names:
        return names.index(entry)
    if not names:
        raise UserError(f'{where}: "ignored" names {entry!r}, but the datalist has no "class_names"; add them, or give '
                        "label values.")
    raise UserError(f'{where}: "ignored" names {entry!r}, which is none of the classes {", ".join(names)}.')


def read_ignored(
    path: str | Path, cases: Container[str], class_names: Sequence[str] | None
) -> dict[str, list[str | int]]:
    """What a CSV file with the columns case and class (a name or label value, a line each) says was not drawn.

    Raises:
        UserError: a case that does not exist, or a class as `ignored_indices` refuses it.
    """
    found: dict[str, list[str | int]] = {}
    for case, entry in read_case_table(path, "class"):
        if case not in cases:
            raise UserError(f"table {path} names case {case}, which has no image.")
        value = int(entry) if entry.isdecimal() and entry not in (class_names or []) else entry
        found.setdefault(case, []).append(value)
    for case, entries in found.items():
        ignored_indices(entries, class_names, where=f"case {case} in {path}")
    return found


def with_ignored_masks(items: Sequence[Mapping[str, Any]], num_classes: int) -> list[dict[str, Any]]:
    """Items with resolved "ignored" get an "ignored_mask", K booleans, which the batches carry to the loss."""
    return [
        {**item, "ignored_mask": [index in item["ignored"] for index in range(num_classes)]}
        if item.get("ignored")
        else dict(item)
        for item in items
    ]


def wrong_ignored(
    items: Sequence[tuple[str, Mapping[str, Any]]],
    results: Sequence[CaseResult],
    class_names: Sequence[str] | None,
    num_classes: int | None,
) -> Iterator[Finding]:
    """A label that contains a class declared as not drawn, and declarations that do not fit the number of classes."""
    for (split, item), result in zip(items, results, strict=True):
        if "ignored" not in item:
            continue
        try:
            ignored_indices(item["ignored"], class_names, num_classes, "the item")
        except UserError as error:
            yield Finding("error", split, item["case"], str(error))
        for index in sorted(result.classes.intersection(item["ignored"])):
            name = f" ({class_names[index]})" if class_names and index < len(class_names) else ""
            yield Finding("error", split, item["case"],
                          f'"ignored" names class {index}{name}, but label {item["label"]} contains it; take it off '
                          '"ignored", or erase an unfinished structure from the label.')
