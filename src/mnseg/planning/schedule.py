"""What each epoch of a training does, known before it begins: pure functions of its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mnseg.data.lrg_sampler import lrg_num_unlabeled
from mnseg.engines.stages import Role, learning_rate_factor, stage_of, student_of

__all__ = ["EpochWork", "epochs_of"]


@dataclass(frozen=True)
class EpochWork:
    """What an epoch does.

    Attributes:
        student: who learns.
        num_unlabeled: b_u of its batches; a mean with uniform sampling.
        refreshed: unlabeled scans whose pseudo-foreground is predicted anew before it.
        validates: whether both networks are measured behind it.
    """

    student: Role
    num_unlabeled: float
    refreshed: int
    validates: bool


def epochs_of(settings: Mapping[str, Any], num_labeled: int, pool: int) -> list[EpochWork]:
    """All epochs of a training that nothing interrupts.

    Args:
        settings: values of train.json's keys.
        num_labeled: labeled scans.
        pool: unlabeled scans.
    """
    total, work, last = settings["stage_1_epochs"] + settings["stage_2_epochs"], [], None
    for epoch in range(1, total + 1):
        stage, stage_epoch = stage_of(epoch, settings["stage_1_epochs"])
        count = _num_unlabeled(settings, epoch, stage_epoch, num_labeled, pool) if stage == 2 and pool else 0
        is_due = bool(count) and (last is None or epoch - last >= settings["refresh_interval"])
        last = epoch if is_due else last
        refreshed = min(pool, settings["refresh_cases"] or pool) if is_due else 0
        validates = epoch % settings["val_interval"] == 0 or epoch == total
        work.append(EpochWork(student_of(stage, stage_epoch, settings["roles"]), count, refreshed, validates))
    return work


def _num_unlabeled(
    settings: Mapping[str, Any], epoch: int, stage_epoch: int, num_labeled: int, pool: int
) -> float:
    """As ``LRGSamplingHandler`` sets it in stage 2."""
    batch_size = settings["batch_size"]
    if settings["sampling"] == "uniform":
        return batch_size * pool / (pool + num_labeled)
    if settings["sampling"] == "fixed":
        return settings["num_unlabeled"]
    if settings["sampling"] == "linear":
        factor = 1 - (stage_epoch - 1) / settings["stage_2_epochs"]
    else:
        keys = ("stage_1_epochs", "stage_2_epochs", "warmup_epochs", "restart")
        factor = learning_rate_factor(epoch, *(settings[key] for key in keys))
    return lrg_num_unlabeled(factor, 1.0, 0.0, batch_size, settings["min_labeled"])
