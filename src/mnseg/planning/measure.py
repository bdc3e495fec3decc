"""A few steps of a training, by its own config, in a temporary folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch.utils.data import Dataset

from mnseg.data.datalist import write_datalist
from mnseg.handlers import PseudoForegroundHandler
from mnseg.planning.clock import StepClock, peak_memory_mib
from mnseg.planning.estimate import Measured
from mnseg.planning.schedule import EpochWork
from mnseg.planning.steps import Kind, MeasuredSteps
from mnseg.planning.training import open_training, read_training

__all__ = ["Planned", "memory_of_all", "plan_training"]

NEVER = 10**9
UNLABELED, VALIDATION = 8, 2  # scans of the short training: what a step takes does not depend on the pool


@dataclass(frozen=True)
class Planned:
    """What was found out about a training.

    Attributes:
        epochs: its epochs.
        measured: seconds of one of each.
        settings: values of train.json's keys that decide what happens when.
        scans: numbers of ``Training.scans``.
        device: where it runs.
        memory_mib: most resident memory of the process, cached scans included.
        gpu_memory_mib: most memory that torch allocates on the GPU; None on a CPU.
    """

    epochs: list[EpochWork]
    measured: Measured
    settings: dict[str, Any]
    scans: dict[str, int]
    device: str
    memory_mib: float
    gpu_memory_mib: float | None


def plan_training(
    config_file: Sequence[str] | str, overrides: Mapping[str, Any], folder: Path, steps: int = 4, warmup: int = 2
) -> Planned:
    """Run ``warmup + steps`` steps of each kind that a training has, and one validation, and time them.

    Args:
        config_file: of the training, as ``monai.bundle run`` takes it.
        overrides: its top-level keys.
        folder: empty; takes all that the short training writes.
        steps: measured steps of each kind.
        warmup: steps before them.

    Raises:
        UserError: what the training itself would refuse; no labeled scan.
    """
    read = read_training(config_file, overrides)
    settings, scans, kinds = read.settings, read.scans, read.kinds
    overrides = {**overrides, **_short(read.datalist, kinds, folder, steps + warmup)}
    start = time.perf_counter()
    short = open_training(config_file, overrides)
    short.initialize()
    setup = time.perf_counter() - start
    # By a config of its own: the short training may have checked its scans when its networks were built.
    checked = _seconds(open_training(config_file, overrides).parser, "datalist")
    if "datalist" in short.parser.ref_resolver.resolved_content:
        setup = max(setup - checked, 0.0)
    measured, memory = _measure(short.parser, kinds, warmup, setup, checked)
    device = torch.device(short.parser.get_parsed_content("device"))
    return Planned(read.epochs, measured, settings, scans, str(device),
                   *memory_of_all(memory, settings, scans, device.type == "cuda"))  # fmt: skip


def memory_of_all(
    measured: Mapping[str, float], settings: Mapping[str, Any], scans: Mapping[str, int], on_gpu: bool
) -> tuple[float, float | None]:
    """MiB of the host and of the GPU (None: there is none): what was measured, and the scans that were left out of it.

    A cache on disk is read page by page; ``cache_on_device`` keeps the pool, not what is validated, on a GPU.
    """
    share = settings["cache_rate"] if settings["cache_dir"] is None else 0.0
    pool = share * measured["scan_mib"] * max(scans["unlabeled"] - UNLABELED, 0)
    validated = share * measured["scan_mib"] * (max(scans["validation"] - VALIDATION, 0) + scans["hidden"])
    on_device = pool if on_gpu and settings["cache_on_device"] else 0.0
    gpu = measured["gpu_mib"] + on_device if on_gpu else None
    return measured["host_mib"] + validated + pool - on_device, gpu


def _short(datalist: Mapping[str, Any], kinds: Sequence[Kind], folder: Path, epoch_length: int) -> dict[str, Any]:
    """Overrides that make it short, and keep its files apart from the training's."""
    few = {**datalist, "unlabeled": datalist.get("unlabeled", [])[:UNLABELED], "testing": [],
           "validation": datalist.get("validation", [])[:VALIDATION]}  # fmt: skip
    return {
        "run_dir": str(folder / "run"),
        "ckpt_dir": str(folder / "run" / "models"),
        "output_dir": str(folder / "run" / "eval"),
        "data_list_file_path": str(write_datalist(few, folder / "datalist.json")),
        "dataset_dir": str(folder),
        "epoch_length": epoch_length,
        "stage_1_epochs": 1,
        "stage_2_epochs": len(kinds) - 1,
        "warmup_epochs": 0,
        "sampling": "fixed",
        "num_unlabeled": max(kind.num_unlabeled for kind in kinds),
        "allow_empty_unlabeled": True,
        "refresh_cases": 2,
        "val_interval": NEVER,  # only behind the last epoch
        "hidden_cases": 0,
        "checkpoint_interval": NEVER,
        "cache_dir": None,
        "max_minutes": None,
        "resume": False,
    }


def _measure(
    parser: ConfigParser, kinds: Sequence[Kind], warmup: int, setup: float, checked: float
) -> tuple[Measured, dict[str, float]]:
    device = torch.device(parser.get_parsed_content("device"))
    cached = _seconds(parser, "pool")
    datalist, pool = parser.get_parsed_content("datalist"), parser.get_parsed_content("pool")
    trainer = parser.get_parsed_content("train::trainer")
    clocks = {key: StepClock(device) for key in ("validate::evaluator", "validate::evaluator_2d")}
    for key, clock in clocks.items():
        clock.attach(parser.get_parsed_content(key))
    steps = MeasuredSteps(kinds, StepClock(device), warmup)
    steps.attach(trainer)
    refresh = StepClock(device)
    for handler in parser.get_parsed_content("train::handlers"):
        if isinstance(handler, PseudoForegroundHandler):
            handler._predict = refresh.timed(handler._predict, lambda *_: "scan")
    trainer.run()
    seconds = {(kind.student, kind.num_unlabeled): row["median_s"] for kind, row in zip(kinds, steps.rows, strict=True)}
    volumes = [clock.row("", warmup=1) for clock in clocks.values() if clock.computing]
    number = sum(len(datalist.get(split, [])) for split in ("labeled", "unlabeled", "validation"))
    measured = Measured(
        steps=seconds,
        epoch_start=median(row["epoch_start_s"] for row in steps.rows),
        validation_scan=sum(row["median_s"] for row in volumes),
        refreshed_scan=median(refresh.parts["scan"]) if refresh.parts["scan"] else 0.0,
        checked_scan=checked / number,
        cached_scan=cached / len(pool),
        setup=setup,
    )
    gpu = max(row["peak_memory_mib"] for row in [*steps.rows, *volumes])
    return measured, {"host_mib": peak_memory_mib(torch.device("cpu")), "gpu_mib": gpu, "scan_mib": _scan_mib(pool)}


def _seconds(parser: ConfigParser, key: str) -> float:
    start = time.perf_counter()
    parser.get_parsed_content(key)
    return time.perf_counter() - start


def _scan_mib(pool: Dataset) -> float:
    """Median memory of a cached scan."""
    cases = [pool[index] for index in range(min(len(pool), UNLABELED))]
    return median(sum(v.nbytes for v in case.values() if isinstance(v, torch.Tensor)) for case in cases) / 2**20
