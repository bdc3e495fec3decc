"""When is mined, and how much the mined labels weigh: functions of the epoch alone."""

from __future__ import annotations

from math import exp

from mnseg.engines.stages import stage_of
from mnseg.errors import UserError

__all__ = ["SCHEDULES", "Schedule"]

SCHEDULES = ("supervised", "one_time", "continuous")


class Schedule:
    """The two schedules of knowledge mining (Mao et al., 2025) and their baseline.

    - "one_time": mine once, when stage 1 (labels only) has ended, then go on with labels and mined labels;
    - "continuous": mine at the same moment and again every ``interval`` epochs;
    - "supervised": never; all batches hold labels alone, at equal updates.

    Args:
        name: one of the three.
        stage_1_epochs: epochs on labels alone, before the first round.
        interval: epochs between two rounds of "continuous".
        pseudo_weight: weight of the loss on mined labels, once it has risen.
        ramp_epochs: epochs over which it rises, ``pseudo_weight * exp(-5 (1 - t)^2)`` with t from 0 to 1 (Laine and
            Aila, ICLR 2017); 0: it is ``pseudo_weight`` from the start.

    Raises:
        UserError: another name.
    """

    def __init__(
        self,
        name: str,
        stage_1_epochs: int,
        interval: int = 10,
        pseudo_weight: float = 1.0,
        ramp_epochs: int = 0,
    ) -> None:
        if name not in SCHEDULES:
            raise UserError(f"schedule is '{name}'; it must be one of {', '.join(SCHEDULES)}.")
        self.name = name
        self.stage_1_epochs = stage_1_epochs
        self.interval = interval
        self.pseudo_weight = pseudo_weight
        self.ramp_epochs = ramp_epochs

    def stage(self, epoch: int) -> int:
        """1: labels only; 2: labels and mined labels."""
        return 1 if self.name == "supervised" else stage_of(epoch, self.stage_1_epochs)[0]

    def round(self, epoch: int) -> int:
        """Number of the round whose labels an epoch (from 1) is trained on; 0: none yet."""
        if self.stage(epoch) == 1:
            return 0
        return 1 if self.name == "one_time" else 1 + (epoch - self.stage_1_epochs - 1) // self.interval

    def mines(self, epoch: int) -> bool:
        """Whether a new round is mined at the start of an epoch."""
        return self.round(epoch) > self.round(epoch - 1)

    def weight(self, epoch: int) -> float:
        """Weight of the loss on mined labels in an epoch; 0 in stage 1."""
        if self.stage(epoch) == 1:
            return 0.0
        passed = epoch - self.stage_1_epochs
        if passed >= self.ramp_epochs:
            return self.pseudo_weight
        return self.pseudo_weight * exp(-5 * (1 - passed / self.ramp_epochs) ** 2)
