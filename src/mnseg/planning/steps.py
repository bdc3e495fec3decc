"""Each epoch of a short training is made one kind of step, and timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ignite.engine import Events

from mnseg.engines import CoTrainer
from mnseg.planning.clock import StepClock

__all__ = ["Kind", "MeasuredSteps"]


class Kind(NamedTuple):
    """A kind of step: its name, who learns, and how many unlabeled patches are in its batches."""

    name: str
    student: str
    num_unlabeled: int


class MeasuredSteps:
    """Makes each epoch of a trainer one kind of step and collects a row for it.

    Student and number of unlabeled patches are set behind the bundle's own handlers; everything else is its code.

    Args:
        kinds: of the epochs, in their order.
        clock: its rows are collected in ``rows``.
        warmup: steps of each kind that are left out.
    """

    def __init__(self, kinds: Sequence[Kind], clock: StepClock, warmup: int) -> None:
        self.kinds = kinds
        self.clock = clock
        self.warmup = warmup
        self.rows: list[dict[str, Any]] = []

    def attach(self, trainer: CoTrainer) -> None:
        """Attach behind all other handlers."""
        trainer._teach = self.clock.timed(trainer._teach, lambda name, image: f"teacher_{name}")
        trainer._update = self.clock.timed(trainer._update, lambda name, *batch: f"update_{name}")
        trainer.add_event_handler(Events.EPOCH_STARTED, self._start)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._check)
        self.clock.attach(trainer)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, trainer: CoTrainer) -> None:
        kind = self.kinds[trainer.state.epoch - 1]
        trainer.state.student = kind.student
        trainer.state.num_unlabeled = trainer.data_loader.batch_sampler.num_unlabeled = kind.num_unlabeled

    def _check(self, trainer: CoTrainer) -> None:
        batch, kind = trainer.state.batch, self.kinds[trainer.state.epoch - 1]
        if batch["image"].shape[0] - batch["label"].shape[0] != kind.num_unlabeled:
            raise AssertionError(f"a batch of '{kind.name}' does not hold {kind.num_unlabeled} unlabeled patches")

    def _finish(self, trainer: CoTrainer) -> None:
        self.rows.append(self.clock.row(self.kinds[trainer.state.epoch - 1].name, self.warmup))
