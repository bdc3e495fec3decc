"""What is said of a training: its facts, how far it is, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lib.trainers.job import Job
from lib.trainers.progress import Progress, read_progress

__all__ = ["described", "details", "ending"]


def described(job: Job, lines: Sequence[str]) -> dict[str, Any]:
    """All that a page shows of a training.

    Args:
        job: the training.
        lines: what its commands printed last.

    Returns:
        The facts of `Job`, and id, progress, seconds_left (of the whole job), details.
    """
    facts = {key: value for key, value in job.facts.items() if key not in ("pid", "begun")}
    progress, left = _progress_of(job)
    return {"id": job.id, **facts, "progress": progress.as_dict(), "seconds_left": left, "details": details(job, lines)}


def details(job: Job, lines: Sequence[str]) -> list[str]:
    """The last lines, then where the training stands or how it ended."""
    return [*lines, *([] if job.ended else [f"Training {job.id}: {job.facts['step'] or 'about to begin'}"]),
            *([ending(job)] if job.facts["status"] == "DONE" else [])]


def ending(job: Job) -> str:
    """How a training that came to its end was judged."""
    verdict = job.facts.get("verdict") or {}
    name = f"mnseg {job.facts['version']}"
    reason = verdict.get("reason", "")
    return f"{name} is published. {reason}" if job.facts["outcome"] == "published" else f"{name} is kept back. {reason}"


def _progress_of(job: Job) -> tuple[Progress, float | None]:
    """Progress of the run under way, and the seconds that it and those behind it will take."""
    epochs, done, step = job.facts.get("epochs") or 0, job.facts["done"], job.facts["step"]
    is_fold = step.startswith("fold ")
    folder = job.folder / "folds" / step.removeprefix("fold ") if is_fold else job.folder
    progress = read_progress(folder, epochs)
    if job.ended or not progress.epoch:
        return progress, None
    to_come = sum(f"fold {index}" not in (*done, step) for index in job.facts["folds"])
    whole = progress.seconds_left or 0.0
    if progress.epoch < progress.max_epochs:
        pace = whole / (progress.max_epochs - progress.epoch)
    else:
        pace = job.facts["seconds"].get("train", 0.0) / max(progress.max_epochs, 1)
    return progress, round(whole + pace * progress.max_epochs * to_come, 1)
