"""A handler that kills its own process, for trainings that tests start as processes."""

from __future__ import annotations

from pathlib import Path

KILL = """
import os, signal
from ignite.engine import Events

class Kill:
    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=%d), self)

    def __call__(self, engine):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def write_kill_module(folder: Path, iteration: int) -> None:
    """``kill_module.Kill``: SIGKILL after so many iterations."""
    (folder / "kill_module.py").write_text(KILL % iteration)
