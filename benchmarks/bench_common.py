"""What the benchmark scripts share: opening the bundle, reading options, naming the machine, telling errors."""

from __future__ import annotations

import ast
import contextlib
import logging
import os
import platform
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

from mnseg.errors import UserError, file_error_in_words, user_error_in

__all__ = ["CONFIGS", "ROOT", "device_of", "errors_in_words", "hardware", "open_bundle", "overrides_of", "quiet"]

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "bundles" / "mn_cotraining" / "configs"


def quiet() -> None:
    """Only warnings of our own: what MONAI says about trusting configs is for other people's configs."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.disable(logging.INFO)
    for name in list(logging.root.manager.loggerDict):  # MONAI gives each of its loggers a level
        if name.split(".")[0] in ("monai", "ignite"):
            logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


@contextlib.contextmanager
def errors_in_words(script: str) -> Iterator[None]:
    """Say a user's error, or a file's, in one sentence and exit with code 1; MONAI wraps what a component raised."""
    try:
        yield
    except Exception as error:
        plain = user_error_in(error) or file_error_in_words(error)
        if plain is None:
            raise
        print(f"{script}: {plain}", file=sys.stderr)
        raise SystemExit(1) from None


def device_of(name: str | None) -> torch.device:
    """The device of a ``--device``; None: a GPU where there is one.

    Raises:
        UserError: for a device that torch does not know or see.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name} is no device: give cpu or cuda.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}, but torch sees no such GPU here: use --device cpu, or install a CUDA build.")
    return torch.device("cuda", torch.cuda.current_device()) if str(device) == "cuda" else device


def overrides_of(pairs: Iterable[str]) -> dict[str, Any]:
    """``["batch_size=4", "spacing=[1, 1, 2]", "sampling=linear"]`` -> values as Python reads them, else as text.

    Raises:
        UserError: for a pair without ``=``.
    """
    result = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not (key and sign):
            raise UserError(f"'{pair}' is no override: write key=value.")
        try:
            result[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            result[key] = text
    return result


def open_bundle(
    config: str, overlays: Iterable[str | Path], workflow_type: str, configs: Path = CONFIGS, **override: Any
) -> ConfigWorkflow:
    """Initialized workflow of a config of the bundle, as ``python -m monai.bundle run`` would make it.

    Args:
        config: "train.json" or "evaluate.json".
        overlays: further config files; relative ones are looked for in the current folder, then in the repository.
        workflow_type: "train" or "infer".
        configs: folder of the bundle's configs.
        override: top-level keys.

    Raises:
        UserError: for an overlay that does not exist.
    """
    files = [str(configs / config), *(str(_found(path)) for path in overlays)]
    workflow = ConfigWorkflow(files, workflow_type=workflow_type, logging_file=False, **override)
    workflow.initialize()
    return workflow


def _found(path: str | Path) -> Path:
    for candidate in (Path(path), ROOT / path):
        if candidate.is_file():
            return candidate.resolve()
    raise UserError(f"The config {path} does not exist, neither here nor in {ROOT}.")


def hardware(device: torch.device) -> dict[str, Any]:
    """The machine, torch and threads that a time belongs to."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": str(device),
        "hardware": name,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
