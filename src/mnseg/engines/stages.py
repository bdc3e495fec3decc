"""Which stage an epoch belongs to, who learns in it, and the learning rate that goes with it: pure functions."""

from __future__ import annotations

from math import cos, pi
from typing import Literal

__all__ = ["ROLES", "Role", "learning_rate_factor", "stage_of", "student_of", "teachers_of"]

Role = Literal["both", "3d", "2d"]
ROLES = ("alternate", "fixed_teacher", "mean_teacher", "joint_teacher", "distillation")


def stage_of(epoch: int, stage_1_epochs: int) -> tuple[int, int]:
    """``(stage, number of the epoch within the stage)``, all counted from 1."""
    return (1, epoch) if epoch <= stage_1_epochs else (2, epoch - stage_1_epochs)


def student_of(stage: int, stage_epoch: int, roles: str = "alternate") -> Role:
    """Who learns: both in stage 1; in stage 2 the 3D network in odd epochs and the 2D network in even ones.

    With ``roles`` "fixed_teacher" it is always the 3D network (M&N, Table 4, row "no iterative co-training"), and with
    "distillation".
    """
    if stage == 1:
        return "both"
    return "3d" if roles in ("fixed_teacher", "distillation") or stage_epoch % 2 == 1 else "2d"


def teachers_of(student: Role, roles: str = "alternate") -> tuple[Role, ...]:
    """Who teaches in stage 2: the other network, unless ``roles`` says otherwise.

    "mean_teacher": always the 3D network. There its moving average teaches (Tarvainen & Valpola, NeurIPS 2017). The 3D
    network learns in the epochs in which it learns under M&N, too: equal updates on equal patches. The 2D network only
    listens.

    "joint_teacher": both networks together, whoever learns.

    "distillation": the network in the 3D network's place, say both networks of an earlier run (Hinton et al., 2015).
    """
    if roles == "joint_teacher":
        return ("3d", "2d")
    return ("2d",) if student == "3d" and roles not in ("mean_teacher", "distillation") else ("3d",)


def learning_rate_factor(
    epoch: int, stage_1_epochs: int, stage_2_epochs: int, warmup_epochs: int = 0, restart: bool = True
) -> float:
    """Learning rate as a share of the way from final (0) to initial (1).

    Stage 1: linear warm-up over ``warmup_epochs``, then a cosine to the final rate. Stage 2: a restart at the initial
    rate and a cosine to the final rate (M&N, Sec. 3.1, with the restart of the released code).

    Args:
        epoch: from 1.
        stage_1_epochs: length of stage 1, warm-up included.
        stage_2_epochs: length of stage 2.
        warmup_epochs: epochs of linear warm-up at the start of stage 1; it ends with that stage at the latest, since in
            stage 2 a rate below the initial one means unlabeled patches (Eq. 10).
        restart: False: one cosine over both stages instead of one each.
    """
    warmup_epochs = min(warmup_epochs, stage_1_epochs)
    if not restart:
        stage_1_epochs, stage_2_epochs = stage_1_epochs + stage_2_epochs, 0
    stage, stage_epoch = stage_of(epoch, stage_1_epochs)
    if stage == 2:
        return _cosine((stage_epoch - 1) / max(stage_2_epochs, 1))
    if stage_epoch <= warmup_epochs:
        return stage_epoch / warmup_epochs
    return _cosine((stage_epoch - warmup_epochs - 1) / max(stage_1_epochs - warmup_epochs, 1))


def _cosine(progress: float) -> float:
    return 0.5 * (1 + cos(pi * min(max(progress, 0.0), 1.0)))
