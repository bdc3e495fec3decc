"""Which case goes into which split: by number, by position in a list, or by name."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mnseg.data.volume_formats import VOLUME_SUFFIXES
from mnseg.errors import UserError

__all__ = ["choose_splits", "named", "patients_of", "read_case_list", "select_cases"]

_POSITION = re.compile(r"(first|last):(\d+)(?::(\d+))?")
# A drawn test set must not change when more labels are added, so it is drawn first and "labeled" last.
_DRAW_ORDER = ("testing", "validation", "labeled")


def read_case_list(path: str | Path) -> list[str]:
    """Case ids from a text file, one a line; blank lines and lines starting with ``#`` are skipped.

    Raises:
        UserError: the file is missing, unreadable or empty, or names a case twice.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    except FileNotFoundError as error:
        raise UserError(f"list file {path} does not exist.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"list file {path} cannot be read ({error}).") from error
    cases = [_without_suffix(line) for line in lines if line and not line.startswith("#")]
    if not cases:
        raise UserError(f"list file {path} names no case.")
    if repeated := sorted(case for case, count in Counter(cases).items() if count > 1):
        raise UserError(f"list file {path} names {named(repeated)} more than once.")
    return cases


def select_cases(spec: str, order: Sequence[str]) -> int | list[str]:
    """Read what ``--labeled``, ``--validation`` or ``--test`` ask for.

    Args:
        spec: ``N`` (to be drawn by seed), ``first:N``, ``last:N`` (positions in ``order``), ``first:N:SKIP``,
            ``last:N:SKIP`` (the same after leaving out SKIP cases at that end), or the name of a list file.
        order: all case ids, in the order that positions refer to.

    Returns:
        A number to draw, or the case ids.
    """
    if spec.isdecimal():
        return int(spec)
    if match := _POSITION.fullmatch(spec):
        count, skip = int(match[2]), int(match[3] or 0)
        if count + skip > len(order):
            raise UserError(f"{spec} asks for more cases than there are ({len(order)}).")
        start = skip if match[1] == "first" else len(order) - skip - count
        return list(order[start : start + count])
    if not Path(spec).is_file():
        raise UserError(f"{spec!r} is neither a number, nor first:N[:SKIP] or last:N[:SKIP], nor a list file.")
    cases = read_case_list(spec)
    known = set(order)
    if unknown := [case for case in cases if case not in known]:
        raise UserError(f"list file {spec} names {named(unknown)} without an image.")
    return cases


def patients_of(cases: Sequence[str], pattern: str) -> dict[str, str]:
    """Patient of each case: the first group of ``pattern`` (or its whole match) found in the case id."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"patient pattern {pattern!r} is not a regular expression: {error}.") from error
    found = {case: compiled.search(case) for case in cases}
    if missing := [case for case, match in found.items() if not match]:
        raise UserError(f"patient pattern {pattern!r} does not match {named(missing)}.")
    return {case: match[1] if compiled.groups else match[0] for case, match in found.items()}


def choose_splits(
    order: Sequence[str],
    with_label: Collection[str],
    wanted: Mapping[str, str | None],
    seed: int = 0,
    patients: Mapping[str, str] | None = None,
) -> dict[str, list[str]]:
    """Distribute cases over labeled, unlabeled, validation and testing.

    Cases chosen by position or name come first; numbers are then drawn from the other cases that have a label. A
    draw ranks cases by a hash of seed and case id, so asking for 8 labeled cases gives the 4 of before and 4 more,
    and a new scan does not reshuffle the others. All cases left over are unlabeled.

    Args:
        order: all case ids.
        with_label: those that have a label.
        wanted: what `select_cases` reads, for "labeled", "validation" and "testing"; None for "labeled" takes every
            labeled case that is left, None elsewhere takes none.
        patients: patient of each case. One patient's scans then stay within training, validation or testing: the
            other scans of a validation or test patient are left out.

    Returns:
        The case ids of every split, in the order of ``order``.

    Raises:
        UserError: a case or patient would be in two splits, a chosen case has no label, or too few are left.
    """
    patients = patients or {case: case for case in order}
    chosen = {split: select_cases(wanted.get(split) or "0", order) for split in _DRAW_ORDER}
    splits = {split: cases for split, cases in chosen.items() if isinstance(cases, list)}
    _refuse_overlap(splits)
    _refuse_missing_labels(splits, with_label)
    for split in _DRAW_ORDER:
        if split in splits:
            continue
        barred = _patients_elsewhere(splits, split, patients)
        taken = {case for cases in splits.values() for case in cases}
        free = [case for case in order if case in with_label and case not in taken and patients[case] not in barred]
        everything = split == "labeled" and wanted.get(split) is None
        splits[split] = free if everything else _draw(free, chosen[split], split, seed, patients)
    _refuse_shared_patients(splits, patients)
    position = {case: index for index, case in enumerate(order)}
    taken = {case for cases in splits.values() for case in cases}
    held_out = {patients[case] for split in ("validation", "testing") for case in splits[split]}
    splits["unlabeled"] = [case for case in order if case not in taken and patients[case] not in held_out]
    return {split: sorted(cases, key=position.__getitem__) for split, cases in splits.items()}


def named(cases: Sequence[str], limit: int = 3, noun: str = "case") -> str:
    """Up to three names and the number of all: ``3 cases (a, b, c)``."""
    more = ", …" if len(cases) > limit else ""
    return f"{len(cases)} {noun}{'' if len(cases) == 1 else 's'} ({', '.join(cases[:limit])}{more})"


def _draw(free: list[str], count: int, split: str, seed: int, patients: Mapping[str, str]) -> list[str]:
    if count > len(free):
        raise UserError(f"{count} {split} cases were asked for, but only {len(free)} with a label are left.")
    if split == "labeled":
        return sorted(free, key=lambda case: _rank(seed, split, case))[:count]
    # Whole patients one after the other, so that few of their other scans have to be left out.
    return sorted(free, key=lambda c: (_rank(seed, split, patients[c]), _rank(seed, split, c)))[:count]


def _rank(seed: int, split: str, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{split}/{name}".encode(), digest_size=8).digest()


def _patients_elsewhere(splits: Mapping[str, list[str]], split: str, patients: Mapping[str, str]) -> set[str]:
    return {patients[case] for other, cases in splits.items() if other != split for case in cases}


def _refuse_overlap(splits: Mapping[str, list[str]]) -> None:
    names = list(splits)
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            if both := sorted(set(splits[first]) & set(splits[second])):
                raise UserError(f"{named(both)} would be in both {first} and {second}.")


def _refuse_missing_labels(splits: Mapping[str, list[str]], with_label: Collection[str]) -> None:
    for split, cases in splits.items():
        if missing := [case for case in cases if case not in with_label]:
            raise UserError(f"{named(missing)} chosen for {split} without a label file.")


def _refuse_shared_patients(splits: Mapping[str, list[str]], patients: Mapping[str, str]) -> None:
    for split, cases in splits.items():
        others = _patients_elsewhere(splits, split, patients)
        if shared := sorted({patients[case] for case in cases} & others):
            raise UserError(f"scans of {named(shared, noun='patient')} would be in {split} and in another split; "
                            "choose whole patients.")


def _without_suffix(name: str) -> str:
    for suffix in VOLUME_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name
