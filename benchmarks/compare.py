"""Train and compare the rows of docs/benchmarks.md: supervised only, M&N, and its ablations, on the same cases.

    python benchmarks/compare.py hippocampus --labels 4 --data DATA --weights WEIGHTS --jobs 2
    python benchmarks/compare.py la --labels 8 --data DATA --weights WEIGHTS --extra "stage_1_epochs=30 val_cases=4"
    python benchmarks/compare.py hippocampus --labels 4 --data DATA --table-only --runs supervised=RUN1 mn=RUN2

Every row is one ``python -m monai.bundle run`` in a process of its own; a finished row is not trained again. Then the
final weights of both networks are evaluated on scans that no row has trained on, and two Markdown tables are printed.
"""

from __future__ import annotations

import argparse
import ast
import csv
import json
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_common import CONFIGS, ROOT, hardware, open_bundle, overrides_of, quiet
from torch import nn

from mnseg.data.build_datalist import build_datalist
from mnseg.data.datalist import load_datalist, write_datalist
from mnseg.errors import UserError, user_error_in
from mnseg.files import atomic_save, atomic_write
from mnseg.reports.history import read_history
from mnseg.reports.statistics import paired_difference

ABLATIONS = {
    "supervised": "supervised_only",
    "mn": None,
    "random_f": "random_weights",
    "supervised_random_f": "supervised_random_weights",
}
DEFAULT_ROWS = ["supervised", "mn", "random_f", "uniform"]
FIELD = "configs/metrics/field.json"
METRICS = {"dice": ("Dice %", 100), "jaccard": ("Jaccard %", 100), "hd95_voxel": ("HD95", 1), "asd_voxel": ("ASD", 1)}
NETWORKS = {"g": "eval", "f": "eval_2d"}  # 3D and 2D: folder of the evaluation


@dataclass(frozen=True)
class Protocol:
    """A data set, how it is split, and the split that is measured (final weights: nothing is chosen on it)."""

    overlay: str
    class_names: tuple[str, ...]
    labeled: str
    validation: str
    testing: str | None
    order: str | None
    split: str


PROTOCOLS = {
    "hippocampus": Protocol(
        "configs/datasets/hippocampus.json", ("background", "anterior", "posterior"), "{}", "40", None, None,
        "validation",
    ),
    "la": Protocol(
        "configs/datasets/la.json", ("background", "left atrium"), "first:{}", "last:10", "last:10:10", "train.list",
        "testing",
    ),
}  # fmt: skip


# ---------------------------------------------------------------- data and training


def make_datalist(protocol: Protocol, folder: Path, labels: int, path: Path) -> Path:
    """Write the datalist as ``mnseg datalist --keep-hidden --seed 0`` would, unless it is there."""
    if path.exists():
        return path
    built = build_datalist(
        folder / "images",
        folder / "labels",
        keep_hidden=True,
        labeled=protocol.labeled.format(labels),
        validation=protocol.validation,
        testing=protocol.testing,
        order=None if protocol.order is None else folder / protocol.order,
        seed=0,
        class_names=protocol.class_names,
    )
    return write_datalist(built.datalist, path)


def ablation_of(row: str) -> str | None:
    """Overlay of a row; any file of configs/ablations/ is a row.

    Raises:
        UserError: for a row without one.
    """
    name = ABLATIONS.get(row, row)
    if name is None:
        return None
    path = f"configs/ablations/{name}.json"
    if not (ROOT / path).is_file():
        raise UserError(f"There is no row '{row}': give {', '.join(ABLATIONS)} or a file name of configs/ablations.")
    return path


def train_command(row: str, run_dir: Path, args: argparse.Namespace) -> list[str]:
    """The command that trains a row; it runs in the repository's folder.

    ``--extra`` comes as an overlay before the row's own, so that it cannot change what makes the row.
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
        "model_2d": args.weights,
    }
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files)]
    return command + [text for key, value in options.items() for text in (f"--{key}", str(value))]


def train_row(row: str, run_dir: Path, args: argparse.Namespace) -> int:
    """Train one row unless it is finished; keep its times in ``benchmark.json``. Returns the exit code.

    Raises:
        UserError: the folder holds a row that was trained by another command.
    """
    command, extra = train_command(row, run_dir, args), overrides_of(shlex.split(args.extra))
    record_path = run_dir / "benchmark.json"
    record = {"command": command, "extra": extra, "attempts": []}
    record = json.loads(record_path.read_text()) if record_path.exists() else record
    if record["command"][1:] != command[1:] or record["extra"] != extra:  # the command's first is the interpreter
        raise UserError(f"{run_dir} was trained by another command (see benchmark.json in it): give another --out.")
    if (run_dir / "models" / "model.pt").exists():
        print(f"{row}: finished before", flush=True)
        return 0
    atomic_write(run_dir / "extra.json", lambda path: path.write_text(json.dumps(extra, indent=4) + "\n"))
    print(f"{row}: training, log in {run_dir / 'train.log'}", flush=True)
    with (run_dir / "train.log").open("a") as log:
        attempt = _run_timed(command, args.threads, log)
    record["attempts"].append(attempt)
    record |= {"threads": args.threads, "jobs": args.jobs, "hardware": hardware(torch.device("cpu"))["hardware"]}
    record |= {key: _sum(a[key] for a in record["attempts"]) for key in ("wall_s", "cpu_s")}
    atomic_write(record_path, lambda path: path.write_text(json.dumps(record, indent=2) + "\n"))
    code = attempt["exit_code"]
    print(f"{row}: exit code {code} after {attempt['wall_s']:.0f} s", flush=True)
    return code


def _run_timed(command: list[str], threads: int, log: Any) -> dict[str, Any]:
    """Wall time and CPU time (of the process and what it waited for) of a command."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        if not hasattr(os, "wait4"):  # Windows
            return {"exit_code": process.wait(), "wall_s": round(time.perf_counter() - start, 1), "cpu_s": None}
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:
        process.terminate()
        raise
    cpu = round(usage.ru_utime + usage.ru_stime, 1)
    return {"exit_code": process.returncode, "wall_s": round(time.perf_counter() - start, 1), "cpu_s": cpu}


def _sum(values: Any) -> float | None:
    values = list(values)
    return None if None in values else round(sum(values), 1)


# ---------------------------------------------------------------- evaluation


def evaluate(run_dir: Path, network: str, args: argparse.Namespace) -> list[dict[str, str]]:
    """Rows of the field's metrics of a run's final 3D ("g") or 2D ("f") network.

    It is evaluate.json that runs, for the 2D network too: same sliding window, same way back to the scan's grid.
    Results that are newer than the weights and of the same cases are not measured again.
    """
    output = run_dir / NETWORKS[network]
    table = output / "field_metrics.csv"
    weights = run_dir / "models" / ("model.pt" if network == "g" else "checkpoint.pt")
    if not weights.exists():
        raise UserError(f"{weights} does not exist: the run has not finished.")
    cases = {item["case"] for item in load_datalist(args.datalist, args.folder)[PROTOCOLS[args.dataset].split]}
    if table.exists() and table.stat().st_mtime > weights.stat().st_mtime:
        rows = _read_csv(table)
        if {row["case"] for row in rows} == cases:
            return rows
    override: dict[str, Any] = {
        "run_dir": str(run_dir),
        "output_dir": str(output),
        "dataset_dir": str(args.folder),
        "data_list_file_path": str(args.datalist),
        "evaluate_split": PROTOCOLS[args.dataset].split,
    }
    if network == "f":
        override |= {"network": load_2d(run_dir), "model_file": str(run_dir / "models" / "model_2d.pt")}
    print(f"{run_dir}: evaluating {network}", file=sys.stderr, flush=True)
    workflow = open_bundle("evaluate.json", [run_dir / "model.json", FIELD], "infer", **override)
    workflow.run()
    workflow.finalize()
    return _read_csv(table)


def load_2d(run_dir: Path) -> nn.Module:
    """The 2D network of a run's last checkpoint, built through train.json with the settings that it was trained with.

    Its weights are also written to ``models/model_2d.pt``, from where evaluate.json loads them strictly.
    """
    checkpoint = torch.load(run_dir / "models" / "checkpoint.pt", map_location="cpu", weights_only=True)
    settings, state = checkpoint["settings"], checkpoint["objects"]["network_2d"]
    names = ("model_2d", "pretrained", "finetuning", "slice_axis", "slice_scale", "slice_context")
    override = {name: _literal(settings[name]) for name in names}
    override["network_2d_def"] = json.loads(settings["network_2d_def"])
    ranks = [weight.shape[0] for name, weight in state.items() if ".lora_A." in name]
    if ranks:  # a narrow layer has a lower rank than was asked for
        override["lora_rank"] = max(ranks)
    # Opening train.json writes model.json: not into the run.
    override["initialize"] = []
    workflow = open_bundle("train.json", [run_dir / "model.json"], "train", run_dir=str(run_dir), **override)
    network = workflow.parser.get_parsed_content("network_2d")
    network.load_state_dict(state)
    atomic_save(state, run_dir / "models" / "model_2d.pt")
    return network


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------- tables


def per_case(rows: Sequence[dict[str, str]], metric: str, class_name: str | None = None) -> dict[str, float]:
    """Case -> value of one class, or mean over the classes that have a value (a missed one has no distance)."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if class_name in (None, row["class_name"]):
            values.setdefault(row["case"], []).append(float(row[metric]))
    return {case: _mean(found) for case, found in values.items()}


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def spread(values: Sequence[float], scale: float = 1) -> str:
    """``mean ± sd`` over cases (sample standard deviation), cases without a value left out."""
    known = np.array([value for value in values if math.isfinite(value)]) * scale
    if len(known) == 0:
        return "-"
    return f"{known.mean():.2f} ± {known.std(ddof=1):.2f}" if len(known) > 1 else f"{known.mean():.2f}"


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


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)]
    return "\n".join(lines)


def main_table(results: dict[tuple[str, str], list[dict[str, str]]], costs: dict[str, dict[str, str]]) -> str:
    """Metrics of every row and network, mean over classes, with updates and times."""
    head = ["row", "network", *(title for title, _ in METRICS.values()), "updates", "patches seen", "wall", "CPU"]
    body = []
    for (row, network), rows in results.items():
        values = [spread(list(per_case(rows, metric).values()), scale) for metric, (_, scale) in METRICS.items()]
        price = costs[row]
        body.append([row, network, *values, price[network], price["seen"], price["wall"], price["cpu"]])
    return _markdown(head, body)


def class_table(results: dict[tuple[str, str], list[dict[str, str]]]) -> str:
    """The same metrics class by class."""
    body = []
    for (row, network), rows in results.items():
        for name in dict.fromkeys(r["class_name"] for r in rows):
            values = [spread(list(per_case(rows, m, name).values()), scale) for m, (_, scale) in METRICS.items()]
            missed = sum(r["class_name"] == name and not math.isfinite(float(r["hd95_voxel"])) for r in rows)
            body.append([row, network, name, *values, str(missed)])
    return _markdown(["row", "network", "class", *(t for t, _ in METRICS.values()), "no distance"], body)


def difference_table(results: dict[tuple[str, str], list[dict[str, str]]]) -> str:
    """Paired differences to the supervised-only 3D network with a 95 % bootstrap interval over cases."""
    reference = results.get(("supervised", "g"))
    if reference is None:
        return "No paired differences: they need the row 'supervised'."
    body = []
    for (row, network), rows in results.items():
        if (row, network) == ("supervised", "g"):
            continue
        cells = []
        for metric, (_, scale) in METRICS.items():
            theirs, ours = per_case(reference, metric), per_case(rows, metric)
            if theirs.keys() != ours.keys():
                raise UserError(f"The rows 'supervised' and '{row}' were measured on different cases.")
            mean, low, high = paired_difference([ours[c] for c in theirs], list(theirs.values()))
            text = f"{mean * scale:+.2f} [{low * scale:+.2f}, {high * scale:+.2f}]"
            cells.append(text if math.isfinite(mean) else "-")
        body.append([row, network, *cells])
    return _markdown(["row - supervised g", "network", *(title for title, _ in METRICS.values())], body)


def tables(runs: dict[str, Path], args: argparse.Namespace) -> str:
    """Evaluate what has finished and put the three tables together."""
    results, costs = {}, {}
    for row, run_dir in runs.items():
        if not (run_dir / "models" / "model.pt").exists():
            print(f"{row}: not finished, left out ({run_dir})", file=sys.stderr)
            continue
        costs[row] = cost(run_dir)
        for network in NETWORKS:
            results[row, network] = evaluate(run_dir, network, args)
    if not results:
        raise UserError("No run has finished: nothing can be compared.")
    split = PROTOCOLS[args.dataset].split
    datalist = load_datalist(args.datalist, args.folder)
    numbers = ", ".join(f"{len(datalist.get(s, []))} {s}" for s in ("labeled", "unlabeled", "validation", "testing"))
    parts = [
        f"**{args.dataset}**: {numbers}. Measured on the {len(datalist[split])} {split} scans, final weights, nothing "
        "chosen on them. g: 3D network, f: 2D network. Metrics by medpy's definitions, distances in voxels; "
        "mean ± sd over cases of the mean over classes. Updates: of this network. Patches seen: unlabeled.",
        main_table(results, costs),
    ]
    if len({r["class_name"] for rows in results.values() for r in rows}) > 1:
        parts += ["By class (no distance: cases whose prediction of the class is empty):", class_table(results)]
    parts += ["Paired per-case differences, mean [95 % bootstrap interval over cases]:", difference_table(results)]
    return "\n\n".join(parts) + "\n"


# ---------------------------------------------------------------- command line


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=sorted(PROTOCOLS))
    parser.add_argument("--labels", type=int, default=4, help="labeled scans (default: 4)")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder that holds hippocampus/, la/")
    parser.add_argument("--weights", metavar="DIR", help="2D network: local directory or hub id")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/DATASET_LABELS in the repository")
    parser.add_argument("--datalist", type=Path, metavar="FILE", help="default: written to OUT/datalist.json")
    parser.add_argument("--rows", nargs="+", default=DEFAULT_ROWS, metavar="ROW", help=f"of {', '.join(ABLATIONS)}, or "
                        f"files of configs/ablations (default: {' '.join(DEFAULT_ROWS)})")  # fmt: skip
    parser.add_argument("--recipe", default="configs/recipes/cpu.json", metavar="FILE")
    parser.add_argument("--extra", default="", metavar="'KEY=VALUE …'", help="overrides of the recipe, for every row")
    parser.add_argument("--jobs", type=int, default=1, help="rows side by side (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each row (default: 1)")
    parser.add_argument("--table-only", action="store_true", help="train nothing, show what has finished")
    parser.add_argument("--runs", nargs="+", default=[], metavar="ROW=DIR", help="existing run folders for the table")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here too")
    return parser


def run(args: argparse.Namespace) -> int:
    """Train what is not finished, then print the tables. Returns the exit code."""
    args.folder = (args.data / args.dataset).absolute()
    if not (args.folder / "images").is_dir():
        raise UserError(f"{args.folder / 'images'} does not exist: --data names the folder that holds {args.dataset}/.")
    args.out = (args.out or ROOT / "runs" / f"{args.dataset}_{args.labels}").absolute()
    if args.weights and Path(args.weights).is_dir():
        args.weights = str(Path(args.weights).absolute())
    if args.datalist is None:
        args.datalist = make_datalist(PROTOCOLS[args.dataset], args.folder, args.labels, args.out / "datalist.json")
    args.datalist = Path(args.datalist).absolute()
    torch.set_num_threads(args.threads)
    runs = {row: args.out / row for row in args.rows}
    if args.runs:
        runs = {name: Path(folder).absolute() for name, _, folder in (pair.partition("=") for pair in args.runs)}
    codes = [] if args.table_only or args.runs else train_all(runs, args)
    text = tables(runs, args)
    print(text)
    if args.markdown:
        atomic_write(args.markdown, lambda path: path.write_text(text))
    return int(any(codes))


def train_all(runs: dict[str, Path], args: argparse.Namespace) -> list[int]:
    """Train all rows, ``--jobs`` at a time; a row that fails does not stop the others."""
    if not args.weights:
        raise UserError("--weights is missing: name the 2D network's directory.")
    for row in runs:
        ablation_of(row)
    with ThreadPoolExecutor(args.jobs) as pool:
        return list(pool.map(lambda pair: train_row(*pair, args), runs.items()))


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    quiet()
    try:
        return run(args)
    except Exception as error:  # MONAI wraps what a component raised
        plain = user_error_in(error)
        if plain is None:
            raise
        print(f"compare.py: {plain}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
