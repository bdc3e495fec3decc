"""Does the student learn from the teacher? Truth in the teacher's place must help, shuffled masks must hurt.

    python benchmarks/teacher_check.py                       # phantom data, stage 1 is trained first
    python benchmarks/teacher_check.py --config configs/datasets/hippocampus.json configs/recipes/cpu.json \\
        --datalist list.json --dataset-dir DATA --model-2d WEIGHTS --checkpoint RUN/models/checkpoint.pt

From one checkpoint the 3D network is trained three times, on the same patches in the same order, one labeled patch and
B - 1 unlabeled ones a batch. The unlabeled patches' pseudo-labels are the 2D network's ("teacher"), the hidden labels
("truth"), or the 2D network's, each handed to another patch of the batch ("shuffled"). Then the mean Dice on the
validation scans is compared. Exit code 0 if truth > teacher > shuffled, 2 if not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from bench_common import errors_in_words, open_bundle, overrides_of, quiet
from torch import Tensor
from torch.nn.functional import one_hot

from mnseg.arguments import count, positive
from mnseg.data.collate import collate_mixed
from mnseg.data.datalist import load_datalist
from mnseg.data.phantom import write_phantom_dataset
from mnseg.engines import CoTrainer
from mnseg.errors import UserError
from mnseg.files import atomic_write, require_writable
from mnseg.handlers import PseudoForegroundHandler
from mnseg.networks.pretrained import TINY_SEGFORMER
from mnseg.reports.statistics import paired_difference

DEFAULT_OVERLAYS = ["configs/datasets/phantom.json", "configs/recipes/cpu.json"]
VARIANTS = ("truth", "teacher", "shuffled")
# Unlabeled items with their hidden label under "label": it passes through the very transforms of the image, so it fits
# every patch, and it steers the crops, in all variants alike. `collate_with_truth` takes it out of the loss's sight.
WITH_TRUTH = (
    "$[{'image': i['image'], 'label': i['hidden_label'], 'hidden': True, 'case': i['case']} "
    "for i in @datalist['unlabeled'] if i.get('hidden_label')]"
)


def collate_with_truth(items: Sequence[dict]) -> dict:
    """A training batch as ``collate_mixed`` makes it, the hidden labels aside under ``truth`` ``(b_u, 1, H, W, D)``."""
    visible = [{k: v for k, v in item.items() if not (item.get("hidden") and k == "label")} for item in items]
    hidden = [item for item in items if item.get("hidden")]
    return collate_mixed(visible) | {"truth": collate_mixed(hidden)["label"] if hidden else None}


def pseudo_labels(variant: str, pseudo: Tensor, truth: Tensor) -> Tensor:
    """What stands in for the teacher's soft masks.

    Args:
        variant: one of ``VARIANTS``.
        pseudo: the teacher's probabilities ``(b_u, K, H, W, D)``.
        truth: hidden labels ``(b_u, 1, H, W, D)``, class indices.
    """
    if variant == "truth":
        classes = one_hot(truth[:, 0].long(), pseudo.shape[1])
        return classes.movedim(-1, 1).to(pseudo)
    if variant == "shuffled":
        return pseudo.roll(1, dims=0)  # no patch keeps its own
    return pseudo


def replace_teacher(trainer: CoTrainer, variant: str) -> list[float]:
    """Let ``trainer`` learn from a variant; returns a list that will hold the pseudo-labels' foreground agreement.

    Agreement: share of the voxels, hidden foreground or pseudo-foreground, in which both have the same class.
    """
    teach: Callable[[str, Tensor], Tensor] = trainer._teach
    agreements: list[float] = []

    def wrapper(name: str, image: Tensor) -> Tensor:
        truth = trainer.state.batch["truth"].to(image.device)
        result = pseudo_labels(variant, teach(name, image), truth)
        classes = result.argmax(dim=1, keepdim=True)
        either = (classes > 0) | (truth > 0)
        if either.any():
            agreements.append(float((classes == truth)[either].float().mean()))
        return result

    trainer._teach = wrapper
    return agreements


def train_stage_1(args: argparse.Namespace, settings: dict[str, Any], folder: Path) -> Path:
    """Train both networks on labels alone; returns the checkpoint."""
    run_dir = folder / "stage_1"
    own = {"stage_1_epochs": args.stage_1_epochs, "stage_2_epochs": 0, "warmup_epochs": min(2, args.stage_1_epochs)}
    open_bundle("train.json", args.config, "train", **settings, **own, run_dir=str(run_dir)).run()
    return run_dir / "models" / "checkpoint.pt"


def train_variant(
    variant: str, checkpoint: Path, args: argparse.Namespace, settings: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Stage 2 of one variant: only the 3D network learns. Returns its Dice before and after, per case."""
    own = {
        "run_dir": str(folder / variant),
        "stage_1_epochs": 0,
        "stage_2_epochs": args.epochs,
        "roles": "fixed_teacher",
        "sampling": "fixed",
        "unlabeled": WITH_TRUTH,
        "recalibrate_batches": 0,  # the checkpoint is the start, statistics included
    }
    workflow = open_bundle("train.json", args.config, "train", **settings, **own)
    parser = workflow.parser
    batch_size = parser.get_parsed_content("batch_size")
    if batch_size < 3:
        raise UserError(f"batch_size {batch_size} leaves no two unlabeled patches to shuffle: --set batch_size=4.")
    parser.update({"num_unlabeled": batch_size - 1})
    workflow.initialize()
    trainer = parser.get_parsed_content("train::trainer")
    trainer.data_loader.collate_fn = collate_with_truth
    for handler in parser.get_parsed_content("train::handlers"):
        if isinstance(handler, PseudoForegroundHandler):
            handler.indices = []  # the hidden labels steer the crops
    objects = torch.load(checkpoint, map_location=trainer.state.device, weights_only=True)["objects"]
    for name, network in trainer.networks.items():
        network.load_state_dict(objects["network" if name == "3d" else "network_2d"])
    evaluator = parser.get_parsed_content("validate::evaluator")
    start = _dice(evaluator)
    agreements = replace_teacher(trainer, variant)
    trainer.run()
    end = _dice(evaluator)
    updates = args.epochs * parser.get_parsed_content("epoch_length")
    return {"start": start, "end": end, "agreement": fmean(agreements), "updates": updates, "b_u": batch_size - 1}


def _dice(evaluator: Any) -> list[float]:
    """Mean Dice over the foreground classes of every validation case (MONAI's; absent classes left out)."""
    evaluator.run()
    details = evaluator.state.metric_details[evaluator.state.key_metric_name]
    return details.nanmean(dim=1).tolist()


def check(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train what is needed and print the comparison; ``passed`` says whether the order is right."""
    if args.threads:
        torch.set_num_threads(args.threads)
    settings = _settings(args, folder)
    unlabeled = load_datalist(settings["data_list_file_path"], settings["dataset_dir"]).get("unlabeled", [])
    if not any(item.get("hidden_label") for item in unlabeled):
        raise UserError(f"{args.datalist} has no unlabeled item with a hidden_label: `mnseg datalist --keep-hidden`.")
    checkpoint = args.checkpoint or train_stage_1(args, settings, folder)
    results = {variant: train_variant(variant, checkpoint, args, settings, folder) for variant in VARIANTS}
    return summarize(results)


def summarize(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Print the table and the paired differences; add the verdict."""
    first = results[VARIANTS[0]]
    print(f"\nValidation Dice, {len(first['end'])} scans, after {first['updates']} updates with b_u {first['b_u']}")
    print(f"{'pseudo-labels':14} {'agreement':>10} {'start':>7} {'end':>7}")
    for variant, result in results.items():
        start, end = fmean(result["start"]), fmean(result["end"])
        print(f"{variant:14} {result['agreement']:10.3f} {start:7.4f} {end:7.4f}")
    differences = {}
    for better, worse in (("truth", "teacher"), ("teacher", "shuffled")):
        difference = paired_difference(results[better]["end"], results[worse]["end"])
        differences[f"{better} - {worse}"] = difference
        print(f"{better} - {worse}: {difference[0]:+.4f} [{difference[1]:+.4f}, {difference[2]:+.4f}]")
    passed = all(difference[0] > 0 for difference in differences.values())
    print("passed: truth > teacher > shuffled" if passed else "FAILED: the order is not truth > teacher > shuffled")
    return {"results": results, "differences": differences, "passed": passed}


def _settings(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    datalist = args.datalist or write_phantom_dataset(folder, 4, 24, 8, 0)
    own = {
        "dataset_dir": str(args.dataset_dir or Path(datalist).parent),
        "data_list_file_path": str(datalist),
        "val_interval": 10**6,
        "hidden_cases": 0,
        "checkpoint_interval": 10**6,
        "resume": False,
        "model_2d": args.model_2d or TINY_SEGFORMER,
        "seed": args.seed,
    }
    if args.model_2d is None:
        own |= {"pretrained": False, "finetuning": "whole", "slice_scale": 2.0}
    return own | overrides_of(args.set)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="*", default=DEFAULT_OVERLAYS, metavar="FILE", help="overlays of train.json")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of top-level keys")
    parser.add_argument("--datalist", metavar="FILE", help="with hidden labels; default: phantom data")
    parser.add_argument("--dataset-dir", metavar="DIR", help="where the datalist's relative paths start")
    parser.add_argument("--model-2d", metavar="DIR", help="2D network with weights; default: a tiny random SegFormer")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="start; default: stage 1 is trained first")
    parser.add_argument("--stage-1-epochs", type=positive, default=16, help="without --checkpoint (default: 16)")
    parser.add_argument("--epochs", type=positive, default=12, help="epochs of each variant (default: 12)")
    parser.add_argument("--seed", type=count, default=0)
    parser.add_argument("--threads", type=positive, help="torch's CPU threads")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the numbers here too")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    quiet()
    with errors_in_words("teacher_check.py"), tempfile.TemporaryDirectory(prefix="mnseg_teacher_") as folder:
        if args.json:
            require_writable(args.json)
        result = check(args, Path(folder))
    if args.json:
        atomic_write(args.json, lambda path: path.write_text(json.dumps(result, indent=2) + "\n"))
    return 0 if result["passed"] else 2


if __name__ == "__main__":
    sys.exit(main())
