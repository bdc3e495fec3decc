"""One line an epoch: history.jsonl, TensorBoard and the log."""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from ignite.engine import Engine, Events
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

__all__ = ["HistoryHandler"]

logger = logging.getLogger(__name__)


class HistoryHandler:
    """Write what an epoch did: stage, student, b_u, unlabeled patches so far, rates, losses, validation, seconds.

    A continued run cuts the file back to the checkpoint's epoch first, so that every epoch stands in it once. Attach
    it behind ``CoValidationHandler``.

    Args:
        run_dir: folder of ``history.jsonl`` and of TensorBoard's ``tensorboard/``.
        optimizers: name ("3d", "2d") -> optimizer, for the rates.
    """

    main_process_only = True

    def __init__(self, run_dir: str | Path, optimizers: Mapping[str, Optimizer]) -> None:
        self.run_dir = Path(run_dir)
        self.path = self.run_dir / "history.jsonl"
        self.optimizers = dict(optimizers)
        self.losses: dict[str, list[float]] = defaultdict(list)
        self.epoch_start = 0.0
        self.writer: SummaryWriter | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to a ``CoTrainer``."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_STARTED, self.start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.close)

    def start(self, engine: Engine) -> None:
        """Keep the lines up to the epoch from which the run goes on."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in lines if _epoch_of(line) <= engine.state.epoch]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(f"{line}\n" for line in kept))
        temporary.replace(self.path)
        self.writer = SummaryWriter(str(self.run_dir / "tensorboard"), purge_step=engine.state.epoch + 1)
        self.epoch_start = time.perf_counter()

    def start_epoch(self, engine: Engine) -> None:
        """Begin an epoch's sums."""
        self.losses.clear()

    def collect(self, engine: Engine) -> None:
        """Keep an iteration's losses."""
        for name, value in engine.state.output.items():
            self.losses[name].append(value)

    def record(self, engine: Engine) -> dict:
        """The epoch's line."""
        state = engine.state
        rates = {f"lr_{name}": optimizer.param_groups[0]["lr"] for name, optimizer in self.optimizers.items()}
        return {
            "epoch": state.epoch,
            "stage": state.stage,
            "student": state.student,
            "num_labeled": round(engine.data_loader.batch_sampler.batch_size - state.num_unlabeled, 3),
            "num_unlabeled": round(state.num_unlabeled, 3),
            "unlabeled_seen": state.unlabeled_seen,
            **rates,
            **{name: fmean(values) for name, values in self.losses.items()},
            **getattr(state, "validation", {}),
            "seconds": round(time.perf_counter() - self.epoch_start, 3),
        }

    def __call__(self, engine: Engine) -> None:
        record = self.record(engine)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        for name, value in record.items():
            if isinstance(value, (int, float)) and name != "epoch":
                self.writer.add_scalar(name, value, record["epoch"])
        # From here, since the next epoch's pseudo-foreground is refreshed before any handler behind it hears of it.
        self.epoch_start = time.perf_counter()
        logger.info("epoch %d/%d: %s", record["epoch"], engine.state.max_epochs, _readable(record))

    def close(self, engine: Engine, error: BaseException | None = None) -> None:
        """Flush TensorBoard's file, at the end or when the run breaks off."""
        if self.writer is not None:
            self.writer.close()


def _epoch_of(line: str) -> float:
    try:
        return json.loads(line)["epoch"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line that a killed process left half-written


def _readable(record: Mapping) -> str:
    parts = [f"stage {record['stage']}, student {record['student']}, b_u {record['num_unlabeled']:g}"]
    parts += [f"{name} {value:.4g}" for name, value in record.items() if name.startswith(("loss", "val_", "pseudo_"))]
    return ", ".join(parts)
