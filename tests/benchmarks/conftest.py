"""The scripts of benchmarks/ are no package: they find each other in their own folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))


@pytest.fixture(autouse=True)
def _leave_logging_alone(monkeypatch):
    """The scripts silence logging for their process; other tests of this one read it."""
    import active_learning
    import compare
    import step
    import teacher_check

    for script in (active_learning, compare, step, teacher_check):
        monkeypatch.setattr(script, "quiet", lambda: None)
