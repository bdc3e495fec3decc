"""Learning-rate-guided sampling, once an epoch."""

from __future__ import annotations

from typing import Literal

from ignite.engine import Engine, Events
from torch.optim import Optimizer

from mnseg.data.lrg_sampler import LRGBatchSampler, lrg_num_unlabeled
from mnseg.errors import UserError

__all__ = ["LRGSamplingHandler"]

MODES = ("learning_rate", "linear", "uniform", "fixed")


class LRGSamplingHandler:
    """Set the batch sampler's ``num_unlabeled`` at the start of every epoch and publish it as
    ``engine.state.num_unlabeled``.

    In stage 1 it is 0. In stage 2, with ``B`` the batch size:

    - "learning_rate" (default): ``floor((lr_initial - lr) / (lr_initial - lr_final) * B)`` with the rate of the
      network being trained (M&N, Eq. 10);
    - "linear": ``floor(p * B)`` with ``p`` the share of stage 2 that has passed (the released code);
    - "uniform": all ``B`` are drawn from the whole pool (the paper's ablation); the published number is the mean;
    - "fixed": ``num_unlabeled``, every epoch; with 0 both networks stay supervised, at equal updates.

    Args:
        sampler: the batch sampler.
        optimizer: of the 3D network.
        optimizer_2d: of the 2D network.
        stage_2_epochs: length of stage 2.
        lr_final: rate at the schedule's end.
        mode: see above.
        num_unlabeled: for "fixed".
        min_labeled: labeled patches that every batch keeps (all modes but "uniform").

    Raises:
        UserError: for an unknown mode, or a batch that leaves no labeled patch.
    """

    def __init__(
        self,
        sampler: LRGBatchSampler,
        optimizer: Optimizer,
        optimizer_2d: Optimizer,
        stage_2_epochs: int,
        lr_final: float = 0.0,
        mode: Literal["learning_rate", "linear", "uniform", "fixed"] = "learning_rate",
        num_unlabeled: int = 0,
        min_labeled: int = 1,
    ) -> None:
        if mode not in MODES:
            raise UserError(f"sampling is '{mode}'; it must be one of {', '.join(MODES)}.")
        if not 1 <= min_labeled <= sampler.batch_size:
            raise UserError(
                f"batch_size {sampler.batch_size} leaves no room for min_labeled {min_labeled}: "
                "min_labeled must lie between 1 and batch_size."
            )
        if mode == "fixed" and not 0 <= num_unlabeled <= sampler.batch_size - min_labeled:
            raise UserError(
                f"num_unlabeled {num_unlabeled} with batch_size {sampler.batch_size} leaves fewer than "
                f"{min_labeled} labeled patches: lower num_unlabeled or raise batch_size."
            )
        self.sampler = sampler
        self.optimizers = {"3d": optimizer, "2d": optimizer_2d}
        self.stage_2_epochs = stage_2_epochs
        self.lr_final = lr_final
        self.mode = mode
        self.num_unlabeled = num_unlabeled
        self.min_labeled = min_labeled

    def attach(self, engine: Engine) -> None:
        """Attach to a ``CoTrainer``, behind the learning-rate schedule."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        state = engine.state
        self.sampler.uniform = self.mode == "uniform" and state.stage == 2
        self.sampler.num_unlabeled = 0 if state.stage == 1 else self._num_unlabeled(state.student, state.stage_epoch)
        state.num_unlabeled = self._mean_uniform() if self.sampler.uniform else self.sampler.num_unlabeled

    def _num_unlabeled(self, student: str, stage_epoch: int) -> int:
        batch_size = self.sampler.batch_size
        if not self.sampler.unlabeled or self.mode == "uniform":
            return 0
        if self.mode == "fixed":
            return self.num_unlabeled
        if self.mode == "linear":
            # A rate that falls from 1 to 0 in a straight line gives the same equation.
            passed = (stage_epoch - 1) / max(self.stage_2_epochs, 1)
            return lrg_num_unlabeled(1.0 - passed, 1.0, 0.0, batch_size, self.min_labeled)
        group = self.optimizers[student].param_groups[0]
        return lrg_num_unlabeled(group["lr"], group["initial_lr"], self.lr_final, batch_size, self.min_labeled)

    def _mean_uniform(self) -> float:
        pool = len(self.sampler.labeled) + len(self.sampler.unlabeled)
        return self.sampler.batch_size * len(self.sampler.unlabeled) / pool
