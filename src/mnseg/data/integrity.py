"""Is a datalist sound? Everything that would spoil a training run or its evaluation, found before it starts."""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mnseg.data.case_check import CaseResult, Finding, hidden_label_faults
from mnseg.data.check_memory import CheckMemory
from mnseg.data.datalist import PATH_KEYS, SPLITS, load_datalist, resolve_datalist
from mnseg.data.ignored import with_ignored_masks, wrong_ignored
from mnseg.data.itk_module import load_itk_for
from mnseg.data.outliers import peculiarities
from mnseg.errors import UserError

__all__ = ["CheckReport", "Finding", "check_datalist", "require_sound_datalist"]

logger = logging.getLogger(__name__)

_REQUIRED = ("labeled", "unlabeled", "validation")
_POOL = {"labeled": "training", "unlabeled": "training", "validation": "validation", "testing": "testing"}


@dataclass
class CheckReport:
    """All findings of one check, errors first, and how many scans of each split were looked at."""

    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "warning"]

    def summary(self) -> str:
        scans = ", ".join(f"{count} {split}" for split, count in self.counts.items())
        return f"{scans}: {_plural(len(self.errors), 'error')}, {_plural(len(self.warnings), 'warning')}"

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "counts": self.counts,
            "findings": [asdict(finding) for finding in self.findings],
        }

    def raise_for_errors(self, limit: int = 10) -> None:
        """Raise a `UserError` that lists up to ``limit`` errors; do nothing when there are none."""
        if not self.errors:
            return
        lines = [f"  {finding}" for finding in self.errors[:limit]]
        if len(self.errors) > limit:
            lines.append(f"  … and {len(self.errors) - limit} more; `mnseg check` lists all.")
        raise UserError("\n".join([f"the datalist has {_plural(len(self.errors), 'error')}:", *lines]))


def check_datalist(
    datalist: Mapping[str, Any] | str | os.PathLike,
    dataset_dir: str | os.PathLike | None = None,
    num_classes: int | None = None,
    jobs: int | None = None,
    check_hidden: bool = False,
    progress: bool = False,
    allow_empty_unlabeled: bool = False,
    in_channels: int | None = None,
    cache_dir: str | os.PathLike | None = None,
    planar: bool = False,
) -> CheckReport:
    """Read every image and label once and report all defects.

    Args:
        datalist: a file, or its content; relative paths of a content are looked for in ``dataset_dir`` (default:
            the current folder).
        num_classes: labels must be 0..num_classes-1; default: the number of "class_names" in the datalist. With
            neither, labels need only be whole numbers >= 0.
        jobs: volumes read at the same time, each holding one volume in memory; default: up to 4.
        check_hidden: also compare "hidden_label" files with their images (as warnings); else they need only exist.
        progress: show a progress bar when stderr is a terminal.
        allow_empty_unlabeled: say nothing about an "unlabeled" list without items.
        in_channels: channels that every scan must have; default: all the same number.
        cache_dir: folder that remembers what was found, so that only new and changed files are read; None: all are.
        planar: the scans are 2D images; gray and color may be mixed.

    Raises:
        UserError: the datalist itself cannot be read. Defects of the scans are findings instead.
    """
    if isinstance(datalist, Mapping):
        resolved = resolve_datalist(datalist, [Path(os.path.abspath(dataset_dir or "."))])
    else:
        resolved = load_datalist(datalist, dataset_dir)
    names = resolved.get("class_names")
    findings = [*_unknown_splits(resolved), *_unfit_for_training(resolved, allow_empty_unlabeled)]
    if names and num_classes and len(names) != num_classes:
        findings.append(Finding("error", "", "", f"its class_names has {len(names)} names ({', '.join(names)}), but "
                                                 f"{num_classes} classes were asked for: make them agree."))
    num_classes = num_classes or (len(names) if names else None)
    items = [(split, item) for split in SPLITS for item in resolved.get(split, [])]
    memory = CheckMemory(cache_dir, num_classes, check_hidden, planar)
    results = _check_cases(items, memory, jobs or min(4, os.cpu_count() or 1), progress)
    memory.save()
    findings += [finding for result in results for finding in result.findings]
    findings += [*_repeated_cases(results), *_repeated_content(results), *_shared_patients(items),
                 *_wrong_channels(results, in_channels), *_absent_classes(results, num_classes, names),
                 *wrong_ignored(items, results, names, num_classes), *_unlike_the_rest(results)]
    findings.sort(key=lambda finding: finding.level != "error")
    return CheckReport(findings, {split: len(resolved.get(split, [])) for split in SPLITS})


def _check_cases(
    items: list[tuple[str, Mapping[str, Any]]], memory: CheckMemory, jobs: int, progress: bool
) -> list[CaseResult]:
    """Run `check_case` on threads: decompression, hashing and NumPy release the interpreter lock."""
    load_itk_for(path for _, item in items for key, path in item.items() if key in PATH_KEYS)
    pool = ThreadPoolExecutor(jobs)
    try:
        results = pool.map(lambda pair: memory.check(*pair), items)
        return list(tqdm(results, "checking", len(items), leave=False, disable=None if progress else True))
    finally:
        pool.shutdown(cancel_futures=True)  # so that Ctrl-C ends after the volumes in hand, not after all


def _unknown_splits(datalist: Mapping[str, Any]) -> Iterator[Finding]:
    """A misspelled key would silently leave its scans out."""
    for key, value in datalist.items():
        has_items = isinstance(value, list) and any(isinstance(item, Mapping) and "image" in item for item in value)
        if key not in SPLITS and has_items:
            yield Finding("warning", "", "", f'"{key}" is not one of {", ".join(SPLITS)}: its items are not used.')


def _unfit_for_training(datalist: Mapping[str, Any], allow_empty_unlabeled: bool) -> Iterator[Finding]:
    """What `require_sound_datalist` would stop at, said before a training is started."""
    if not any(datalist.get(split) for split in SPLITS):
        yield Finding("error", "", "", "names no scan.")
        return
    for key in _REQUIRED:
        if key not in datalist:
            yield Finding("error", "", "", _missing_key(key))
    if datalist.get("labeled") == []:
        yield Finding("warning", "", "", 'has no case under "labeled": nothing can be trained from it.')
    if datalist.get("unlabeled") == [] and not allow_empty_unlabeled:
        yield Finding("warning", "", "", 'has no case under "unlabeled": training stops unless '
                                         "allow_empty_unlabeled is set to true.")


def _missing_key(key: str) -> str:
    return f'has no "{key}"; add that key (`mnseg datalist` writes all of them).'


def _repeated_cases(results: list[CaseResult]) -> Iterator[Finding]:
    """Case ids name predictions and pseudo-labels, so two scans must not share one."""
    splits = defaultdict(list)
    for result in results:
        splits[result.case].append(result)
    for case, group in splits.items():
        if len({result.image for result in group}) > 1:
            where = " and ".join(f"{result.image} ({result.split})" for result in group[:3])
            yield Finding("error", "", case, f'{len(group)} images share this case id: {where}; rename one or give '
                                             'the items different "case" values.')


def _repeated_content(results: list[CaseResult]) -> Iterator[Finding]:
    """Equal voxels under any name: an error over two splits (leakage), a warning inside one."""
    groups = defaultdict(list)
    for result in results:
        groups[result.digest or f"unread:{result.image}"].append(result)
    for group in groups.values():
        if len(group) < 2:
            continue
        where = ", ".join(f"{result.split}/{result.case}" for result in group)
        if len({result.split for result in group}) > 1:
            yield Finding("error", "", "", f"the same scan is in more than one split: {where}.")
        else:
            yield Finding("warning", "", "", f"the same scan occurs {len(group)} times: {where}.")


def _shared_patients(items: list[tuple[str, Mapping[str, Any]]]) -> Iterator[Finding]:
    """Items may name their "patient"; one patient's scans must stay within training, validation or testing."""
    pools = defaultdict(lambda: defaultdict(list))
    for split, item in items:
        if "patient" in item:
            pools[item["patient"]][_POOL[split]].append(f"{split}/{item['case']}")
    for patient, by_pool in pools.items():
        if len(by_pool) > 1:
            where = ", ".join(cases[0] for cases in by_pool.values())
            yield Finding("error", "", "", f"patient {patient} has scans in more than one of training, validation "
                                           f"and testing: {where}.")


def _wrong_channels(results: list[CaseResult], in_channels: int | None) -> Iterator[Finding]:
    """Scans whose channels differ from ``in_channels``, or without it from those of most scans."""
    counts = Counter(result.channels for result in results if result.channels)
    if not counts:
        return
    expected = in_channels or counts.most_common(1)[0][0]
    for result in results:
        if result.channels and result.channels != expected:
            other = (f"but in_channels is {in_channels}; set in_channels to the channels of the scans, or convert this "
                     "one" if in_channels else f"most images have {expected}")
            yield Finding("error", result.split, result.case,
                          f"{result.image} has {_plural(result.channels, 'channel')}, {other}.")


def _absent_classes(
    results: list[CaseResult], num_classes: int | None, names: list[str] | None
) -> Iterator[Finding]:
    labeled = [result for result in results if result.split == "labeled"]
    seen = frozenset().union(*(result.classes for result in labeled))
    if not num_classes or len(seen) < 2:
        return
    for index in sorted(set(range(1, num_classes)) - seen):
        name = f" ({names[index]})" if names and index < len(names) else ""
        yield Finding("warning", "labeled", "", f"class {index}{name} occurs in no labeled case.")


def _unlike_the_rest(results: list[CaseResult]) -> Iterator[Finding]:
    known = [result for result in results if result.profile]
    for position, text in peculiarities([result.profile for result in known]):
        yield Finding("warning", known[position].split, known[position].case, f"unlike the rest: {text}.")


def require_sound_datalist(
    path: str | os.PathLike,
    dataset_dir: str | os.PathLike | None = None,
    num_classes: int | None = None,
    allow_empty_unlabeled: bool = False,
    batch_size: int | None = None,
    min_labeled: int = 1,
    in_channels: int | None = None,
    class_names: Sequence[str] | None = None,
    cache_dir: str | os.PathLike | None = None,
    planar: bool = False,
    hidden_cases: int = 0,
) -> dict[str, Any]:
    """Load and check a datalist for training; warnings are logged, errors stop.

    Args:
        batch_size: items per batch (B of Eq. 11); it must hold at least ``min_labeled`` labeled items.
        in_channels: channels that every scan must have, those of the network's input.
        class_names: names that "ignored" may use, where the datalist has no "class_names" itself.
        cache_dir: see ``check_datalist``.
        planar: see ``check_datalist``.
        hidden_cases: how many "hidden_label" files will be used. One that is defective is left out of the datalist,
            and said: it would only log a figure.

    Returns:
        The datalist with all of "labeled", "unlabeled", "validation", "testing" (possibly empty); absolute paths;
        every item with its "case", and with an "ignored_mask" of K booleans where it has "ignored".

    Raises:
        UserError: a key is missing, a pool is empty that must not be, the batch is too small, or the check failed.
    """
    datalist = load_datalist(path, dataset_dir, class_names)
    for key in _REQUIRED:
        if key not in datalist:
            raise UserError(f"datalist {path} {_missing_key(key)}")
    if not datalist["labeled"]:
        raise UserError(f'datalist {path} has no labeled case; put at least one under "labeled".')
    if not datalist["unlabeled"] and not allow_empty_unlabeled:
        raise UserError(f'datalist {path} has no unlabeled case, so there is nothing to co-train on; add scans under '
                        '"unlabeled" or set allow_empty_unlabeled to true.')
    if not datalist["validation"]:
        logger.warning('datalist %s has no case under "validation": the best model cannot be chosen.', path)
    _compare_names(datalist.get("class_names"), class_names, path)
    _require_batch(batch_size, min_labeled)
    report = check_datalist(datalist, num_classes=num_classes, allow_empty_unlabeled=allow_empty_unlabeled,
                            in_channels=in_channels, cache_dir=cache_dir, planar=planar)
    for finding in report.warnings:
        logger.warning("%s", finding)
    try:
        report.raise_for_errors()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    logger.info("%s: %s", path, report.summary())
    datalist = {**datalist, "testing": datalist.get("testing", []),
                "unlabeled": _with_sound_hidden(datalist["unlabeled"], hidden_cases, num_classes)}
    names = datalist.get("class_names") or class_names or []
    return datalist | {key: with_ignored_masks(datalist[key], num_classes or len(names)) for key in SPLITS}


def _with_sound_hidden(
    items: Sequence[Mapping[str, Any]], wanted: int, num_classes: int | None
) -> list[Mapping[str, Any]]:
    """The unlabeled items, of which the first ``wanted`` that have a "hidden_label" have a sound one."""
    result = []
    for item in items:
        if wanted > 0 and "hidden_label" in item:
            faults = hidden_label_faults(item, num_classes)
            wanted -= not faults
            if faults:
                logger.warning("hidden %s It is not used.", faults[0])
                item = {key: value for key, value in item.items() if key != "hidden_label"}
        result.append(item)
    return result


def _compare_names(listed: Sequence[str] | None, wanted: Sequence[str] | None, path: str | os.PathLike) -> None:
    """The same names in another order would train, and name every structure wrongly."""
    if not listed or not wanted or list(listed) == list(wanted) or len(listed) != len(wanted):
        return
    text = f"datalist {path} names the classes {', '.join(listed)}, the configuration's class_names {', '.join(wanted)}"
    if sorted(listed) == sorted(wanted):
        raise UserError(f"{text}: give both the same order, that of the label values.")
    logger.warning("%s: results will bear the latter.", text)


def _require_batch(batch_size: int | None, min_labeled: int) -> None:
    if batch_size is None:
        return
    if batch_size < max(1, min_labeled):
        raise UserError(f"batch_size {batch_size} leaves no room for min_labeled {min_labeled} labeled item(s); "
                        "raise batch_size or lower min_labeled.")
    if batch_size == min_labeled:
        logger.warning("batch_size %d equals min_labeled: no batch will ever hold an unlabeled item.", batch_size)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
