"""Does the disagreement of the two networks rank unlabeled scans by the 3D network's true error?

    python benchmarks/active_learning.py                                  # trains a little first, on the phantom
    python benchmarks/active_learning.py --run-dir demo/mn --config configs/datasets/phantom.json \\
        configs/recipes/demo.json                                         # a finished run

A pool of scans that no training saw is scored (disagreement.json); their hidden labels give the 3D network's error,
1 - mean Dice. Printed: Spearman's rank correlation of the error with several scores, its 95 % bootstrap interval over
scans, and the mean error of the scans that would be offered first.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_common import errors_in_words, open_bundle, overrides_of, quiet
from monai.transforms import Compose
from scipy.stats import spearmanr

from mnseg.data.phantom import write_phantom_dataset
from mnseg.disagreement import class_disagreement, mean_disagreement
from mnseg.score_pool import PoolScorer

DEFAULT_OVERLAYS = ["configs/datasets/phantom.json", "configs/recipes/demo.json"]
# A seventh of the demo's schedule: two to three minutes of one core with the scoring.
SHORT = {"stage_1_epochs": 8, "stage_2_epochs": 4, "val_interval": 100, "hidden_cases": 0}
POOL_SEED = 77


def scores_of(scorer: PoolScorer, item: dict[str, Any], transform: Compose) -> dict[str, float]:
    """Of one scan with a hidden label: the true error and all that might tell of it without a label."""
    data = transform({"image": item["image"], "label": item["hidden_label"], "case": item["case"]})
    image, truth = data["image"].as_tensor(), data["label"].as_tensor()[0].long()
    count = len(scorer.class_names)
    with torch.no_grad():
        p, q = (scorer.inferer(image[None], scorer.networks[name])[0].softmax(dim=0) for name in ("3d", "2d"))
    mask, mask_2d = p.argmax(dim=0), q.argmax(dim=0)
    error = class_disagreement(mask, truth, count, speck=0)
    entropy = -(p * p.clamp_min(1e-9).log()).sum(dim=0)
    soft = 1 - 2 * (p * q).sum(dim=(1, 2, 3)) / (p + q).sum(dim=(1, 2, 3))
    squares = 1 - 2 * (p * q).sum(dim=(1, 2, 3)) / (p.square() + q.square()).sum(dim=(1, 2, 3))
    return {
        "error": mean_disagreement(error) or 0.0,
        "disagreement (1 - Dice of the masks)": mean_disagreement(class_disagreement(mask, mask_2d, count)) or 0.0,
        "1 - soft Dice": float(soft[1:].mean()),
        "1 - soft Dice, squared denominator": float(squares[1:].mean()),
        "mean |p - q| over all voxels": float((p - q).abs().mean()),
        "g's entropy, summed": float(entropy.sum()),
        "g's entropy / g's volume": float(entropy.sum() / max(1, int((mask > 0).sum()))),
        "g's volume, smallest first": -float((mask > 0).sum()),
    }


def correlation(score: np.ndarray, error: np.ndarray, draws: int = 2000) -> tuple[float, float, float]:
    """Spearman's correlation and its 95 % bootstrap interval over scans."""
    picks = np.random.default_rng(0).integers(0, len(error), (draws, len(error)))
    values = [spearmanr(score[pick], error[pick]).statistic for pick in picks]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(spearmanr(score, error).statistic), float(low), float(high)


def report(rows: Sequence[dict[str, float]]) -> str:
    """A table, one row a score."""
    error = np.array([row["error"] for row in rows])
    first = max(1, len(rows) // 4)
    lines = [f"{len(rows)} scans, error {error.mean():.3f} (from {error.min():.3f} to {error.max():.3f})",
             f"| score | Spearman with the error | mean error of the first {first} |", "|---|---|---|"]  # fmt: skip
    for name in rows[0]:
        score = np.array([row[name] for row in rows])
        chosen = error[np.argsort(-score, kind="stable")[:first]].mean()
        value, low, high = correlation(score, error)
        text = "1" if name == "error" else f"{value:.2f} [{low:.2f}, {high:.2f}]"
        lines.append(f"| {name} | {text} | {chosen:.3f} |")
    return "\n".join(lines)


def measure(folder: Path, args: argparse.Namespace) -> list[dict[str, float]]:
    override = overrides_of(args.set)
    start = time.monotonic()
    if args.run_dir is None:
        data, run = folder / "data", folder / "run"
        write_phantom_dataset(data)
        override = SHORT | override
        training = open_bundle("train.json", args.config, "train", dataset_dir=str(data), run_dir=str(run), **override)
        training.run()
        print(f"trained in {time.monotonic() - start:.0f} s", flush=True)
    else:
        run = args.run_dir
    pool = folder / "pool"
    write_phantom_dataset(pool, 4, args.scans, 0, 0, seed=POOL_SEED)
    start = time.monotonic()
    overlays = [*args.config, "bundles/mn_cotraining/configs/disagreement.json"]
    more = {"dataset_dir": str(pool), "run_dir": str(run), "scores_file": str(folder / "scores.json")}
    parser = open_bundle("train.json", overlays, "train", **more, **override).parser
    scorer, items = parser.get_parsed_content("scorer"), parser.get_parsed_content("score_items")
    transform = parser.get_parsed_content("load").flatten()
    rows = [scores_of(scorer, item, transform) for item in items]
    print(f"predicted and measured {len(rows)} scans in {time.monotonic() - start:.0f} s")
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, help="a finished run on phantom scans; default: train a little")
    parser.add_argument("--config", nargs="+", default=DEFAULT_OVERLAYS, help="overlays of the training")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="keys of the training")
    parser.add_argument("--scans", type=int, default=72, help="size of the pool (72)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the values of every scan here")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    quiet()
    with errors_in_words("active_learning.py"), tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), args)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    print(report(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
