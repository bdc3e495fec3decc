"""The time and memory of a whole training, from its epochs and the seconds of a few measured steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mnseg.planning.schedule import EpochWork
from mnseg.planning.steps import Kind

__all__ = ["Measured", "Part", "kinds_of", "parts_of_training"]

STUDENTS = {"both": "both networks", "3d": "3D student", "2d": "2D student"}


@dataclass(frozen=True)
class Measured:
    """Seconds of one of each.

    Attributes:
        steps: median seconds of a step by (student, b_u).
        epoch_start: what the first step of an epoch takes longer.
        validation_scan: both networks on one scan.
        refreshed_scan: the 3D network on one unlabeled scan.
        checked_scan, cached_scan: before the first step.
        setup: building networks and config.
    """

    steps: dict[tuple[str, int], float]
    epoch_start: float
    validation_scan: float
    refreshed_scan: float
    checked_scan: float
    cached_scan: float
    setup: float


@dataclass(frozen=True)
class Part:
    """A line of the plan."""

    name: str
    count: int
    unit: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def kinds_of(epochs: Sequence[EpochWork], most: int) -> list[Kind]:
    """The steps to measure: every student with the fewest and the most unlabeled patches that it meets.

    The first kind is a labeled step of both networks, the only one that stage 1 has.

    Args:
        epochs: of the training.
        most: unlabeled patches that fit into a batch beside the labeled ones.
    """
    wanted = [("both", 0)]
    for student in STUDENTS:
        counts = [min(round(each.num_unlabeled), most) for each in epochs if each.student == student]
        wanted += [(student, count) for count in (min(counts, default=0), max(counts, default=0)) if counts]
    return [Kind(f"{STUDENTS[student]}, b_u {count}", student, count) for student, count in dict.fromkeys(wanted)]


def step_seconds(measured: Measured, work: EpochWork) -> float:
    """A step of an epoch: between two measured numbers of unlabeled patches the time is a straight line."""
    known = sorted((count, seconds) for (student, count), seconds in measured.steps.items() if student == work.student)
    (low, first), (high, last) = known[0], known[-1]
    share = 0.0 if high == low else (min(max(work.num_unlabeled, low), high) - low) / (high - low)
    return first + share * (last - first)


def parts_of_training(
    epochs: Sequence[EpochWork], measured: Measured, epoch_length: int, scans: Mapping[str, int]
) -> list[Part]:
    """What a training consists of, with the seconds of each part.

    Args:
        epochs: of the training.
        measured: seconds of one of each.
        epoch_length: steps of an epoch.
        scans: numbers of ``Training.scans``; those of the pool whose masks are known are measured at each validation.
    """
    checked, cached = scans["checked"], scans["labeled"] + scans["unlabeled"] + scans["validation"]
    parts = [
        Part("check of the scans", checked, "scans", checked * measured.checked_scan),
        Part("cache of the scans", cached, "scans", cached * measured.cached_scan),
        Part("start", 1, "", measured.setup + len(epochs) * measured.epoch_start),
    ]
    for student, name in STUDENTS.items():
        works = [work for work in epochs if work.student == student]
        seconds = epoch_length * sum(step_seconds(measured, work) for work in works)
        parts.append(Part(f"steps, {name}", epoch_length * len(works), "steps", seconds))
    refreshed, validations = sum(each.refreshed for each in epochs), sum(each.validates for each in epochs)
    volumes = validations * (scans["validation"] + scans["hidden"])
    parts.append(Part("pseudo-foreground", refreshed, "scans", refreshed * measured.refreshed_scan))
    parts.append(Part("validation, both networks", volumes, "scans", volumes * measured.validation_scan))
    return [part for part in parts if part.count]
