"""Patients of the MR series: enough of them in validation, so that no folds are needed."""

from __future__ import annotations

from lib.trainers.split import in_validation

__all__ = ["HELD", "HELD_OUT", "TRAIN"]

HELD_OUT = 0.5  # share of the patients in validation
NAMES = [f"patient {k}" for k in range(40)]
TRAIN = [name for name in NAMES if not in_validation(name, HELD_OUT)][:4]
HELD = [name for name in NAMES if in_validation(name, HELD_OUT)][:3]
