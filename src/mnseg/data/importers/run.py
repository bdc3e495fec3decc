"""From a downloaded data set to a checked datalist; stopped midway, the same call continues."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mnseg.data.build_datalist import gaps
from mnseg.data.datalist import SPLITS, load_datalist, write_datalist
from mnseg.data.importers.common import Case, Source, require_folder
from mnseg.data.integrity import Finding, check_datalist
from mnseg.data.splits import choose_splits
from mnseg.errors import UserError
from mnseg.files import atomic_write, require_writable

__all__ = ["Imported", "import_dataset"]

PathLike = str | os.PathLike
RECORD = "import.json"
OVERLAY = "overlay.json"
LIMIT = 10


@dataclass
class Imported:
    """The datalist, how many cases each split has, what a person should read, and the command that trains."""

    path: Path
    counts: dict[str, int]
    notes: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    command: str = ""


def import_dataset(
    name: str,
    src: PathLike,
    out: PathLike,
    labeled: str | None = None,
    validation: str | None = None,
    testing: str | None = None,
    seed: int = 0,
    keep_hidden: bool = False,
    check: bool = True,
    progress: bool = False,
) -> Imported:
    """Find the data set in ``src``, convert what must be converted, split it, check it, write ``out/datalist.json``.

    Files that need no conversion stay where they are. The datalist is written last: if it is there, so is everything
    that it names. A case that was converted before is not converted again.

    Args:
        name: one of `mnseg.data.importers.NAMES`.
        labeled, validation, testing: in place of the field's split; see `mnseg.data.splits.select_cases`. In a data
            set with a published order a number means the first N (labeled) or the last N (the others) of it.
        seed: for cases that are drawn.
        keep_hidden: name the labels of unlabeled cases as "hidden_label".
        check: read all files before the datalist is written.

    Raises:
        UserError: ``src`` does not hold the data set, a file is unsound, the split cannot be made, or ``out`` holds
            another import.
    """
    src, out = Path(os.path.abspath(src)), Path(os.path.abspath(out))
    require_folder(src)
    require_writable(out / "datalist.json")
    settings = {"name": name, "source": str(src), "labeled": labeled, "validation": validation, "test": testing,
                "seed": seed, "keep_hidden": keep_hidden}
    source: Source = import_module(f"mnseg.data.importers.{name}").find(src)
    if _is_finished(out, settings):
        datalist = load_datalist(out / "datalist.json")
        note = "this import was finished before; nothing was done."
        return Imported(out / "datalist.json", _counts(datalist), [note], command=_command(source, out, name))
    splits = _split(source, {"labeled": labeled, "validation": validation, "testing": testing}, seed)
    _write_json(out / RECORD, settings)
    cases, notes = _converted(source, splits, out, progress)
    datalist = _datalist(source, splits, cases, keep_hidden)
    findings = _checked(source, datalist, progress) if check else []
    if source.describe:
        _write_json(out / OVERLAY, source.describe(datalist))
    path = write_datalist(datalist, out / "datalist.json")
    return Imported(path, _counts(datalist), [*source.notes, *notes, *gaps(datalist)], findings,
                    _command(source, out, name))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2) + "\n"
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _is_finished(out: Path, settings: Mapping[str, Any]) -> bool:
    """Whether this very import was finished before; another one in the same folder is refused."""
    path, record = out / "datalist.json", out / RECORD
    if not record.is_file():
        if path.exists():
            raise UserError(f"{out} holds a datalist that no import made: choose another folder.")
        return False
    try:
        before = dict(json.loads(record.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{record} cannot be read ({error}); remove {out} and import again.") from error
    other = any(before.get(key) != settings[key] for key in ("name", "source"))
    if other and (path.exists() or (out / "images").exists()):
        raise UserError(f"{out} holds an import of {before.get('name')} from {before.get('source')}: choose another "
                        "folder.")
    if path.exists() and before != settings:
        changes = ", ".join(f"{key} {before.get(key)} then, {settings[key]} now"
                            for key in settings if before.get(key) != settings[key])
        raise UserError(f"{path} was made with other settings ({changes}): choose another folder, or remove that file; "
                        "converted scans are kept.")
    return path.exists()


def _split(source: Source, wanted: Mapping[str, str | None], seed: int) -> dict[str, list[str]]:
    """Case ids by split. In a published order a number is a position: the tables' "8 labels" are its first eight, the
    test cases its last ones, and the validation cases those before them."""
    specs = {key: wanted[key] or source.splits[key] for key in wanted}
    if source.published:
        skip = specs["testing"] if specs["testing"] and specs["testing"].isdecimal() else "0"
        position = {"labeled": "first:{}", "validation": f"last:{{}}:{skip}", "testing": "last:{}"}
        specs = {key: position[key].format(spec) if spec and spec.isdecimal() else spec for key, spec in specs.items()}
    patients = {case.case: case.patient or case.case for case in source.cases}
    with_label = {case.case for case in source.cases if case.label is not None}
    return choose_splits([case.case for case in source.cases], with_label, specs, seed, patients)


def _converted(
    source: Source, splits: Mapping[str, list[str]], out: Path, progress: bool
) -> tuple[dict[str, Case], list[str]]:
    """The cases with NIfTI paths, by id, and notes about them."""
    chosen = {case for names in splits.values() for case in names}
    cases = {case.case: case for case in source.cases if case.case in chosen}
    if source.convert is None:
        return cases, []
    notes = []
    for case in tqdm(cases.values(), "converting", leave=False, disable=None if progress else True):
        image, label = out / "images" / f"{case.case}.nii.gz", out / "labels" / f"{case.case}.nii.gz"
        if not (image.exists() and label.exists()) and (note := source.convert(case, image, label)):
            notes.append(note)
        cases[case.case] = Case(case.case, image, label, case.patient)
    return cases, notes


def _datalist(
    source: Source, splits: Mapping[str, list[str]], cases: Mapping[str, Case], keep_hidden: bool
) -> dict[str, Any]:
    datalist: dict[str, Any] = {"class_names": source.class_names}
    for split in SPLITS:
        key = "hidden_label" if split == "unlabeled" else "label"
        datalist[split] = [_item(cases[name], key, keep_hidden or split != "unlabeled") for name in splits[split]]
    return datalist


def _item(case: Case, key: str, with_label: bool) -> dict[str, str]:
    item = {"image": str(case.image), "case": case.case}
    if with_label and case.label is not None:
        item[key] = str(case.label)
    if case.patient is not None:
        item["patient"] = case.patient
    return item


def _checked(source: Source, datalist: Mapping[str, Any], progress: bool) -> list[Finding]:
    """Warnings; errors are raised, and no datalist is written."""
    report = check_datalist(datalist, check_hidden=True, progress=progress, allow_empty_unlabeled=True,
                            planar=source.planar)
    if report.errors:
        more = f"\n  … and {len(report.errors) - LIMIT} more" if len(report.errors) > LIMIT else ""
        remedy = "repair the files"
        if source.convert:
            remedy = "remove the files named, repair what they were converted from"
        raise UserError(f"no datalist was written, since {report.summary()}; {remedy} and import again, or write it "
                        "anyway with --no-check:" + "".join(f"\n  {e}" for e in report.errors[:LIMIT]) + more)
    return report.warnings


def _counts(datalist: Mapping[str, Any]) -> dict[str, int]:
    return {split: len(datalist.get(split, [])) for split in SPLITS}


def _command(source: Source, out: Path, name: str) -> str:
    """The training command: co-training of volumes, mining of 2D images."""
    bundle = "sam_mining" if source.planar else "mn_cotraining"
    configs = [f"bundles/{bundle}/configs/train.json", *source.overlays]
    configs += [] if source.planar else ["configs/recipes/paper.json"]
    if source.describe:
        configs.append(str(out / OVERLAY))  # last, since it knows the data better than the recipe
    files = ",".join(f"'{config}'" for config in configs)
    places = f"--dataset_dir {shlex.quote(str(out))} --run_dir runs/{name}"
    return f'python -m monai.bundle run --config_file "[{files}]" {places}'
