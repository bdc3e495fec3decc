"""Seconds per training step and per validation volume, with the share of time spent waiting for data.

    python benchmarks/step.py                                  # phantom data, a tiny random 2D network
    python benchmarks/step.py --floor                          # and the least time that each could take
    python benchmarks/step.py --config configs/datasets/la.json configs/recipes/cpu.json \\
        --datalist la.json --dataset-dir DATA --model-2d WEIGHTS --set amp_dtype=bfloat16

The bundle's own trainer runs: one epoch for each kind of step, timed through ignite's events, then its validation.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from bench_common import device_of, errors_in_words, hardware, open_bundle, overrides_of, quiet
from floor import StepCounts, floor_of, measured_rates
from ignite.engine import Engine
from monai.bundle import ConfigParser

from mnseg.arguments import count, positive
from mnseg.data.datalist import load_datalist, write_datalist
from mnseg.data.phantom import write_phantom_dataset
from mnseg.distributed import unwrap
from mnseg.engines.precision import amp_dtype_of
from mnseg.errors import UserError
from mnseg.files import atomic_write, require_writable
from mnseg.networks.pretrained import TINY_SEGFORMER
from mnseg.planning.clock import StepClock
from mnseg.planning.steps import Kind, MeasuredSteps

EVALUATORS = {"validation volume, 3D": "validate::evaluator", "validation volume, 2D": "validate::evaluator_2d"}
DEFAULT_OVERLAYS = ["configs/datasets/phantom.json", "configs/recipes/cpu.json"]


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
    parser, kinds, info = open_short(args, folder)
    counts = _attach_counts(parser, kinds) if args.floor else None
    rows = timed(parser, kinds, args)
    print("\n".join(["", line(None), *map(line, rows)]))
    if counts is not None:
        info |= {"rates": add_floors(rows, counts, parser)}
        print("\n".join(["", floor_line(None), *map(floor_line, rows)]))
    return info | {"rows": rows}


def open_short(args: argparse.Namespace, folder: Path) -> tuple[ConfigParser, list[Kind], dict[str, Any]]:
    """The bundle with an epoch for each kind of step, the kinds, and what the numbers belong to, which is printed."""
    device = device_of(args.device)
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
    return parser, kinds, info | {"config": args.config, "set": args.set, "model_2d": overrides["model_2d"]}


def timed(parser: ConfigParser, kinds: list[Kind], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Train, one epoch a kind, and validate; a row for each kind of step and for the validation of each network."""
    device, trainer = parser.get_parsed_content("device"), parser.get_parsed_content("train::trainer")
    steps = MeasuredSteps(kinds, StepClock(device), args.warmup)
    steps.attach(trainer)
    clocks = _validation_clocks(parser, device, len(parser.get_parsed_content("validate::dataset")) > 0)
    trainer.run()
    return steps.rows + [clock.row(name, args.warmup_volumes) for name, clock in clocks.items()]


def _attach_counts(parser: ConfigParser, kinds: list[Kind]) -> list[StepCounts]:
    """Counters of the trainer's steps and of both evaluators' volumes."""
    trainer, get = parser.get_parsed_content("train::trainer"), parser.get_parsed_content
    networks = {"3d": unwrap(get("network")), "2d": unwrap(get("network_2d"))}

    def learning(engine: Engine) -> list[torch.nn.Module]:
        student = kinds[engine.state.epoch - 1].student
        return [network for name, network in networks.items() if student in ("both", name)]

    def taking_part(engine: Engine) -> list[torch.nn.Module]:
        return learning(engine) if not kinds[engine.state.epoch - 1].num_unlabeled else list(networks.values())

    counts = [StepCounts(lambda engine: kinds[engine.state.epoch - 1].name, learning, taking_part)]
    counts[0].attach(trainer)
    for name, key in EVALUATORS.items():
        network = networks["2d" if key.endswith("2d") else "3d"]
        counts.append(StepCounts(lambda _, name=name: name, lambda _: [], lambda _, network=network: [network]))
        counts[-1].attach(get(key))
    return counts


def add_floors(rows: list[dict[str, Any]], counts: list[StepCounts], parser: ConfigParser) -> dict[str, Any]:
    """Put operations, bytes, floor and the operators' shares into the rows. Returns the device's rates."""
    device, amp = parser.get_parsed_content("device"), parser.get_parsed_content("amp_dtype")
    rates = measured_rates(device, amp_dtype_of(amp, device) or torch.float32)
    counted = {name: row for count in counts for name, row in count.rows.items()}
    for row in rows:
        found = counted[row["name"]]
        row |= floor_of(found, rates) | {"operations": found.operations, "bytes": found.bytes, "shares": found.shares}
    print(f"\n{rates.dtype}: {rates.operations / 1e9:.0f} GFLOP/s, {rates.bandwidth / 1e9:.1f} GB/s")
    return vars(rates)


def _validation_clocks(parser: ConfigParser, device: torch.device, has_validation: bool) -> dict[str, StepClock]:
    if not has_validation:
        return {}
    clocks: dict[str, StepClock] = {}
    for name, key in EVALUATORS.items():
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
    if not datalist.get("labeled"):
        raise UserError(f"{args.datalist} has no labeled scan: nothing can be measured.")
    datalist["unlabeled"] = datalist.get("unlabeled", [])[: args.unlabeled_cases]
    datalist["validation"] = datalist.get("validation", [])[:volumes]
    datalist["testing"] = []
    return write_datalist(datalist, folder / "datalist.json")


def line(row: dict[str, Any] | None) -> str:
    """A line of the table; None: its head."""
    if row is None:
        return f"{'':26} {'seconds':>8} {'min..max':>17} {'waiting':>8} {'peak MiB':>9}  of which"
    spread = f"{row['min_s']:.3f}..{row['max_s']:.3f}"
    parts = ", ".join(f"{name} {seconds:.3f}" for name, seconds in row["parts_median_s"].items())
    return (
        f"{row['name']:26} {row['median_s']:8.3f} {spread:>17} {row['waiting_share']:8.1%} "
        f"{row['peak_memory_mib']:9.0f}  {parts}"
    )


def floor_line(row: dict[str, Any] | None) -> str:
    """A line of the second table; None: its head."""
    if row is None:
        return f"{'':26} {'GFLOP':>8} {'GB':>7} {'floor':>8} {'measured/floor':>15}  operators' own time"
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in (row["shares"] or {}).items() if share >= 0.005)
    return (
        f"{row['name']:26} {row['operations'] / 1e9:8.1f} {row['bytes'] / 1e9:7.2f} {row['floor_s']:8.4f} "
        f"{row['median_s'] / row['floor_s']:15.2f}  {shares}"
    )


def build_parser(description: str | None = __doc__, floor: bool = True) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="*", default=DEFAULT_OVERLAYS, metavar="FILE", help="overlays of train.json")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of top-level keys")
    parser.add_argument("--datalist", metavar="FILE", help="default: phantom data in a temporary folder")
    parser.add_argument("--dataset-dir", metavar="DIR", help="where the datalist's relative paths start")
    parser.add_argument("--model-2d", metavar="DIR", help="2D network with weights; default: a tiny random SegFormer")
    parser.add_argument("--steps", type=positive, default=8, help="measured steps of each kind (default: 8)")
    parser.add_argument("--warmup", type=count, default=2, help="steps of each kind before measuring (default: 2)")
    parser.add_argument("--unlabeled", type=count, help="b_u of the student steps (default: half of the batch)")
    parser.add_argument("--unlabeled-cases", type=count, default=8, help="unlabeled scans taken from the datalist")
    parser.add_argument("--volumes", type=positive, default=3, help="measured validation volumes (default: 3)")
    parser.add_argument("--warmup-volumes", type=count, default=1, help="volumes before measuring (default: 1)")
    if floor:
        parser.add_argument("--floor", action="store_true", help="count operations and bytes, and measure the device")
    parser.add_argument("--threads", type=positive, help="torch's CPU threads")
    parser.add_argument("--device", help="cpu or cuda (default: cuda if there is one)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers here too")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    quiet()
    if args.floor:  # the first step is counted, the second profiled: neither is timed
        args.warmup, args.warmup_volumes = max(args.warmup, 2), max(args.warmup_volumes, 2)
    with errors_in_words("step.py"), tempfile.TemporaryDirectory(prefix="mnseg_step_") as folder:
        if args.json:
            require_writable(args.json)
        result = measure(args, Path(folder))
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
