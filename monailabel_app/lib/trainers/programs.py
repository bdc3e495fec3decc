"""The commands that a training consists of."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Programs"]

APP = Path(__file__).parents[2]


@dataclass(frozen=True)
class Programs:
    """Commands of the steps; they take file names alone, so that nothing of a request becomes part of one.

    threads: of each; 0: as many as the system gives.
    """

    threads: int = 0

    def train(self, configs: Sequence[Path], run_dir: Path) -> list[str]:
        """A run of the bundle."""
        names = [str(path) for path in configs]
        return [sys.executable, "-m", "monai.bundle", "run", "--config_file", repr(names), "--run_dir", str(run_dir)]

    def score(self, configs: Sequence[Path], run_dir: Path) -> list[str]:
        """Disagreement of both networks of a run."""
        return self.train(configs, run_dir)

    def compare(self, plan: Path, results: Path) -> list[str]:
        """Masks and measures of a candidate and the published version."""
        return [sys.executable, "-m", "lib.trainers.comparison_main", str(plan), str(results)]

    def check(self, datalist: Path, num_classes: int, faults: Path) -> list[str]:
        """Which scans of a datalist cannot be used."""
        return [sys.executable, "-m", "lib.trainers.check_main", str(datalist), str(num_classes), str(faults)]

    def env(self, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Additions to the environment: where ``lib`` is, how many threads."""
        path = os.pathsep.join([str(APP), *filter(None, [environ.get("PYTHONPATH")])])
        return {"PYTHONPATH": path, **({"OMP_NUM_THREADS": str(self.threads)} if self.threads else {})}
