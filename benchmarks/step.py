"""Seconds per training step and per validation volume, with the share of time spent waiting for data.

    python benchmarks/step.py                                  # phantom data, a tiny random 2D network
    python benchmarks/step.py --config configs/datasets/la.json configs/recipes/cpu.json \\
        --datalist la.json --dataset-dir DATA --model-2d WEIGHTS --set amp_dtype=bfloat16

The bundle's own trainer runs: one epoch for each kind of step, timed through ignite's events, then its validation.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from bench_common import hardware, open_bundle, overrides_of, peak_memory_mib, quiet
from ignite.engine import Engine, Events

from mnseg.data.datalist import load_datalist, write_datalist
from mnseg.data.phantom import write_phantom_dataset
from mnseg.engines import CoTrainer
from mnseg.errors import UserError
from mnseg.files import atomic_write
from mnseg.networks.pretrained import TINY_SEGFORMER

DEFAULT_OVERLAYS = ["configs/datasets/phantom.json", "configs/recipes/cpu.json"]


class Kind(NamedTuple):
    """A kind of step: its name, who learns, and how many unlabeled patches are in its batches."""

    name: str
    student: str
    num_unlabeled: int


class StepClock:
    """Waiting and computing seconds of every step of an engine.

    Waiting is the time from GET_BATCH_STARTED to GET_BATCH_COMPLETED: reading, cropping and augmenting when the loader
    has no workers, and what the workers could not hide when it has. Computing is the iteration with its handlers. On a
    GPU both ends of the iteration wait for it to finish.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.waiting: list[float] = []
        self.computing: list[float] = []
        self.parts: dict[str, list[float]] = defaultdict(list)
        self._marks: dict[str, float] = {}

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def attach(self, engine: Engine) -> None:
        """Attach it last, so that the other handlers' time counts too."""
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._mark, "batch")
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._measure, "batch", self.waiting)
        engine.add_event_handler(Events.ITERATION_STARTED, self._mark, "iteration")
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._measure, "iteration", self.computing)

    def _mark(self, engine: Engine, name: str) -> None:
        self._marks[name] = self.now()

    def _measure(self, engine: Engine, name: str, times: list[float]) -> None:
        times.append(self.now() - self._marks[name])

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
        """Forget what was measured."""
        for times in (self.waiting, self.computing, self.parts):
            times.clear()

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
            "parts_median_s": {part: median(times[warmup:]) for part, times in self.parts.items()},
            "peak_memory_mib": peak_memory_mib(self.device),
        }


class Plan:
    """Makes each epoch of a trainer one kind of step and collects a row for it.

    Student and number of unlabeled patches are set behind the bundle's own handlers; everything else is its code.
    """

    def __init__(self, kinds: list[Kind], clock: StepClock, warmup: int) -> None:
        self.kinds = kinds
        self.clock = clock
        self.warmup = warmup
        self.rows: list[dict[str, Any]] = []

    def attach(self, trainer: CoTrainer) -> None:
        """Attach behind all other handlers."""
        trainer._teach = self.clock.timed(trainer._teach, lambda name, image: f"teacher_{name}")
        trainer._update = self.clock.timed(trainer._update, lambda name, *batch: f"update_{name}")
        trainer.add_event_handler(Events.EPOCH_STARTED, self._start)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._check)
        self.clock.attach(trainer)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, trainer: CoTrainer) -> None:
        kind = self.kinds[trainer.state.epoch - 1]
        trainer.state.student = kind.student
        trainer.state.num_unlabeled = trainer.data_loader.batch_sampler.num_unlabeled = kind.num_unlabeled
        self.clock.reset()
        if self.clock.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.clock.device)

    def _check(self, trainer: CoTrainer) -> None:
        batch, kind = trainer.state.batch, self.kinds[trainer.state.epoch - 1]
        if batch["image"].shape[0] - batch["label"].shape[0] != kind.num_unlabeled:
            raise AssertionError(f"a batch of '{kind.name}' does not hold {kind.num_unlabeled} unlabeled patches")

    def _finish(self, trainer: CoTrainer) -> None:
        self.rows.append(self.clock.row(self.kinds[trainer.state.epoch - 1].name, self.warmup))


def step_kinds(num_unlabeled: int) -> list[Kind]:
    """The kinds of steps; those of stage 2 only where there are unlabeled patches to draw."""
    kinds = [
        Kind("labeled step, both", "both", 0),
        Kind("labeled step, 3D alone", "3d", 0),
        Kind("labeled step, 2D alone", "2d", 0),
    ]
    if num_unlabeled:
        kinds += [
            Kind(f"3D student, b_u {num_unlabeled}", "3d", num_unlabeled),
            Kind(f"2D student, b_u {num_unlabeled}", "2d", num_unlabeled),
        ]
    return kinds


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the benchmark; intermediate files go to ``folder``."""
    device = _device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    overrides = _settings(args, folder, device)
    datalist = load_datalist(overrides["data_list_file_path"])
    workflow = open_bundle("train.json", args.config, "train", **overrides)
    parser = workflow.parser
    batch_size = parser.get_parsed_content("batch_size")
    unlabeled = batch_size // 2 if args.unlabeled is None else args.unlabeled
    if not 0 <= unlabeled < batch_size:
        raise UserError(f"--unlabeled is {unlabeled}; with batch_size {batch_size} it must be 0 to {batch_size - 1}.")
    kinds = step_kinds(unlabeled if datalist.get("unlabeled") else 0)
    info = hardware(device) | {"batch_size": batch_size, "patch_size": parser.get_parsed_content("patch_size")}
    print(", ".join(f"{key} {value}" for key, value in info.items()) + "\n")
    # The trainer's length depends on the kinds, which depend on the batch size.
    workflow.parser.update({"stage_2_epochs": len(kinds) - 1, "num_unlabeled": unlabeled if len(kinds) > 3 else 0})
    workflow.initialize()
    trainer = parser.get_parsed_content("train::trainer")
    plan = Plan(kinds, StepClock(device), args.warmup)
    plan.attach(trainer)
    clocks = _validation_clocks(parser, device, bool(datalist.get("validation")))
    trainer.run()
    rows = plan.rows + [clock.row(name, args.warmup_volumes) for name, clock in clocks.items()]
    print("\n".join(["", _line(None), *map(_line, rows)]))
    return info | {"config": args.config, "set": args.set, "model_2d": overrides["model_2d"], "rows": rows}


def _validation_clocks(parser: Any, device: torch.device, has_validation: bool) -> dict[str, StepClock]:
    if not has_validation:
        return {}
    clocks = {"validation volume, 3D": "validate::evaluator", "validation volume, 2D": "validate::evaluator_2d"}
    for name, key in clocks.items():
        clocks[name] = StepClock(device)
        clocks[name].attach(parser.get_parsed_content(key))
    return clocks


def _settings(args: argparse.Namespace, folder: Path, device: torch.device) -> dict[str, Any]:
    steps = args.warmup + args.steps
    if args.steps < 1 or args.warmup < 0:
        raise UserError("--steps must be at least 1 and --warmup at least 0.")
    own = {
        "run_dir": str(folder / "run"),
        "data_list_file_path": str(_datalist(args, folder)),
        "dataset_dir": str(folder),
        "device": f"$torch.device('{device}')",
        "epoch_length": steps,
        "stage_1_epochs": 1,
        "warmup_epochs": 0,
        "sampling": "fixed",
        "allow_empty_unlabeled": True,
        "refresh_cases": 2,
        "val_interval": 10**6,  # only behind the last epoch
        "hidden_cases": 0,
        "checkpoint_interval": 10**6,
        "resume": False,
        "model_2d": args.model_2d or TINY_SEGFORMER,
    }
    if args.model_2d is None:
        own |= {"pretrained": False, "finetuning": "whole"}
    return own | overrides_of(args.set)


def _datalist(args: argparse.Namespace, folder: Path) -> Path:
    """A short datalist: the cost of a step does not depend on the pool's length, the time to cache it does."""
    volumes = args.warmup_volumes + args.volumes
    if args.datalist is None:
        return write_phantom_dataset(folder, 4, args.unlabeled_cases, volumes, 0)
    datalist = load_datalist(args.datalist, args.dataset_dir)
    datalist["unlabeled"] = datalist.get("unlabeled", [])[: args.unlabeled_cases]
    datalist["validation"] = datalist.get("validation", [])[:volumes]
    datalist["testing"] = []
    return write_datalist(datalist, folder / "datalist.json")


def _device(name: str | None) -> torch.device:
    device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda, but torch sees no GPU here: use --device cpu, or install a CUDA build.")
    return torch.device("cuda", torch.cuda.current_device()) if str(device) == "cuda" else device


def _line(row: dict[str, Any] | None) -> str:
    """A line of the table; None: its head."""
    if row is None:
        return f"{'':26} {'seconds':>8} {'min..max':>17} {'waiting':>8} {'peak MiB':>9}  of which"
    spread = f"{row['min_s']:.3f}..{row['max_s']:.3f}"
    parts = ", ".join(f"{name} {seconds:.3f}" for name, seconds in row["parts_median_s"].items())
    return (
        f"{row['name']:26} {row['median_s']:8.3f} {spread:>17} {row['waiting_share']:8.1%} "
        f"{row['peak_memory_mib']:9.0f}  {parts}"
    )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="*", default=DEFAULT_OVERLAYS, metavar="FILE", help="overlays of train.json")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of top-level keys")
    parser.add_argument("--datalist", metavar="FILE", help="default: phantom data in a temporary folder")
    parser.add_argument("--dataset-dir", metavar="DIR", help="where the datalist's relative paths start")
    parser.add_argument("--model-2d", metavar="DIR", help="2D network with weights; default: a tiny random SegFormer")
    parser.add_argument("--steps", type=int, default=8, help="measured steps of each kind (default: 8)")
    parser.add_argument("--warmup", type=int, default=2, help="steps of each kind before measuring (default: 2)")
    parser.add_argument("--unlabeled", type=int, help="b_u of the student steps (default: half of the batch)")
    parser.add_argument("--unlabeled-cases", type=int, default=8, help="unlabeled scans taken from the datalist")
    parser.add_argument("--volumes", type=int, default=3, help="measured validation volumes (default: 3)")
    parser.add_argument("--warmup-volumes", type=int, default=1, help="volumes before measuring (default: 1)")
    parser.add_argument("--threads", type=int, help="torch's CPU threads")
    parser.add_argument("--device", help="cpu or cuda (default: cuda if there is one)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers here too")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    quiet()
    try:
        with tempfile.TemporaryDirectory(prefix="mnseg_step_") as folder:
            result = measure(args, Path(folder))
    except UserError as error:
        print(f"step.py: {error}", file=sys.stderr)
        return 1
    print(
        "\nseconds: median over steps, waiting for data included; waiting: share of the time. peak: "
        + ("allocated by torch, per kind of step." if result["device"] != "cpu" else
           "resident memory of the process up to there, cached scans included.")
    )
    if args.json:
        atomic_write(args.json, lambda path: path.write_text(json.dumps(result, indent=2) + "\n"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
