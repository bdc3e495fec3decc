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

__all__ = ["NETWORKS", "evaluate"]

FIELD = "configs/metrics/field.json"
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
    wanted, usual = getattr(args, "split", None), PROTOCOLS[args.dataset].split
    split = wanted or usual
    folder, overlays = NETWORKS[network]
    output = run_dir / (folder + ("" if split == usual else f"_{split}"))
    table = output / "field_metrics.csv"
    weights = run_dir / "models" / ("model.pt" if network in ("g", "flips") else "checkpoint.pt")
    if not weights.exists():
        raise UserError(f"{weights} does not exist: the run has not finished.")
    cases = {item["case"] for item in load_datalist(args.datalist, args.folder)[split]}
    if table.exists() and table.stat().st_mtime > weights.stat().st_mtime:
        rows = _read_csv(table)
        if {row["case"] for row in rows} == cases:
            return rows
    override = {
        "run_dir": str(run_dir),
        "output_dir": str(output),
        "dataset_dir": str(args.folder),
        "data_list_file_path": str(args.datalist),
        "evaluate_split": split,
    }
    print(f"{run_dir}: evaluating {network} on {split}", file=sys.stderr, flush=True)
    workflow = open_bundle("evaluate.json", [run_dir / "model.json", FIELD, *overlays], "infer", **override)
    workflow.run()
    workflow.finalize()
    return _read_csv(table)


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
