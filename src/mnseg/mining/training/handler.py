"""Mines when the schedule says so."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from tqdm import tqdm

from mnseg.data.lrg_sampler import LRGBatchSampler
from mnseg.data.pictures import PictureError, read_mask
from mnseg.errors import UserError
from mnseg.mining.decisions import require_some_kept, told
from mnseg.mining.miner import MinedImage, Miner
from mnseg.mining.training.data import MinedLabels
from mnseg.mining.training.predict import Predictor
from mnseg.mining.training.rounds import MinedWriter, Rounds
from mnseg.mining.training.schedules import Schedule

__all__ = ["MiningHandler"]

logger = logging.getLogger(__name__)


class MiningHandler:
    """Mine the unlabeled images at the start of the epochs that the schedule names; give batches their mined labels.

    Sets ``engine.state.num_unlabeled`` and the sampler's, every epoch. A round's masks and decisions are written to
    ``rounds``; a continued run reads the round that it was in. In an epoch that mines, ``engine.state.validation`` gets
    ``mined_kept`` and, where hidden labels exist, ``pseudo_dice_2d``, the mean Dice of the kept masks over images and
    classes. Attach it behind ``ResumeHandler`` and the epoch's seed, and behind ``CoValidationHandler``.

    Args:
        schedule: when is mined.
        miner: what mines; None only with the schedule "supervised".
        predictor: the small network's view of an image.
        items: the unlabeled items, in the order of ``indices``.
        indices: their dataset indices.
        sampler: batch sampler; its unlabeled indices become those of the kept images.
        mined: labels for the dataset, filled here.
        rounds: where masks and decisions lie.
        num_unlabeled: mined images in a batch of stage 2.

    Raises:
        UserError: while running, when no mined image is kept or an image cannot be read.
    """

    def __init__(
        self,
        schedule: Schedule,
        miner: Miner | None,
        predictor: Predictor,
        items: Sequence[Mapping[str, Any]],
        indices: Sequence[int],
        sampler: LRGBatchSampler,
        mined: MinedLabels,
        rounds: Rounds,
        num_unlabeled: int,
    ) -> None:
        if schedule.name != "supervised" and not 0 < num_unlabeled < sampler.batch_size:
            raise UserError(f"num_unlabeled is {num_unlabeled} with batch_size {sampler.batch_size}; it must be at "
                            "least 1 and leave a labeled image in the batch.")
        self.schedule = schedule
        self.miner = miner
        self.predictor = predictor
        self.items = {item["case"]: item for item in items}
        self.indices = dict(zip(self.items, indices, strict=True))
        self.sampler = sampler
        self.mined = mined
        self.rounds = rounds
        self.num_unlabeled = num_unlabeled
        self.current = 0
        self.measured: dict[str, float] = {}

    def attach(self, engine: Engine) -> None:
        """Attach to a ``MiningTrainer``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.publish)

    def __call__(self, engine: Engine) -> None:
        number = self.schedule.round(engine.state.epoch)
        self.measured = {}
        if self.schedule.mines(engine.state.epoch):
            self._mine(engine, number)
        elif number != self.current:
            self.mined.replace(self.rounds.read(number, self._files()))
            self._use(number)
        elif number == 0 and engine.state.epoch == 1:
            self.rounds.forget_from(1)
        self.sampler.num_unlabeled = engine.state.num_unlabeled = self.num_unlabeled if number else 0

    def publish(self, engine: Engine) -> None:
        """Put what was measured beside the validation of this epoch."""
        engine.state.validation = {**getattr(engine.state, "validation", {}), **self.measured}

    def _mine(self, engine: Engine, number: int) -> None:
        self.rounds.require_same_model(number, self.miner.model)
        self.rounds.forget_from(number + 1)  # this one, when a stopped run has begun it, goes on
        writer = self.rounds.writer(number, self._files())
        dice: list[float] = []
        self.mined.replace(self._mine_all(number, writer, dice))
        self.measured = {"mined_kept": float(len(self.mined.labels))}
        if dice:
            self.measured["pseudo_dice_2d"] = fmean(dice)
        counts = writer.finish(epoch=engine.state.epoch, **_settings(self.miner), **self.measured)
        logger.info("mining round %d: %s; see %s", number, told(counts), self.rounds.path(number))
        require_some_kept(counts, self.miner)
        self._use(number)

    def _mine_all(self, number: int, writer: MinedWriter, dice: list[float]) -> Iterator[tuple[str, np.ndarray]]:
        """Cases and labels of the kept images; fills ``dice`` where hidden labels exist."""
        for item in tqdm(self.items.values(), f"mining round {number}", leave=False, mininterval=1.0):
            mined = self._mine_one(number, item, writer)
            if mined.label is not None:
                dice += self._hidden_dice(mined)
                yield mined.case, mined.label

    def _mine_one(self, number: int, item: Mapping[str, Any], writer: MinedWriter) -> MinedImage:
        try:
            picture, probabilities = self.predictor(item)
        except PictureError as error:
            raise UserError(f"{error}: it was readable when the run began.") from error
        mask = probabilities.argmax(axis=0).astype(np.uint8)
        self.rounds.write_network(number, item["case"], mask, item["image"])
        return writer.mine(self.miner, item["case"], picture, probabilities)

    def _use(self, number: int) -> None:
        self.current = number
        self.sampler.unlabeled = [self.indices[case] for case in self.mined.labels]

    def _files(self) -> dict[str, str]:
        return {case: item["image"] for case, item in self.items.items()}

    def _hidden_dice(self, mined: MinedImage) -> list[float]:
        path = self.items[mined.case].get("hidden_label")
        if not path:
            return []
        return _dice(mined.label, read_mask(path, self.rounds.num_classes), self.rounds.num_classes)


def _settings(miner: Miner) -> dict[str, Any]:
    """For the summary: thresholds may change when a run is continued."""
    settings = {"prompts": asdict(miner.prompts), "thresholds": asdict(miner.thresholds)}
    return {"promptable": miner.model.identity, **settings}


def _dice(label: np.ndarray, truth: np.ndarray, num_classes: int) -> list[float]:
    """Dice of the classes that one of both has."""
    pairs = [(label == index, truth == index) for index in range(1, num_classes)]
    sizes = [(2 * int((a & b).sum()), int(a.sum() + b.sum())) for a, b in pairs]
    return [overlap / size for overlap, size in sizes if size]
