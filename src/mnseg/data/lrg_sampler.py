"""Learning-rate-guided sampling: how many unlabeled patches a batch holds, and which cases they come from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from mnseg.errors import UserError

__all__ = ["LRGBatchSampler", "lrg_num_unlabeled"]


def lrg_num_unlabeled(
    lr_current: float, lr_initial: float, lr_final: float, batch_size: int, min_labeled: int = 1
) -> int:
    """``b_u = floor((lr_initial - lr_current) / (lr_initial - lr_final) * B)`` (M&N, Eq. 10); ``b_l = B - b_u`` (11).

    Args:
        lr_current: learning rate of the network being trained, in this epoch.
        lr_initial: rate at which the decaying schedule starts.
        lr_final: rate at which it ends; must be below ``lr_initial``.
        batch_size: ``B``.
        min_labeled: labeled patches that always stay in the batch; the bare equation would leave none at the end.

    Raises:
        UserError: when ``lr_final >= lr_initial``.
    """
    if lr_final >= lr_initial:
        raise UserError(
            f"learning_rate_final ({lr_final}) must be below learning_rate and learning_rate_2d ({lr_initial})."
        )
    share = (lr_initial - lr_current) / (lr_initial - lr_final)
    # 1e-9 forgives rounding where share * B is a whole number on paper (0.2 * 5 = 0.9999999999999998).
    num_unlabeled = math.floor(min(max(share, 0.0), 1.0) * batch_size + 1e-9)
    return min(num_unlabeled, batch_size - min_labeled)


class LRGBatchSampler(Sampler[list[int]]):
    """Yield ``epoch_length`` batches of ``B`` dataset indices, the labeled ones first.

    ``num_unlabeled`` (b_u) and ``uniform`` are set from outside, once an epoch, by ``LRGSamplingHandler``. What an
    epoch draws depends on ``(seed, epoch)`` alone, so that a continued run draws what the unbroken run would have.
    Within an epoch a case comes back only after all others of its kind were drawn, and a batch holds a case twice only
    if it is larger than the pool.

    With several processes each yields its part of a joint batch of ``world_size * B`` indices, which all of them draw:
    ``b_l`` and ``b_u`` are the same everywhere, and the parts are disjoint as the indices of one batch are.

    Args:
        labeled: dataset indices of the labeled cases.
        unlabeled: dataset indices of the unlabeled cases; may be empty, then ``num_unlabeled`` must stay 0.
        batch_size: ``B``.
        epoch_length: batches an epoch.
        seed: seed of the draw.
        rank: number of this process.
        world_size: number of processes.

    Raises:
        UserError: when there is no labeled case or ``batch_size`` is below 1.
    """

    def __init__(
        self,
        labeled: Sequence[int],
        unlabeled: Sequence[int],
        batch_size: int,
        epoch_length: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not labeled:
            raise UserError("There is no labeled case: the datalist's 'labeled' list must name at least one.")
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; it must be at least 1, so that a labeled patch fits.")
        self.labeled = list(labeled)
        self.unlabeled = list(unlabeled)
        self.batch_size = batch_size
        self.epoch_length = epoch_length
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.num_unlabeled = 0
        self.uniform = False

    def __len__(self) -> int:
        return self.epoch_length

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose draw the next iteration yields."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.uniform:
            yield from self._uniform_batches(rng)
            return
        b_u = self.num_unlabeled
        if not 0 <= b_u <= self.batch_size or (b_u and not self.unlabeled):
            raise ValueError(f"num_unlabeled {b_u} does not fit B {self.batch_size} and {len(self.unlabeled)} cases")
        labeled, unlabeled = _Passes(self.labeled, rng), _Passes(self.unlabeled, rng)
        for _ in range(self.epoch_length):
            yield self._part(labeled.take(self.world_size * (self.batch_size - b_u))) + self._part(
                unlabeled.take(self.world_size * b_u)
            )

    def _part(self, indices: list[int]) -> list[int]:
        return indices[self.rank :: self.world_size]

    def _uniform_batches(self, rng: np.random.Generator) -> Iterator[list[int]]:
        """All ``B`` from the whole pool: the ablation in which many batches hold no labeled case."""
        is_labeled = set(self.labeled)
        passes = _Passes(self.labeled + self.unlabeled, rng)
        for _ in range(self.epoch_length):
            batch = self._part(passes.take(self.world_size * self.batch_size))
            yield sorted(batch, key=lambda index: index not in is_labeled)


class _Passes:
    """Endless passes over indices, each in a new random order."""

    def __init__(self, indices: Sequence[int], rng: np.random.Generator) -> None:
        self.indices = np.asarray(indices, dtype=np.int64)
        self.rng = rng
        self.rest = self.indices[:0]

    def take(self, count: int) -> list[int]:
        """The next indices; where a new pass begins among them, those already taken come last in it."""
        taken: list[int] = []
        while len(taken) < count:
            if not len(self.rest):
                order = self.rng.permutation(self.indices)
                times = Counter(taken)
                # A pool may be large: without anything to avoid its order stays an array.
                self.rest = np.array(sorted(order.tolist(), key=times.__getitem__)) if taken else order
            wanted = count - len(taken)
            taken += self.rest[:wanted].tolist()
            self.rest = self.rest[wanted:]
        return taken
