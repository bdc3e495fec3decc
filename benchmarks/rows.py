"""One row of a comparison: the command that trains it, and what that costs."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from bench_common import CONFIGS, ROOT, hardware, overrides_of
from protocols import PROTOCOLS

from mnseg.errors import UserError
from mnseg.files import atomic_write, read_json
from mnseg.handlers.time_limit import STOPPED
from mnseg.reports.history import read_history

__all__ = [
    "ABLATIONS", "ablation_of", "cost", "ending_together", "find_recipe", "run_once", "train_all", "train_command",
    "train_row", "words_of",
]  # fmt: skip

ABLATIONS = {
    "supervised": "supervised_only",
    "mn": None,
    "random_f": "random_weights",
    "supervised_random_f": "supervised_random_weights",
}

LAST_EPOCH = 30.0  # seconds

_running: set[subprocess.Popen] = set()
_ending = threading.Event()


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """A comparison that is ended ends its trainings, too; the same command goes on behind their checkpoints."""

    def end(number: int, _: Any) -> None:
        _ending.set()
        for process in list(_running):
            process.terminate()
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    _ending.clear()
    previous = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def find_recipe(name: str | Path) -> str:
    """A recipe's file: as it is named in the current folder, else in the repository's.

    Raises:
        UserError: in neither.
    """
    own, ours = Path(name).absolute(), ROOT / name
    if ours.is_file() and (not own.is_file() or own.samefile(ours)):
        return str(name)  # trainings run in the repository's folder
    if not own.is_file():
        raise UserError(f"--recipe {name} does not exist: name a file, such as configs/recipes/cpu.json.")
    return str(own)


def ablation_of(row: str) -> str | None:
    """Overlay of a row; any file of configs/ablations/, networks/ or ingredients/ is a row.

    Raises:
        UserError: for a row without one.
    """
    name = ABLATIONS.get(row, row)
    if name is None:
        return None
    paths = [f"configs/{folder}/{name}.json" for folder in ("ablations", "networks", "ingredients")]
    found = [path for path in paths if (ROOT / path).is_file()]
    if not found:
        known = ", ".join(ABLATIONS)
        raise UserError(f"There is no row '{row}': give {known} or a file of configs/ablations, networks, ingredients.")
    return found[0]


def train_command(row: str, run_dir: Path, args: argparse.Namespace) -> list[str]:
    """The command that trains a row; it runs in the repository's folder.

    ``--extra`` comes as an overlay before the row's own, so that it cannot change what makes the row; nor does
    ``--weights`` where the row names a 2D network.
    """
    ablation = ablation_of(row)
    overlays = [PROTOCOLS[args.dataset].overlay, str(args.recipe)]
    overlays += [str(run_dir / "extra.json")] if args.extra else []
    overlays += [ablation] if ablation else []
    files = [str((CONFIGS / "train.json").relative_to(ROOT)), *overlays]
    options = {
        "run_dir": run_dir,
        "dataset_dir": args.folder,
        "data_list_file_path": args.datalist,
    }
    # The command line would win over a row that names a 2D network of its own.
    if ablation is None or "model_2d" not in json.loads((ROOT / ablation).read_text()):
        options["model_2d"] = args.weights
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files)]
    return command + [text for key, value in options.items() for text in (f"--{key}", str(value))]


def train_row(row: str, run_dir: Path, args: argparse.Namespace) -> int:
    """Train one row unless it is finished; keep its times in ``benchmark.json``. Returns the exit code.

    Raises:
        UserError: the folder holds a row that was trained by another command.
    """
    return run_once(row, train_command(row, run_dir, args), run_dir, args, "max_minutes")


def words_of(extra: str) -> list[str]:
    """``--extra`` by its spaces, but for those in quotes and brackets: ``"seed=1 patch_size=[96, 64, 32]"`` is two.

    Raises:
        UserError: for a quote that stays open.
    """
    try:
        words = shlex.split(extra)
    except ValueError as error:
        raise UserError(f"--extra cannot be read, {error}: {extra}") from None
    joined: list[str] = []
    for word in words:
        if joined and sum(map(joined[-1].count, "[({")) > sum(map(joined[-1].count, "])}")):
            joined[-1] += f" {word}"
        else:
            joined.append(word)
    return joined


def run_once(
    row: str, command: list[str], run_dir: Path, args: argparse.Namespace, limit: str | None = None
) -> int:  # fmt: skip
    """Run a training command unless its ``model.pt`` is there; the rest of ``train_row``.

    ``args.until``, where it exists and is no None, is the time (``time.monotonic``) at which it is stopped; one that
    knows ``limit``, the name of its option for minutes, stops by itself before, with a checkpoint.
    """
    until, model = getattr(args, "until", None), run_dir / "models" / "model.pt"
    extra = json.loads(json.dumps(overrides_of(words_of(args.extra))))  # as the record will have it
    record = _record_of(run_dir, command, extra)
    if model.exists():
        print(f"{row}: finished before", flush=True)
        return 0
    if _ending.is_set() or (until is not None and time.monotonic() >= until):
        print(f"{row}: no time left", flush=True)
        return 0
    _write_json(record["extra"], run_dir / "extra.json")
    if record.get("running"):  # killed with this script: what it took is not known
        record["attempts"].append({"exit_code": None, "wall_s": None, "cpu_s": None})
    # Before the training: what it leaves when it is killed belongs to this command.
    _write_json(record | {"running": True}, run_dir / "benchmark.json")
    print(f"{row}: training, log in {run_dir / 'train.log'}", flush=True)
    with (run_dir / "train.log").open("a") as log:
        before, start = log.tell(), time.time()
        attempt = _run_timed([*command, *_minutes_left(limit, until)], args.threads, log, until)
    record["attempts"].append(attempt)
    record.pop("running", None)
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")  # as train.json chooses
    record |= {"threads": args.threads, "jobs": args.jobs, "hardware": hardware(device)["hardware"]}
    record |= {key: _sum(a[key] for a in record["attempts"]) for key in ("wall_s", "cpu_s")}
    _write_json(record, run_dir / "benchmark.json")
    after, code = f"after {attempt['wall_s']:.0f} s", attempt["exit_code"]
    if until is not None and (time.monotonic() >= until or code == STOPPED):
        print(f"{row}: {_ended(run_dir, start)} {after}", flush=True)
        return 0
    why = f" ({_why(run_dir / 'train.log', before)})" if code else ""
    print(f"{row}: exit code {code} {after}{why}", flush=True)
    return code


def _minutes_left(limit: str | None, until: float | None) -> list[str]:
    """The option for what is left of the time, less what an epoch and its checkpoint may take."""
    if limit is None or until is None:
        return []
    return [f"--{limit}", f"{max(until - time.monotonic() - LAST_EPOCH, 0) / 60:.3f}"]


def _ended(run_dir: Path, start: float) -> str:
    if (run_dir / "models" / "model.pt").exists():
        return "finished"
    checkpoint = run_dir / "models" / "checkpoint.pt"
    if checkpoint.exists() and checkpoint.stat().st_mtime >= start:
        return "stopped, goes on next time,"
    return "stopped before it came to a checkpoint (give it more --minutes)"


def _record_of(run_dir: Path, command: list[str], extra: dict[str, Any]) -> dict[str, Any]:
    """What ``benchmark.json`` holds of the same command; a new record where nothing was trained yet."""
    path, new = run_dir / "benchmark.json", {"command": command, "extra": extra, "attempts": []}
    record = read_json(path, "the record") if path.exists() else new
    if record.get("command", [])[1:] == command[1:] and record.get("extra") == extra:  # the first is the interpreter
        return record
    if any((run_dir / "models").glob("*.pt")):
        raise UserError(f"{run_dir} was trained by another command (see benchmark.json in it): give another --out.")
    return new


def _write_json(content: Any, path: Path) -> None:
    atomic_write(path, lambda temporary: temporary.write_text(json.dumps(content, indent=2) + "\n"))


def _why(log: Path, start: int) -> str:
    """Of what was written behind ``start``: the last sentence of mnseg, else the last line."""
    text = log.read_bytes()[start:].decode(errors="replace").replace("\r", "\n")
    lines = [line for line in map(str.strip, text.splitlines()) if line] or ["nothing in its log"]
    return ([line for line in lines if line.startswith("mnseg: ")] or lines)[-1][:300]


def _run_timed(command: list[str], threads: int, log: Any, until: float | None = None) -> dict[str, Any]:
    """Wall time and CPU time (of the process and what it waited for) of a command, which is stopped at ``until``."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    _running.add(process)
    if _ending.is_set():  # since this row was asked for
        process.terminate()
    clock = threading.Timer(0 if until is None else max(until - time.monotonic(), 0), process.terminate)
    try:
        if until is not None:
            clock.start()
        if not hasattr(os, "wait4"):  # Windows
            return {"exit_code": process.wait(), "wall_s": round(time.perf_counter() - start, 1), "cpu_s": None}
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:
        process.terminate()
        raise
    finally:
        clock.cancel()
        _running.discard(process)
    cpu = round(usage.ru_utime + usage.ru_stime, 1)
    return {"exit_code": process.returncode, "wall_s": round(time.perf_counter() - start, 1), "cpu_s": cpu}


def _sum(values: Iterable[float | None]) -> float | None:
    values = list(values)
    return None if None in values else round(sum(values), 1)


def train_all(runs: dict[str, Path], args: argparse.Namespace) -> list[int]:
    """Train all rows, ``--jobs`` at a time; a row that fails does not stop the others."""
    if not args.weights:
        raise UserError("--weights is missing: name the 2D network's directory.")
    for row in runs:
        ablation_of(row)
    with ThreadPoolExecutor(args.jobs) as pool:
        return list(pool.map(lambda pair: train_row(*pair, args), runs.items()))


def cost(run_dir: Path) -> dict[str, str]:
    """Updates of both networks, wall time and CPU time of a run, as text."""
    settings = torch.load(run_dir / "models" / "checkpoint.pt", map_location="cpu", weights_only=True)["settings"]
    history, length = read_history(run_dir), int(settings["epoch_length"])
    students = [epoch["student"] for epoch in history]
    updates = [sum(s in ("both", name) for s in students) * length for name in ("3d", "2d")]
    path = run_dir / "benchmark.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    wall = _minutes(record.get("wall_s"))
    if wall == "-":  # not trained by this script: the epochs alone, without start and caching
        wall = f"{_minutes(sum(epoch['seconds'] for epoch in history))} (epochs)"
    seen = str(history[-1].get("unlabeled_seen", 0)) if history else "-"
    cpu = _minutes(record.get("cpu_s"))
    return {"g": str(updates[0]), "f": str(updates[1]), "seen": seen, "wall": wall, "cpu": cpu}


def _minutes(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / 60:.1f} min"
