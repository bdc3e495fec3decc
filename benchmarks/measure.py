"""Evaluate the final 3D or 2D network of a run, both together, or the 3D one with flips, on the protocol's scans."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from bench_common import open_bundle
from protocols import PROTOCOLS

from mnseg.data.datalist import load_datalist
from mnseg.errors import UserError

__all__ = ["NETWORKS", "evaluate", "is_measured"]

FIELD = "configs/metrics/field.json"
TABLE = "field_metrics.csv"
# 3D, 2D, their mean, 3D over mirror images: folder of the evaluation, and what evaluate.json needs beside model.json.
NETWORKS = {
    "g": ("eval", []),
    "f": ("eval_2d", ["configs/inference/network_2d.json"]),
    "both": ("eval_both", ["configs/inference/both_networks.json"]),
    "flips": ("eval_flips", ["configs/inference/flips.json"]),
}


def evaluate(run_dir: Path, network: str, args: argparse.Namespace) -> list[dict[str, str]]:
    """Rows of the field's metrics of a run's final network: 3D ("g"), 2D ("f"), the mean of "both", g with "flips".

    It is evaluate.json that runs, whatever the network: same sliding window, same way back to the scan's grid.
    Results that are newer than the weights and of the same cases are not measured again. ``args.split``, where it
    exists and is no None, names the datalist's scans in place of the protocol's.
    """
    split, output = _place(run_dir, network, args)
    weights = _weights(run_dir, network)
    if not weights.exists():
        raise UserError(f"{weights} does not exist: the run has not finished.")
    if is_measured(run_dir, network, args):
        return _read_csv(output / TABLE)
    override = {
        "run_dir": str(run_dir),
        "output_dir": str(output),
        "dataset_dir": str(args.folder),
        "data_list_file_path": str(args.datalist),
        "evaluate_split": split,
    }
    print(f"{run_dir}: evaluating {network} on {split}", file=sys.stderr, flush=True)
    overlays = [run_dir / "model.json", FIELD, *NETWORKS[network][1]]
    workflow = open_bundle("evaluate.json", overlays, "infer", **override)
    workflow.run()
    workflow.finalize()
    return _read_csv(output / TABLE)


def is_measured(run_dir: Path, network: str, args: argparse.Namespace) -> bool:
    """Whether there are results that are newer than the weights and of the same cases."""
    split, output = _place(run_dir, network, args)
    table, weights = output / TABLE, _weights(run_dir, network)
    if not table.exists() or not weights.exists() or table.stat().st_mtime <= weights.stat().st_mtime:
        return False
    cases = {item["case"] for item in load_datalist(args.datalist, args.folder)[split]}
    return {row["case"] for row in _read_csv(table)} == cases


def _place(run_dir: Path, network: str, args: argparse.Namespace) -> tuple[str, Path]:
    """The scans that are measured, and the folder of the results."""
    wanted, usual = getattr(args, "split", None), PROTOCOLS[args.dataset].split
    split = wanted or usual
    return split, run_dir / (NETWORKS[network][0] + ("" if split == usual else f"_{split}"))


def _weights(run_dir: Path, network: str) -> Path:
    return run_dir / "models" / ("model.pt" if network in ("g", "flips") else "checkpoint.pt")


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
