"""The command ``mnseg plan``: a training command's own arguments, and what the training will take."""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnseg.errors import UserError, user_error_in
from mnseg.files import atomic_write, require_writable

if TYPE_CHECKING:
    from mnseg.planning.estimate import Part
    from mnseg.planning.measure import Planned

__all__ = ["add_plan_arguments", "run_plan"]


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``mnseg plan``; all others are top-level keys of train.json."""
    parser.add_argument("--config_file", required=True, metavar="FILES",
                        help="as monai.bundle run takes it: a file, or \"['train.json','overlay.json']\"")  # fmt: skip
    parser.add_argument("--steps", type=int, default=4, help="measured steps of each kind (default: 4)")
    parser.add_argument("--memory", action="store_true",
                        help="count what a step takes in memory instead: nothing runs, no GPU is needed")  # fmt: skip
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers here too")


def run_plan(args: argparse.Namespace) -> int:
    """Measure, add up, print. Returns the exit code."""
    from fire.parser import DefaultParseValue

    from mnseg.planning.measure import plan_training

    if args.steps < 1:
        raise UserError(f"--steps is {args.steps}; it must be at least 1.")
    if args.json:
        require_writable(args.json)
    files = DefaultParseValue(args.config_file)
    files = list(files) if isinstance(files, (list, tuple)) else files
    overrides = _overrides(args.more, DefaultParseValue)
    overrides.pop("meta_file", None), overrides.pop("logging_file", None)
    logging.disable(logging.INFO)
    try:
        if args.memory:
            content, text = _counted(files, overrides)
        else:
            with tempfile.TemporaryDirectory(prefix="mnseg_plan_") as folder:
                content, text = _measured(plan_training(files, overrides, Path(folder), args.steps))
    except Exception as error:  # MONAI wraps what a component raised
        raise user_error_in(error) or error from None
    finally:
        logging.disable(logging.NOTSET)
    print(text)
    if args.json:
        atomic_write(args.json, lambda path: path.write_text(json.dumps(content, indent=2) + "\n"))
    return 0


def _counted(files: Sequence[str] | str, overrides: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """What ``--memory`` finds: numbers and text."""
    from mnseg.planning.step_memory import AT_LEAST, count_training_memory

    found = count_training_memory(files, overrides)
    width = max(28, *map(len, found))
    lines = [f"{name:{width}} {mib / 1024:8.2f} GiB" for name, mib in found.items()]
    if any(name.endswith(AT_LEAST) for name in found):
        lines.append("at least: where a GPU's memory ends, micro_batch_size auto passes down to one patch at once")
    lines.append("weights, optimizers, batch, activations and gradients; what a GPU's libraries need is not in it")
    return {"memory_mib": found}, "\n".join(lines)


def _measured(planned: Planned) -> tuple[dict[str, Any], str]:
    """What the short training found: numbers and text."""
    from mnseg.planning.estimate import parts_of_training

    parts = parts_of_training(planned.epochs, planned.measured, planned.settings["epoch_length"], planned.scans)
    content = {
        "device": planned.device,
        "scans": planned.scans,
        "epochs": len(planned.epochs),
        "seconds": sum(part.seconds for part in parts),
        "memory_mib": planned.memory_mib,
        "gpu_memory_mib": planned.gpu_memory_mib,
        "parts": [part.as_dict() for part in parts],
    }
    return content, _table(parts, content)


def _overrides(words: Sequence[str], parse: Any) -> dict[str, Any]:
    """``--key value`` and ``--key=value`` as Python reads them, else as text."""
    result, rest = {}, list(words)
    while rest:
        key, sign, value = rest.pop(0).partition("=")
        if not key.startswith("--") or not (sign or rest and not rest[0].startswith("--")):
            raise UserError(f"'{key}' is no override: write --key value.")
        result[key[2:]] = parse(value if sign else rest.pop(0))
    return result


def _table(parts: Sequence[Part], content: dict[str, Any]) -> str:
    scans = content["scans"]
    lines = [f"{scans['labeled']} labeled, {scans['unlabeled']} unlabeled, {scans['validation']} validation scans; "
             f"{content['epochs']} epochs on {content['device']}", ""]  # fmt: skip
    for part in parts:
        count = f"{part.count} {part.unit}" if part.unit else ""
        lines.append(f"{part.name:28} {count:>14} {part.seconds / part.count:9.3f} s each {_told(part.seconds):>10}")
    lines.append(f"{'in all':28} {'':>14} {'':>16} {_told(content['seconds']):>10}")
    lines.append(f"memory {content['memory_mib'] / 1024:.2f} GiB, cached scans included")
    if content["gpu_memory_mib"] is not None:
        lines[-1] += f"; {content['gpu_memory_mib'] / 1024:.2f} GiB of GPU memory"
    return "\n".join(lines)


def _told(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
