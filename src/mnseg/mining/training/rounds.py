"""The files of mining: a folder a round, with a mask for every kept image and the decisions on all."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnseg.data.pictures import PictureError, read_mask, write_mask
from mnseg.errors import UserError
from mnseg.files import atomic_write
from mnseg.mining.decisions import count_decisions, write_decisions
from mnseg.mining.miner import KEPT, MinedImage

__all__ = ["NETWORK", "SUMMARY", "Rounds", "mask_of", "write_mined"]

DECISIONS = "decisions.csv"
SUMMARY = "summary.json"
NETWORK = "network"


class Rounds:
    """``folder/round_N``: ``CASE.png`` (or ``.nii.gz``), ``decisions.csv`` and, written last, ``summary.json``.

    ``round_N/network`` has the small network's masks, from which the prompts were made.

    Args:
        folder: of all rounds.
        num_classes: of the masks.
    """

    def __init__(self, folder: str | Path, num_classes: int) -> None:
        self.folder = Path(folder)
        self.num_classes = num_classes

    def path(self, number: int) -> Path:
        """Folder of a round, counted from 1."""
        return self.folder / f"round_{number}"

    def forget_from(self, number: int) -> None:
        """Remove this round and later ones: a run that starts over, or a round that a stopped run left unfinished."""
        for path in self.folder.glob("round_*"):
            if path.name.removeprefix("round_").isdecimal() and int(path.name.removeprefix("round_")) >= number:
                shutil.rmtree(path)

    def write_network(self, number: int, case: str, mask: np.ndarray, image: str) -> None:
        """Write the small network's mask (H, W) of a case whose file is ``image``."""
        folder = self.path(number) / NETWORK
        folder.mkdir(parents=True, exist_ok=True)
        write_mask(mask, image, folder / case, self.num_classes)

    def write(self, number: int, mined: Sequence[MinedImage], images: Mapping[str, str], **more: Any) -> None:
        """Write a round; ``images``: the file of each case, ``more``: for the summary."""
        write_mined(self.path(number), mined, images, self.num_classes, **more)

    def read(self, number: int, images: Mapping[str, str]) -> dict[str, np.ndarray]:
        """The kept masks of a finished round by case.

        Raises:
            UserError: the round is not there any more, or one of its masks.
        """
        folder = self.path(number)
        advice = "restore it, or set resume to False to start over"
        if not (folder / SUMMARY).is_file():
            raise UserError(f"{folder} has the labels that this run was trained on, and is gone: {advice}.")
        with (folder / DECISIONS).open(encoding="utf-8", newline="") as file:
            kept = dict.fromkeys(row["case"] for row in csv.DictReader(file) if row["decision"] == KEPT)
        try:
            return {case: read_mask(mask_of(folder / case, images[case]), self.num_classes) for case in kept}
        except (PictureError, OSError, KeyError) as error:
            raise UserError(f"a mask of {folder} is missing or damaged ({error}): {advice}.") from error


def write_mined(
    folder: Path, mined: Iterable[MinedImage], images: Mapping[str, str], num_classes: int, **more: Any
) -> None:
    """Masks of the kept images, ``decisions.csv``, and ``summary.json``, whose existence says that all is written.

    What an earlier run left of these images is removed: a mask that is not kept now must not lie beside the others.

    Raises:
        UserError: a file cannot be written.
    """
    mined = list(mined)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / SUMMARY).unlink(missing_ok=True)
        for image in mined:
            if image.label is None:
                mask_of(folder / image.case, images[image.case]).unlink(missing_ok=True)
            else:
                write_mask(image.label, images[image.case], folder / image.case, num_classes)
    except OSError as error:
        name = error.filename2 or error.filename or folder
        raise UserError(f"{name} cannot be written ({error.strerror}).") from error
    write_decisions(mined, folder / DECISIONS)
    summary = {"images": len(mined), "decisions": dict(count_decisions(mined)), **more}
    atomic_write(folder / SUMMARY, lambda path: path.write_text(json.dumps(summary, indent=2) + "\n"))


def mask_of(stem: Path, image: str) -> Path:
    """The file that ``write_mask`` makes of ``stem`` for an image."""
    return Path(f"{stem}{'.nii.gz' if image.lower().endswith(('.nii', '.nii.gz')) else '.png'}")
