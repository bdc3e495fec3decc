"""Who is in the tests' Orthanc."""

from __future__ import annotations

from lib.trainers.split import in_validation

__all__ = ["HELD", "HELD_OUT", "TRAIN", "VIEWED"]

# MR: enough patients in validation, so that no folds are needed.
HELD_OUT = 0.5  # share of the patients in validation
NAMES = [f"patient {k}" for k in range(40)]
TRAIN = [name for name in NAMES if not in_validation(name, HELD_OUT)][:4]
HELD = [name for name in NAMES if in_validation(name, HELD_OUT)][:3]

# CT: slices numbered from the feet to the head or the other way; OHIF shows them in the order of their numbers.
VIEWED = ("look up", "look down", "draw up", "draw down", "correct up", "correct down")
