"""Continues a stopped run when the command is repeated."""

from __future__ import annotations

import os
from pathlib import Path

from ignite.engine import Engine, Events

from mnseg.distributed import gather, rank
from mnseg.engines.run_lock import RunLock
from mnseg.engines.training_state import TrainingState
from mnseg.errors import UserError

__all__ = ["ResumeHandler"]


class ResumeHandler:
    """Load the newest checkpoint, if there is one, when the trainer starts. Attach it first.

    While the trainer runs, its folders are held: a second training there is refused.

    Args:
        training_state: where the checkpoint lies and what it holds.
        enabled: False: start over; checkpoint and models of the earlier run become ``*.previous``, so that none of
            them passes for the new run's.
        run_dir: folder of the run, where it is not the checkpoint's; held, too.

    Raises:
        UserError: when some of several processes do not see the checkpoint, or another training runs in its folder.
    """

    def __init__(
        self, training_state: TrainingState, enabled: bool = True, run_dir: str | Path | None = None
    ) -> None:
        self.training_state = training_state
        self.enabled = enabled
        folders = [training_state.path.parent] if run_dir is None else [run_dir, training_state.path.parent]
        self.locks = [RunLock(folder) for folder in folders]

    def attach(self, engine: Engine) -> None:
        """Attach to a ``CoTrainer``."""
        engine.add_event_handler(Events.STARTED, self)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.release)
        if not self.enabled:  # when all that may stop a run or begin it (warm_start) has had its say
            engine.add_event_handler(Events.EPOCH_STARTED(once=1), self._set_aside)

    def release(self, engine: Engine, error: BaseException | None = None) -> None:
        """Let other trainings have the folders."""
        for lock in reversed(self.locks):
            lock.release()

    def __call__(self, engine: Engine) -> None:
        if rank() == 0:
            for lock in self.locks:
                lock.hold()
        # Attached last, when the trainer starts: other handlers write their files before.
        if not engine.has_event_handler(self.release, Events.COMPLETED):
            engine.add_event_handler(Events.COMPLETED, self.release)
        found = self.enabled and self.training_state.path.exists()
        if len(set(gather(found))) > 1:
            raise UserError(
                f"{self.training_state.path} is not there for all processes: set run_dir to a folder that all machines "
                "share, or resume to False to start over."
            )
        if found:
            self.training_state.load(engine)

    def _set_aside(self, engine: Engine) -> None:
        gather(None)  # until all processes have read what they begin with
        if rank() > 0:
            return
        for name in (self.training_state.path.name, "model.pt", "model_best.pt"):
            path = self.training_state.path.with_name(name)
            if path.exists():
                os.replace(path, path.with_name(f"{name}.previous"))
