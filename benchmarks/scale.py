"""What a large pool costs: once at the start, in memory, and an epoch.

    python benchmarks/scale.py                      # pools of 100, 1,000 and 10,000 small volumes, kept in memory
    python benchmarks/scale.py --cache-dir CACHE    # on disk instead; repeat it to see a second start

The bundle's own config runs, with a small 3D network and a tiny random 2D network. Epochs are measured in seconds of
this process's CPU time as well as by the clock, since other work on the machine lengthens the latter; the least of them
is the least disturbed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import nibabel as nib
import numpy as np
import torch
from bench_common import hardware, open_bundle, quiet
from ignite.engine import Events

from mnseg.errors import UserError

LABELED = 8
NETWORK = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [8, 16],
    "strides": [2],
}


def write_volumes(folder: Path, count: int, size: int) -> list[dict[str, str]]:
    """Distinct volumes of noise around a bright cube; the first ones with a label. Existing files are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for number in range(count):
        item = {"image": f"{number:05d}.nii"}
        rng = np.random.default_rng(number)
        start = rng.integers(2, size // 2, 3)
        cube = tuple(slice(s, s + size // 3) for s in start)
        if number < LABELED:
            item["label"] = f"label_{number:05d}.nii"
        if not (folder / item["image"]).exists():
            image = rng.integers(0, 200, (size,) * 3).astype(np.int16)
            image[cube] += 150
            nib.save(nib.Nifti1Image(image, np.eye(4)), folder / item["image"])
        if "label" in item and not (folder / item["label"]).exists():
            label = np.zeros((size,) * 3, np.uint8)
            label[cube] = 1
            nib.save(nib.Nifti1Image(label, np.eye(4)), folder / item["label"])
        items.append(item)
    return items


def resident_mib() -> float:
    """Memory of this process now, without the pages of mapped files (Linux)."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) / 1024


def timed(function: Callable[..., Any], *args: Any) -> tuple[Any, float, float]:
    """Result, seconds, CPU seconds."""
    clock, cpu = time.perf_counter(), time.process_time()
    result = function(*args)
    return result, time.perf_counter() - clock, time.process_time() - cpu


def measure(folder: Path, items: list[dict[str, str]], epochs: int, size: int, cache_dir: str | None) -> dict[str, Any]:
    """One pool: the check, the preparation of all scans, memory, and the median epoch."""
    unlabeled = [{"image": item["image"]} for item in items[LABELED:]]
    datalist = {"labeled": items[:LABELED], "unlabeled": unlabeled, "validation": []}
    (folder / "datalist.json").write_text(json.dumps(datalist))
    with tempfile.TemporaryDirectory() as run_dir:
        workflow = open_bundle(
            "train.json", [], "train", dataset_dir=str(folder), run_dir=run_dir, device="cpu", cache_dir=cache_dir,
            patch_size=[size * 2 // 3 // 4 * 4] * 3, network_def=NETWORK, batch_size=4, epoch_length=8, hidden_cases=0,
            stage_1_epochs=0, warmup_epochs=0, stage_2_epochs=epochs, sampling="fixed", num_unlabeled=2, slice_axis=2,
            model_2d="segformer-tiny-random", pretrained=False, finetuning="whole", refresh_cases=16,
            refresh_interval=10**6, checkpoint_interval=10**6, val_interval=10**6,
        )  # fmt: skip
        parser = workflow.parser
        _, check, check_cpu = timed(parser.get_parsed_content, "datalist")
        before = resident_mib()
        _, prepare, prepare_cpu = timed(parser.get_parsed_content, "pool")
        gc.collect()
        memory = resident_mib() - before
        trainer = parser.get_parsed_content("train::trainer")
        marks: list[tuple[float, float]] = []
        trainer.add_event_handler(
            Events.EPOCH_COMPLETED, lambda _: marks.append((time.perf_counter(), time.process_time()))
        )
        workflow.run()
    steps = np.diff(np.array(marks), axis=0)[1:]  # the first epoch also refreshes, the second still warms up
    # Epochs alternate between a 3D and a 2D student: pairs are compared.
    pairs = steps[: len(steps) // 2 * 2].reshape(-1, 2, 2).sum(1) / 2
    return {
        "pool": len(items),
        "check_s": check,
        "check_cpu_s": check_cpu,
        "prepare_s": prepare,
        "prepare_cpu_s": prepare_cpu,
        "memory_mib": memory,
        "epoch_s": median(pairs[:, 0]),
        "epoch_cpu_s": median(pairs[:, 1]),
        "epoch_least_cpu_s": float(pairs[:, 1].min()),
    }


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pools", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--size", type=int, default=24, help="voxels along each axis")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--data", type=Path, default=None, help="folder of the volumes (default: a temporary one)")
    parser.add_argument("--cache-dir", default=None)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    quiet()
    torch.set_num_threads(args.threads)
    print(json.dumps(hardware(torch.device("cpu"))))
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.data or Path(temporary)
        items = write_volumes(folder, max(args.pools), args.size)
        print("| scans | check s (CPU) | preparation s (CPU) | memory MiB | epoch s | CPU s | least CPU s |")
        print("|---|---|---|---|---|---|---|")
        for pool in sorted(args.pools):
            r = measure(folder, items[:pool], args.epochs, args.size, args.cache_dir)
            print(f"| {r['pool']:,} | {r['check_s']:.1f} ({r['check_cpu_s']:.1f}) | {r['prepare_s']:.1f} "
                  f"({r['prepare_cpu_s']:.1f}) | {r['memory_mib']:.0f} | {r['epoch_s']:.2f} | "
                  f"{r['epoch_cpu_s']:.3f} | {r['epoch_least_cpu_s']:.3f} |",
                  flush=True)  # fmt: skip
            results.append(r)
    return results


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        main()
    except UserError as problem:
        sys.exit(f"scale.py: {problem}")
