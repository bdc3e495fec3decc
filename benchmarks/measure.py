"""Evaluate the final 3D and 2D network of a run on the protocol's scans, by evaluate.json."""

from __future__ import annotations

import argparse
import ast
import csv
import json
import sys
from pathlib import Path
from typing import Any

import torch
from bench_common import open_bundle
from protocols import PROTOCOLS
from torch import nn

from mnseg.data.datalist import load_datalist
from mnseg.errors import UserError
from mnseg.files import atomic_save

__all__ = ["NETWORKS", "evaluate", "load_2d"]

FIELD = "configs/metrics/field.json"
NETWORKS = {"g": "eval", "f": "eval_2d"}  # 3D and 2D: folder of the evaluation


def evaluate(run_dir: Path, network: str, args: argparse.Namespace) -> list[dict[str, str]]:
    """Rows of the field's metrics of a run's final 3D ("g") or 2D ("f") network.

    It is evaluate.json that runs, for the 2D network too: same sliding window, same way back to the scan's grid.
    Results that are newer than the weights and of the same cases are not measured again. ``args.split``, where it
    exists and is no None, names the datalist's scans in place of the protocol's.
    """
    wanted, usual = getattr(args, "split", None), PROTOCOLS[args.dataset].split
    split = wanted or usual
    output = run_dir / (NETWORKS[network] + ("" if split == usual else f"_{split}"))
    table = output / "field_metrics.csv"
    weights = run_dir / "models" / ("model.pt" if network == "g" else "checkpoint.pt")
    if not weights.exists():
        raise UserError(f"{weights} does not exist: the run has not finished.")
    cases = {item["case"] for item in load_datalist(args.datalist, args.folder)[split]}
    if table.exists() and table.stat().st_mtime > weights.stat().st_mtime:
        rows = _read_csv(table)
        if {row["case"] for row in rows} == cases:
            return rows
    override: dict[str, Any] = {
        "run_dir": str(run_dir),
        "output_dir": str(output),
        "dataset_dir": str(args.folder),
        "data_list_file_path": str(args.datalist),
        "evaluate_split": split,
    }
    if network == "f":
        override |= {"network": load_2d(run_dir), "model_file": str(run_dir / "models" / "model_2d.pt")}
    print(f"{run_dir}: evaluating {network} on {split}", file=sys.stderr, flush=True)
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
