"""MONAI Label's view of the training: what ``/info/`` says of it, and Slicer's bars."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from monailabel.interfaces.tasks.train import TrainTask

from lib.retraining.service import TrainingService

__all__ = ["CoTrainTask"]


class CoTrainTask(TrainTask):
    """Co-training on labeled and unlabeled scans; `TrainingService` does it.

    Args:
        service: see there; the accuracy bar shows the published version of its registry.
    """

    def __init__(self, service: TrainingService) -> None:
        super().__init__("Co-training of a 2D and a 3D network on labeled and unlabeled scans (M&N)")
        self.service = service

    def config(self) -> dict[str, Any]:
        """What a client may send; Slicer sends every key back, so the values do no harm."""
        return {"from_scratch": False}

    def stats(self) -> dict[str, Any]:
        """Keys as those of MONAI Label's own trainer, which Slicer reads.

        best_metric: mean Dice of the published version on scans that it did not train on, in the gate's comparison;
            before the first version that of the training under way.
        epoch, total_epochs: of the newest training; total_time once it has ended, else current_time (h:mm:ss).
        """
        published = self.service.registry.published()
        task, progress = self.service.task(), self.service.progress()
        dice = None if published is None else (published.facts.get("verdict") or {}).get("dice")
        if dice is None and progress is not None:
            dice = progress.dice_3d
        stats: dict[str, Any] = {"best_metric": round(dice or 0.0, 4)}
        if published is not None:
            stats["version"] = published.id
        if task is None or progress is None:
            return stats
        return {**stats, **self._of_training(task, progress)}

    def __call__(self, request: Mapping[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Train and wait for the end, as ``?run_sync=true`` wants it."""
        task = self.service.now(str(request.get("client_id") or "MONAI Label"), request.get("from_scratch") is True)
        while (current := self.service.task()) is not None and current["id"] == task["id"] and "end_ts" not in current:
            time.sleep(0.2)
        return self.stats()

    def _of_training(self, task: Mapping[str, Any], progress: Any) -> dict[str, Any]:
        facts = (self.service.status()["job"]) or {}
        begun = facts.get("started") or facts.get("created") or 0.0
        ended = facts.get("ended")
        passed = str(timedelta(seconds=int((ended or self.service.clock()) - begun)))
        return {
            "epoch": progress.epoch,
            "total_epochs": max(progress.max_epochs, 1),
            "start_ts": int(begun),
            "total_time" if ended else "current_time": passed,
            "train": {
                "status": task["status"],
                "stage": progress.stage,
                "losses": progress.losses,
                "val_dice_3d": progress.dice_3d,
                "val_dice_2d": progress.dice_2d,
                "seconds_left": facts.get("seconds_left"),
            },
        }
