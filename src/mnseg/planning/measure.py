"""A few steps of a training, by its own config, in a temporary folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from torch.utils.data import Dataset

from mnseg.data.datalist import load_datalist, write_datalist
from mnseg.errors import UserError
from mnseg.handlers import PseudoForegroundHandler
from mnseg.planning.clock import StepClock, peak_memory_mib
from mnseg.planning.estimate import Measured, kinds_of
from mnseg.planning.schedule import EpochWork, epochs_of
from mnseg.planning.steps import Kind, MeasuredSteps

__all__ = ["Planned", "plan_training"]

SCHEDULE_KEYS = (
    "stage_1_epochs", "stage_2_epochs", "warmup_epochs", "restart", "sampling", "roles", "batch_size", "min_labeled",
    "num_unlabeled", "refresh_interval", "refresh_cases", "val_interval", "epoch_length", "val_cases", "hidden_cases",
    "cache_dir", "cache_rate",
)  # fmt: skip
NEVER = 10**9
UNLABELED, VALIDATION = 8, 2  # scans of the short training: what a step takes does not depend on the pool


@dataclass(frozen=True)
class Planned:
    """What was found out about a training.

    Attributes:
        epochs: its epochs.
        measured: seconds of one of each.
        settings: values of train.json's keys that decide what happens when.
        scans: labeled, unlabeled and validation scans, and those of the pool with a hidden label.
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
    whole = _open(config_file, overrides).parser
    if "network_2d_def" not in whole:
        raise UserError("only trainings of the bundle mn_cotraining can be planned: name its train.json.")
    settings = {key: whole.get_parsed_content(key) for key in SCHEDULE_KEYS}
    datalist = load_datalist(*(whole.get_parsed_content(key) for key in ("data_list_file_path", "dataset_dir")))
    hidden = sum("hidden_label" in item for item in datalist.get("unlabeled", []))
    scans = {name: len(datalist.get(name, [])) for name in ("labeled", "unlabeled", "validation")}
    scans |= {"validation": len(datalist.get("validation", [])[: settings["val_cases"]]),
              "hidden": min(hidden, settings["hidden_cases"])}  # fmt: skip
    if not scans["labeled"]:
        raise UserError("the datalist has no labeled scan, so nothing can be planned.")
    epochs = epochs_of(settings, scans["labeled"], scans["unlabeled"])
    kinds = kinds_of(epochs, settings["batch_size"] - settings["min_labeled"])
    start = time.perf_counter()
    short = _open(config_file, {**overrides, **_short(settings, datalist, kinds, folder, steps + warmup)})
    short.initialize()
    setup = time.perf_counter() - start
    measured, memory = _measure(short.parser, kinds, warmup, setup)
    device = torch.device(short.parser.get_parsed_content("device"))
    on_gpu = device.type == "cuda"
    # What the remaining scans add to the cache; a cache on disk is read page by page.
    missing = scans["unlabeled"] - min(scans["unlabeled"], UNLABELED) + max(scans["validation"] - VALIDATION, 0)
    share = settings["cache_rate"] if settings["cache_dir"] is None else 0.0
    cached = share * (missing + scans["hidden"]) * memory["scan_mib"]
    return Planned(epochs, measured, settings, scans, str(device), memory["host_mib"] + cached,
                   memory["gpu_mib"] if on_gpu else None)  # fmt: skip


def _open(config_file: Sequence[str] | str, overrides: Mapping[str, Any]) -> ConfigWorkflow:
    for path in [config_file] if isinstance(config_file, str) else config_file:
        if not Path(path).is_file():
            raise UserError(f"{path} does not exist: name train.json and its overlays.")
    return ConfigWorkflow(config_file, workflow_type="train", logging_file=False, **overrides)


def _short(
    settings: Mapping[str, Any], datalist: Mapping[str, Any], kinds: Sequence[Kind], folder: Path, epoch_length: int
) -> dict[str, Any]:
    few = {**datalist, "unlabeled": datalist.get("unlabeled", [])[:UNLABELED], "testing": [],
           "validation": datalist.get("validation", [])[:VALIDATION]}  # fmt: skip
    return {
        "run_dir": str(folder / "run"),
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
        "resume": False,
        "warm_start": None,
    }


def _measure(
    parser: ConfigParser, kinds: Sequence[Kind], warmup: int, setup: float
) -> tuple[Measured, dict[str, float]]:
    device = torch.device(parser.get_parsed_content("device"))
    checked = _seconds(parser, "datalist")
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
