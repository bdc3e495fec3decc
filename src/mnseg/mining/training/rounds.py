"""The files of mining: a folder a round, with a mask for every kept image and the decisions on all."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mnseg.data.pictures import PictureError, read_mask, write_mask
from mnseg.errors import UserError
from mnseg.files import atomic_write
from mnseg.mining.decisions import count_decisions, write_decisions
from mnseg.mining.miner import KEPT, MinedImage

__all__ = ["NETWORK", "SUMMARY", "MinedWriter", "Rounds", "mask_of"]

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

    def writer(self, number: int, images: Mapping[str, str]) -> MinedWriter:
        """What writes a round; ``images``: the file of each case."""
        return MinedWriter(self.path(number), images, self.num_classes)

    def read(self, number: int, images: Mapping[str, str]) -> Iterator[tuple[str, np.ndarray]]:
        """Cases and masks of the kept images of a finished round, one after the other.

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
            for case in kept:
                yield case, read_mask(mask_of(folder / case, images[case]), self.num_classes)
        except (PictureError, OSError, KeyError) as error:
            raise UserError(f"a mask of {folder} is missing or damaged ({error}): {advice}.") from error


class MinedWriter:
    """Writes what was mined image by image, so that no more than one mask is in memory.

    Masks of the kept images, then ``decisions.csv``, then ``summary.json``, whose existence says that all is written.
    What an earlier run left of these images is removed: a mask that is not kept now must not lie beside the others.

    Args:
        folder: for the files.
        images: the file of each case.
        num_classes: of the masks.

    Raises:
        UserError: here and in the methods, when a file cannot be written.
    """

    def __init__(self, folder: Path, images: Mapping[str, str], num_classes: int) -> None:
        self.folder, self.images, self.num_classes = Path(folder), images, num_classes
        self.decided: list[MinedImage] = []
        with _told(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / SUMMARY).unlink(missing_ok=True)

    def add(self, mined: MinedImage) -> None:
        """Write an image's mask, or remove an old one; remember the decision."""
        stem, image = self.folder / mined.case, self.images[mined.case]
        with _told(self.folder):
            if mined.label is None:
                mask_of(stem, image).unlink(missing_ok=True)
            else:
                write_mask(mined.label, image, stem, self.num_classes)
        self.decided.append(replace(mined, label=None))

    def finish(self, **more: Any) -> Counter[str]:
        """Write the decisions and the summary, with ``more`` in it; returns how many images met each decision."""
        counts = count_decisions(self.decided)
        write_decisions(self.decided, self.folder / DECISIONS)
        summary = {"images": len(self.decided), "decisions": dict(counts), **more}
        with _told(self.folder):
            atomic_write(self.folder / SUMMARY, lambda path: path.write_text(json.dumps(summary, indent=2) + "\n"))
        return counts


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = error.filename2 or error.filename or folder
        raise UserError(f"{name} cannot be written ({error.strerror}).") from error


def mask_of(stem: Path, image: str) -> Path:
    """The file that ``write_mask`` makes of ``stem`` for an image."""
    return Path(f"{stem}{'.nii.gz' if image.lower().endswith(('.nii', '.nii.gz')) else '.png'}")
