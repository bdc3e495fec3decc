"""Any task of the Medical Segmentation Decathlon, by its dataset.json (Antonelli et al., Nature Comm. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnseg.data.importers.common import Case, Source, require_files, wrong_layout
from mnseg.data.importers.overlay import describe_volumes
from mnseg.data.volume_io import case_id
from mnseg.errors import UserError
from mnseg.files import read_json

__all__ = ["find"]

LABELED = 8
TRAINABLE_CHANNELS = (0, 1, 3)  # 0: the index says nothing


def find(src: Path) -> Source:
    """Describe the task whose dataset.json lies in ``src``.

    Its training cases have labels and are split; its test cases have none and are unlabeled ones here.
    """
    index = src / "dataset.json"
    if not index.is_file():
        raise wrong_layout(src, "a Decathlon task", "dataset.json with imagesTr/ and labelsTr/")
    content = _read(index)
    names = _class_names(content.get("labels"), index)
    train = [_case(src, item, index) for item in content["training"]]
    if not isinstance(listed := content.get("test") or [], list):
        raise UserError(f'"test" in {index} must be a list of images, not {listed!r:.60}.')
    test = [Case(case_id(path), path) for path in (src / _name(item, index) for item in listed)]
    require_files([path for case in train + test for path in (case.image, case.label) if path], str(index))
    count = len(train)
    held_out = {"validation": max(count // 10, 1), "testing": max(count // 5, 1)}
    labeled = max(min(LABELED, (count - sum(held_out.values())) // 2), 1)
    notes = ["the Decathlon keeps its test labels: of the training cases a fifth is drawn for testing and a tenth for "
             "validation."]
    if test:
        notes.append(f"the {len(test)} cases of the Decathlon's own test list have no labels and are taken as "
                     "unlabeled; say so when you submit results on them.")
    modality = _modality(content.get("modality") or {}, index)
    if len(modality) not in TRAINABLE_CHANNELS:
        notes.append(f"the scans have {len(modality)} channels ({', '.join(modality)}); the 2D network takes 1 or 3: "
                     "choose channels and write the scans anew before you train.")
    return Source(
        names,
        train + test,
        {"labeled": str(labeled), **{split: str(number) for split, number in held_out.items()}},
        notes=notes,
        overlays=["configs/datasets/decathlon.json"],
        describe=lambda datalist: describe_volumes(datalist, is_ct="CT" in modality),
    )


def _read(index: Path) -> dict[str, Any]:
    try:
        content = read_json(index, "index")
    except OSError as error:
        raise UserError(f"{index} cannot be read ({error.strerror}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("training"), list) or not content["training"]:
        keys = ", ".join(content) if isinstance(content, dict) else "no keys"
        raise UserError(f'{index} is not a Decathlon index: looked for a list "training" of images with labels, found '
                        f"{keys}.")
    return content


def _class_names(labels: Any, index: Path) -> list[str]:
    """Names of the values 0..K-1, in their order."""
    try:
        names = {int(value): str(name) for value, name in dict(labels).items()}
    except (TypeError, ValueError):
        names = {}
    if len(names) < 2 or sorted(names) != list(range(len(names))):
        raise UserError(f'"labels" in {index} must name the values 0, 1, … as {{"0": "background", "1": …}}, not '
                        f"{labels}.")
    return [names[value] for value in range(len(names))]


def _modality(stated: Any, index: Path) -> list[str]:
    """One name for each channel."""
    if not isinstance(stated, Mapping):
        raise UserError(f'"modality" in {index} must name the channels as {{"0": "CT"}}, not {stated!r:.60}.')
    return [str(value) for value in stated.values()]


def _case(src: Path, item: Any, index: Path) -> Case:
    if not isinstance(item, Mapping) or not isinstance(item.get("label"), str):
        raise UserError(f'"training" in {index} must list items with "image" and "label", not {item}.')
    image = src / _name(item, index)
    return Case(case_id(image), image, src / item["label"])


def _name(item: Any, index: Path) -> str:
    name = item.get("image") if isinstance(item, Mapping) else item
    if not isinstance(name, str):
        raise UserError(f"{index} names no image in {item}.")
    return name
