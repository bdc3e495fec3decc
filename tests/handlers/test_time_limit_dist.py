"""max_minutes with two processes: both end behind the same epoch, and none before the checkpoint is whole."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from types import SimpleNamespace

from mnseg.handlers import TimeLimitHandler
from mnseg.handlers.time_limit import STOPPED
from two_processes import run_both

ENGINE = SimpleNamespace(state=SimpleNamespace(epoch=3, max_epochs=9), logger=logging.getLogger("engine"))


class Slow:
    """A training state whose file takes a while."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, engine: SimpleNamespace) -> None:
        time.sleep(1.5)
        self.path.write_text(str(engine.state.epoch))


def end(process: int, path: str) -> tuple[object, str]:
    """Exit code, and what the checkpoint held then; the time is over on the second process alone."""
    handler = TimeLimitHandler(Slow(Path(path)), 0 if process else 1e6)
    try:
        handler(ENGINE)
    except SystemExit as stopped:
        return stopped.code, Path(path).read_text() if Path(path).exists() else "not yet written"
    return None, "went on"


def test_no_process_leaves_while_the_other_writes(tmp_path):
    assert run_both(end, str(tmp_path / "checkpoint.pt")) == [(STOPPED, "3")] * 2
