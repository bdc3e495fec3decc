"""Seconds of an engine's steps, waiting for data apart from computing."""

from __future__ import annotations

import platform
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from statistics import median
from typing import Any

import torch
from ignite.engine import Engine, Events

__all__ = ["StepClock", "peak_memory_mib"]


class StepClock:
    """Waiting and computing seconds of every step of an engine.

    Waiting is the time from GET_BATCH_STARTED to GET_BATCH_COMPLETED: reading, cropping and augmenting as far as the
    loader's thread or workers could not hide it. Computing is the iteration with its handlers. On a
    GPU both ends of the iteration wait for it to finish.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.waiting: list[float] = []
        self.computing: list[float] = []
        self.parts: dict[str, list[float]] = defaultdict(list)
        self._marks: dict[str, float] = {}
        self._peak = 0.0

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def attach(self, engine: Engine) -> None:
        """Attach it last, so that the other handlers' time counts too. Each epoch is measured anew."""
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self.reset())
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._mark, "batch")
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._measure, "batch", self.waiting)
        engine.add_event_handler(Events.ITERATION_STARTED, self._mark, "iteration")
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._measure, "iteration", self.computing)
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda _: self.note_peak())

    def _mark(self, engine: Engine, name: str) -> None:
        self._marks[name] = self.now()

    def _measure(self, engine: Engine, name: str, times: list[float]) -> None:
        times.append(self.now() - self._marks[name])

    def note_peak(self) -> None:
        """Keep the most memory so far: what comes behind the last step, such as a validation, is not the steps'."""
        self._peak = peak_memory_mib(self.device)

    def timed(self, function: Callable, name_of: Callable[..., str]) -> Callable:
        """``function`` whose seconds are noted under the name that ``name_of`` makes of its arguments."""

        @wraps(function)
        def wrapper(*args: Any) -> Any:
            start = self.now()
            result = function(*args)
            self.parts[name_of(*args)].append(self.now() - start)
            return result

        return wrapper

    def reset(self) -> None:
        """Forget what was measured, and on a GPU the most memory, so that it is that of the steps to come."""
        for times in (self.waiting, self.computing, self.parts):
            times.clear()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def row(self, name: str, warmup: int) -> dict[str, Any]:
        """Statistics without the first ``warmup`` steps (one step stays in any case)."""
        warmup = min(warmup, len(self.computing) - 1)
        waiting, computing = self.waiting[warmup:], self.computing[warmup:]
        total = [a + b for a, b in zip(waiting, computing, strict=True)]
        return {
            "name": name,
            "steps": len(total),
            "median_s": median(total),
            "min_s": min(total),
            "max_s": max(total),
            "waiting_share": sum(waiting) / sum(total),
            # What the first step waits for longer than others: the first batch, and worker processes if there are any.
            "epoch_start_s": max(self.waiting[0] - median(waiting), 0.0),
            "parts_median_s": {part: median(times[warmup:]) for part, times in self.parts.items()},
            "peak_memory_mib": self._peak,
        }


def peak_memory_mib(device: torch.device) -> float:
    """Most memory so far in MiB: allocated by torch on a GPU; the whole process's resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if platform.system() == "Darwin" else 2**10)
