"""How well a promptable model finds a structure from one point and a box: the first scans, before anything is trained.

    python benchmarks/clicks.py --data ../shared/data/la --cases 10
    python benchmarks/clicks.py --data ../shared/data/la --cases 10 --promptable sam-vit-base --points 3

The folder has ``images/`` and ``labels/`` with the same names. The box is the truth's, enlarged by ``--margin`` voxels
on each side; the points lie deepest inside in slices that divide the structure evenly. Prints Dice of each case and
structure.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from bench_common import errors_in_words
from scipy import ndimage

from mnseg.mining import build_promptable
from mnseg.mining.clicks import Clicks, segment_clicks


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=10, help="the first of the folder, by name")
    parser.add_argument("--promptable", default="random-walker", help="directory or hub id of a SAM, or random-walker")
    parser.add_argument("--points", type=int, default=1)
    parser.add_argument("--margin", type=int, default=2, help="voxels; -1: no box")
    args = parser.parse_args(argv)
    with errors_in_words("clicks.py"):
        model = build_promptable(args.promptable)
        rows = [row for label in sorted((args.data / "labels").iterdir())[: args.cases]
                for row in measure(model, args.data / "images" / label.name, label, args)]  # fmt: skip
    print("| case | structure | Dice | seconds |\n|---|---|---|---|")
    for case, value, dice, seconds in rows:
        print(f"| {case} | {value} | {dice:.3f} | {seconds:.1f} |")
    dice = np.array([row[2] for row in rows])
    print(f"\nmean Dice {dice.mean():.3f}, lowest {dice.min():.3f}, highest {dice.max():.3f}; "
          f"{np.mean([row[3] for row in rows]):.1f} s a mask")
    return 0


def measure(model, scan: Path, label: Path, args: argparse.Namespace) -> list[tuple[str, int, float, float]]:
    image = nib.load(scan)
    voxels, labels = image.get_fdata(dtype=np.float32), np.rint(nib.load(label).get_fdata()).astype(int)
    rows = []
    for value in sorted(set(np.unique(labels).tolist()) - {0}):
        truth = labels == value
        begun = time.perf_counter()
        mask = segment_clicks(model, voxels, image.affine, shown(truth, args.points, args.margin))
        seconds = time.perf_counter() - begun
        rows.append((scan.name.removesuffix(".nii.gz"), value,
                     2 * float((mask & truth).sum()) / float(mask.sum() + truth.sum()), seconds))  # fmt: skip
    return rows


def shown(truth: np.ndarray, points: int, margin: int) -> Clicks:
    """What a person who knows the truth would show of it."""
    slices = np.flatnonzero(truth.any((0, 1)))
    clicks = []
    for share in (np.arange(points) + 0.5) / points:
        index = int(slices[int(share * len(slices))])
        depth = ndimage.distance_transform_edt(np.pad(truth[..., index], 1))[1:-1, 1:-1]
        clicks.append([*np.unravel_index(depth.argmax(), depth.shape), index])
    where, last = np.argwhere(truth), np.array(truth.shape) - 1
    box = np.stack([np.maximum(where.min(0) - margin, 0), np.minimum(where.max(0) + margin, last)], axis=1)
    return Clicks(np.array(clicks, int).reshape(-1, 3), box=box if margin >= 0 else None)


if __name__ == "__main__":
    raise SystemExit(main())
