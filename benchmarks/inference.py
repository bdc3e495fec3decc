"""Seconds of a whole volume: MONAI's plain float32 sliding window against faster roads, same weights, same windows.

    python benchmarks/inference.py --threads 2                        # LA's size and network, random weights
    python benchmarks/inference.py --run-dir RUN --images DIR --threads 2       # a trained model on real scans

The roads take turns, volume by volume, so that a busy machine slows all of them alike; the first turn is not counted.
Dice: between a road's mask and the plain one's, mean over structures and scans; what is lost by rounding is 1 - Dice.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from bench_common import CONFIGS, device_of, errors_in_words, hardware, quiet
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import BasicUNet
from torch import Tensor, nn

from mnseg.arguments import positive
from mnseg.engines.precision import amp_dtype_of
from mnseg.errors import UserError
from mnseg.files import atomic_write, require_writable
from mnseg.inferers import BFloat16Inferer, OpenVINOInferer
from mnseg.inferers.openvino import has_openvino
from mnseg.networks.channels_last import to_channels_last
from mnseg.networks.patch_check import require_fitting_patch

Road = Callable[[Tensor], Tensor]
LA = {"patch_size": (160, 160, 64), "features": (32, 64, 128, 256, 512, 32), "size": (200, 176, 88)}


def roads(network: nn.Module, settings: Mapping[str, Any], device: torch.device) -> dict[str, Road]:
    """Name -> volume (1, C, H, W, D) to logits; "plain" is the first."""
    plain = SlidingWindowInferer(**settings)

    last = to_channels_last(copy.deepcopy(network))

    def channels_last(volume: Tensor) -> Tensor:
        return plain(volume, last)

    found: dict[str, Road] = {"plain": lambda volume: plain(volume, network), "channels last": channels_last}
    inferers = {}
    if amp_dtype_of("auto", device):
        inferers["bfloat16"] = BFloat16Inferer(**settings)
    if device.type == "cpu" and has_openvino:
        inferers["OpenVINO"] = OpenVINOInferer(**settings)
        if amp_dtype_of("auto", device):
            inferers["OpenVINO, bfloat16"] = OpenVINOInferer(**settings, bfloat16=True)
    return found | {name: functools.partial(inferer, network=network) for name, inferer in inferers.items()}


def measure(
    network: nn.Module, volumes: list[Tensor], settings: Mapping[str, Any], device: torch.device, repeats: int
) -> list[dict[str, Any]]:
    """A row a road: seconds of a volume (median), ratio to the plain one, Dice against its mask."""
    network = network.to(device).eval()
    choices = roads(network, settings, device)
    seconds: dict[str, list[float]] = {}
    first: dict[str, float] = {}
    dice: dict[str, list[float]] = {}
    with torch.inference_mode():
        for turn in range(repeats + 1):
            for volume in volumes:
                masks = {}
                for name, road in choices.items():
                    start = _now(device)
                    logits = road(volume.to(device))
                    taken = _now(device) - start
                    if turn:
                        seconds.setdefault(name, []).append(taken)
                    first.setdefault(name, taken)
                    masks[name] = logits.argmax(dim=1).cpu().numpy()
                for name, mask in masks.items():
                    dice.setdefault(name, []).append(_dice(mask, masks["plain"], logits.shape[1]))
    plain = median(seconds["plain"])
    return [{"name": name, "seconds": median(taken), "first": first[name], "ratio": plain / median(taken),
             "dice_lost": 1 - float(np.mean(dice[name]))} for name, taken in seconds.items()]  # fmt: skip


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _dice(mask: np.ndarray, other: np.ndarray, classes: int) -> float:
    """Mean over the structures that one of both has; 1 where neither has any."""
    values = []
    for index in range(1, classes):
        a, b = mask == index, other == index
        if total := int(a.sum() + b.sum()):
            values.append(2 * int((a & b).sum()) / total)
    return float(np.mean(values)) if values else 1.0


def trained(run_dir: Path, images: list[Path]) -> tuple[nn.Module, list[Tensor], dict[str, Any]]:
    """A run's network, scans as it sees them, and its windows."""
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / "inference.json"), str(run_dir / "model.json")])
    parser["bundle_root"] = str(CONFIGS.parent)
    parser["device"] = "$torch.device('cpu')"
    network = parser.get_parsed_content("network_def")
    state = torch.load(run_dir / "models" / "model.pt", map_location="cpu", weights_only=True)
    network.load_state_dict(state.get("model", state))
    before = parser.get_parsed_content("preprocessing")
    volumes = [before({"image": str(path)})["image"].as_tensor()[None] for path in images]
    keys = {"roi_size": "patch_size", "sw_batch_size": "sw_batch_size", "overlap": "overlap"}
    return network, volumes, {name: parser.get_parsed_content(key) for name, key in keys.items()}


def opened(args: argparse.Namespace) -> tuple[nn.Module, list[Tensor], dict[str, Any]]:
    """What is measured."""
    if args.run_dir is None:
        torch.manual_seed(0)
        network = BasicUNet(3, 1, 2, features=tuple(args.features))
        require_fitting_patch(network, 1, args.patch_size)
        windows = {"roi_size": tuple(args.patch_size), "sw_batch_size": args.sw_batch_size, "overlap": 0.5}
        return network, [torch.randn(1, 1, *args.size)], windows
    if not (args.run_dir / "models" / "model.pt").is_file():
        raise UserError(f"{args.run_dir} has no models/model.pt: --run-dir names the folder of a finished run.")
    images = sorted(args.images.glob("*.nii.gz"))[: args.scans] if args.images else []
    if not images:
        raise UserError("--images must name a folder of .nii.gz scans.")
    network, volumes, windows = trained(args.run_dir, images)
    return network, volumes, windows | {"sw_batch_size": args.sw_batch_size}


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, print the table, return the numbers."""
    device = device_of(args.device)
    if args.json:
        require_writable(args.json)
    if args.threads:
        torch.set_num_threads(args.threads)
    network, volumes, windows = opened(args)
    info = hardware(device) | windows | {"sizes": [list(volume.shape[2:]) for volume in volumes]}
    print(", ".join(f"{key} {value}" for key, value in info.items()) + "\n")
    rows = measure(network, volumes, windows, device, args.repeats)
    print(f"{'':26} {'seconds':>8} {'times as fast':>14} {'Dice lost':>10} {'first volume':>13}")
    for row in rows:
        print(f"{row['name']:26} {row['seconds']:8.2f} {row['ratio']:14.2f} {row['dice_lost']:10.6f} "
              f"{row['first']:13.2f}")
    return info | {"rows": rows}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, help="a finished run; default: random weights")
    parser.add_argument("--images", type=Path, metavar="DIR", help="scans for --run-dir")
    parser.add_argument("--scans", type=positive, default=3, help="how many of them (default: 3)")
    parser.add_argument("--size", type=positive, nargs=3, default=LA["size"], help="of the random volume")
    parser.add_argument("--patch-size", type=positive, nargs=3, default=LA["patch_size"])
    parser.add_argument("--features", type=positive, nargs=6, default=LA["features"])
    parser.add_argument("--sw-batch-size", type=positive, default=1, help="windows at once, for all (default: 1)")
    parser.add_argument("--repeats", type=positive, default=3, help="measured turns (default: 3)")
    parser.add_argument("--threads", type=positive, help="CPU threads, for all")
    parser.add_argument("--device", help="cpu or cuda (default: cuda if there is one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    args = parser.parse_args(argv)
    quiet()
    with errors_in_words("inference.py"):
        result = run(args)
    if args.json:
        atomic_write(args.json, lambda path: path.write_text(json.dumps(result, indent=2, default=str) + "\n"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
