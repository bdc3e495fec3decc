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
from mnseg.mining.miner import KEPT, MinedImage, Miner
from mnseg.mining.promptable import PromptableModel
from mnseg.mining.training.journal import Journal

__all__ = ["NETWORK", "SUMMARY", "MinedWriter", "Rounds", "mask_of"]

DECISIONS = "decisions.csv"
SUMMARY = "summary.json"
NETWORK = "network"


class Rounds:
    """``folder/round_N``: ``CASE.png`` (or ``.nii.gz``), ``decisions.csv`` and, written last, ``summary.json``.

    ``round_N/network`` has the small network's masks, from which the prompts were made; ``journal.jsonl`` is what a
    stopped round needs to go on.

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

    def require_same_model(self, number: int, model: PromptableModel) -> None:
        """Stop where an earlier round of a continued run was mined with another large model.

        Raises:
            UserError: see above.
        """
        for earlier in range(1, number):
            path = self.path(earlier) / SUMMARY
            found = json.loads(path.read_text(encoding="utf-8")).get("promptable") if path.is_file() else None
            if found not in (None, model.identity):
                raise UserError(f"{self.path(earlier)} was mined with another large model than promptable names now, "
                                "or with other weights: give the same, or set resume to False to start over.")

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
    ``journal.jsonl`` lets a stopped run go on: an image on which the same was decided already is not mined again.

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
            self.journal = Journal(self.folder)

    def mine(self, miner: Miner, case: str, picture: np.ndarray, probabilities: np.ndarray) -> MinedImage:
        """Mine an image and write what became of it, or read what a stopped run has written; see ``Miner.mine``."""
        digest = miner.digest(picture, probabilities)
        mined = self._written(case, digest)
        if mined is None:
            mined = miner.mine(case, picture, probabilities)
            self._write(mined, digest)
        self.decided.append(replace(mined, label=None))
        return mined

    def _written(self, case: str, digest: str) -> MinedImage | None:
        """None where the image was not mined, or where its mask is gone."""
        mined, path = self.journal.known(case, digest), mask_of(self.folder / case, self.images[case])
        if mined is None or mined.decision != KEPT:
            return mined if mined is None or not path.is_file() else None
        try:
            return replace(mined, label=read_mask(path, self.num_classes))
        except (PictureError, OSError):
            return None

    def _write(self, mined: MinedImage, digest: str) -> None:
        stem, image = self.folder / mined.case, self.images[mined.case]
        with _told(self.folder):
            if mined.label is None:
                mask_of(stem, image).unlink(missing_ok=True)
            else:
                write_mask(mined.label, image, stem, self.num_classes)
            self.journal.add(mined, digest)

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
