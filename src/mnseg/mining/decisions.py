"""What became of mined images: a CSV with a row for every component, counts, and a stop when nothing is left."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mnseg.errors import UserError
from mnseg.files import atomic_write
from mnseg.mining.miner import KEPT, MinedImage, Miner
from mnseg.mining.quality import AGREEMENT, PREDICTED_IOU, STABILITY

__all__ = ["COLUMNS", "count_decisions", "require_some_kept", "told", "write_decisions"]

BOX = ("row0", "column0", "row1", "column1")
QUALITIES = ("predicted_iou", "agreement", "stability")
COLUMNS = ("case", "decision", "class", "size", *BOX, *QUALITIES, "kept", "reason")

SETTINGS = {PREDICTED_IOU: "min_predicted_iou", AGREEMENT: "min_agreement", STABILITY: "min_stability"}


def write_decisions(mined: Iterable[MinedImage], path: str | Path) -> Path:
    """Write ``path`` (CSV), whole or not at all: a row a component, and one for an image without components.

    Raises:
        UserError: the file cannot be written.
    """

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
            writer.writeheader()
            for image in mined:
                writer.writerows(_rows(image))

    try:
        return atomic_write(path, write)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}).") from error


def _rows(image: MinedImage) -> list[dict[str, Any]]:
    start = {"case": image.case, "decision": image.decision}
    return [start | _cells(component) for component in image.components] or [start]


def _cells(component: Mapping[str, Any]) -> dict[str, Any]:
    cells = dict(component)
    cells |= dict(zip(BOX, cells.pop("box"), strict=True))
    cells |= {name: "" if cells[name] is None else f"{cells[name]:.4f}" for name in QUALITIES}
    return cells | {"kept": "yes" if cells["kept"] else "no"}


def count_decisions(mined: Iterable[MinedImage]) -> Counter[str]:
    """How many images met each decision."""
    return Counter(image.decision for image in mined)


def told(counts: Mapping[str, int]) -> str:
    """The counts as words, the most frequent decision first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {decision}" for decision, count in ordered if count)


def require_some_kept(counts: Mapping[str, int], miner: Miner) -> None:
    """Stop where nothing was mined.

    Raises:
        UserError: no image was kept; states the counts, and the threshold that dropped most images or, where the small
            network found nothing anywhere, that it must be trained longer.
    """
    if counts.get(KEPT, 0):
        return
    if not any(counts.values()):
        raise UserError("there was no image to mine.")
    if not (rejected := {decision: count for decision, count in counts.items() if count and decision in SETTINGS}):
        raise UserError(f"no mined mask was kept ({told(counts)}): train the small network longer before mining, or "
                        f"lower min_component_size (now {miner.prompts.min_component_size:g}).")
    setting = SETTINGS[max(sorted(rejected), key=lambda decision: rejected[decision])]
    raise UserError(f"no mined mask was kept ({told(counts)}): lower {setting} (now "
                    f"{getattr(miner.thresholds, setting):g}), or train the small network longer before mining.")
