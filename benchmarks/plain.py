"""Updates per second of our trainer and of a plain build of the paper, with the same networks, in one run.

    python benchmarks/plain.py                                  # phantom data, a tiny random 2D network
    python benchmarks/plain.py --config configs/datasets/la.json configs/recipes/paper.json \\
        --datalist la.json --dataset-dir DATA --model-2d WEIGHTS

The plain build is what one writes first when one reads the paper: scans are read from disk each time they are drawn,
the random zoom resamples the whole volume, everything is float32 (by torch's defaults: on
a GPU its convolutions take TF32), the teacher sees what the student sees, the loader has no workers. Our loader makes
a batch ahead in a thread where a core is free for it (--set train#dataloader#ahead=False takes that back). Networks,
losses, optimizers, patch and batch size are those of our config; so is what a setting of ours changes in the step
(slice_stride, amp_dtype): give it with --set to compare the paper's own step. Options: see step.py.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from bench_common import errors_in_words, quiet
from monai.bundle import ConfigParser
from monai.data import list_data_collate
from monai.networks.nets.basic_unet import UpCat
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandCropByPosNegLabeld,
    RandSpatialCropd,
    RandZoomd,
    SpatialPadd,
)
from step import build_parser, line, open_short, timed
from torch import Tensor, nn
from transformers.models.mobilenet_v2.modeling_mobilenet_v2 import MobileNetV2DeepLabV3Plus

from mnseg.data.transforms import ForegroundIndicesd
from mnseg.files import atomic_write, require_writable
from mnseg.networks.fast_convolution import FastConv2d
from mnseg.networks.folded_norm import unfold_norms
from mnseg.networks.narrowing_convolution import NarrowingConv3d
from mnseg.networks.transposed_bias import SummedBiasTranspose2d, SummedBiasTranspose3d
from mnseg.planning.clock import StepClock
from mnseg.planning.steps import Kind

KEYS = ("image", "label")


class PlainTrainer:
    """The paper's step without any of our trainer's means.

    Args:
        parser: an opened train.json, whose networks, optimizers and losses are used.
    """

    def __init__(self, parser: ConfigParser) -> None:
        self.device = parser.get_parsed_content("device")
        suffixes = {"3d": "", "2d": "_2d"}
        self.networks = {name: stock(parser.get_parsed_content(f"network{end}")) for name, end in suffixes.items()}
        self.optimizers = {name: parser.get_parsed_content(f"optimizer{end}") for name, end in suffixes.items()}
        for optimizer in self.optimizers.values():
            optimizer.state.clear()  # its averages have the layout that the weights had
        self.loss = parser.get_parsed_content("loss")
        self.labeled = parser.get_parsed_content("datalist")["labeled"]
        self.unlabeled = parser.get_parsed_content("unlabeled")
        self.transforms = {kind: _pipeline(parser, kind) for kind in ("labeled", "unlabeled")}

    def batch(self, batch_size: int, num_unlabeled: int) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W, D), the labeled ones first, and their labels (b_l, 1, H, W, D)."""
        labeled = list_data_collate(self._draw(self.labeled, "labeled", batch_size - num_unlabeled))
        image, label = labeled["image"], labeled["label"]
        if num_unlabeled:
            rest = list_data_collate(self._draw(self.unlabeled, "unlabeled", num_unlabeled))
            image = torch.cat([image, rest["image"]])
        return image.as_tensor(), label.as_tensor()

    def _draw(self, items: Sequence[dict[str, str]], kind: str, count: int) -> list[dict[str, Any]]:
        drawn = [self.transforms[kind](item) for item in random.choices(items, k=count)]
        return [item[0] if isinstance(item, list) else item for item in drawn]

    def step(self, image: Tensor, label: Tensor, student: str) -> None:
        """One update of the student, or of both networks on labels alone."""
        image, label = image.to(self.device), label.to(self.device)
        if student == "both":
            self._update("3d", image, label, None)
            self._update("2d", image, label, None)
            return
        pseudo = None
        if len(image) > len(label):
            teacher = self.networks["2d" if student == "3d" else "3d"].eval()
            with torch.no_grad():
                pseudo = teacher(image[len(label) :]).softmax(dim=1)
        self._update(student, image, label, pseudo)

    def _update(self, name: str, image: Tensor, label: Tensor, pseudo: Tensor | None) -> None:
        network: nn.Module = self.networks[name].train()
        self.optimizers[name].zero_grad()
        loss = self.loss(network(image), label, pseudo).total
        loss.backward()
        self.optimizers[name].step()
        loss.item()


def stock(network: nn.Module) -> nn.Module:
    """Take back what makes a network faster: layouts, and the norms, convolutions and paddings that are ours."""
    for parameter in network.parameters():
        copied = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
        parameter.data = copied.copy_(parameter.data)
    for module in unfold_norms(network).modules():
        if isinstance(module, nn.InstanceNorm3d):
            module.__class__ = nn.InstanceNorm3d
        elif isinstance(module, FastConv2d):
            module.__class__ = nn.Conv2d
        elif isinstance(module, NarrowingConv3d):
            module.__class__ = nn.Conv3d
        elif isinstance(module, SummedBiasTranspose2d):
            module.__class__ = nn.ConvTranspose2d
        elif isinstance(module, SummedBiasTranspose3d):
            module.__class__ = nn.ConvTranspose3d
        elif isinstance(module, UpCat):
            module.__class__ = UpCat
        elif isinstance(module, MobileNetV2DeepLabV3Plus):
            module.__class__ = MobileNetV2DeepLabV3Plus
    for model in [module for module in network.modules() if getattr(module, "base_model_prefix", "")]:
        for layer in model.modules() if getattr(model.config, "tf_padding", False) else ():
            if hasattr(layer, "convolution") and not layer.config.tf_padding:
                layer.config, layer.convolution.padding = model.config, (0, 0)
    return network


def _pipeline(parser: ConfigParser, kind: str) -> Compose:
    """Read, prepare, zoom the whole volume, crop."""
    keys = KEYS if kind == "labeled" else KEYS[:1]
    patch, *zoom = (parser.get_parsed_content(key) for key in ("patch_size", "min_zoom", "max_zoom"))
    mode = {"image": "trilinear", "label": "nearest"}
    crop = RandCropByPosNegLabeld(keys, "label", patch, num_samples=1, allow_smaller=False)
    return Compose([
        *(each for each in parser.get_parsed_content("load").flatten().transforms
          if not isinstance(each, ForegroundIndicesd)),
        RandZoomd(keys, 1.0, *zoom, mode=[mode[key] for key in keys], keep_size=False),
        SpatialPadd(keys, patch),
        crop if kind == "labeled" else RandSpatialCropd(keys, patch, random_size=False),
        RandAdjustContrastd("image", 1.0, parser.get_parsed_content("gamma")),
    ])  # fmt: skip


def measure_plain(parser: ConfigParser, kinds: Sequence[Kind], args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a kind of step, as ``step.timed`` gives them."""
    trainer, rows = PlainTrainer(parser), []
    batch_size = parser.get_parsed_content("batch_size")
    for kind in kinds:
        clock = StepClock(trainer.device)
        clock.reset()
        for _ in range(args.warmup + args.steps):
            marks = [clock.now()]
            batch = trainer.batch(batch_size, kind.num_unlabeled)
            marks.append(clock.now())
            trainer.step(*batch, kind.student)
            clock.waiting.append(marks[1] - marks[0])
            clock.computing.append(clock.now() - marks[1])
            clock.note_peak()
        rows.append(clock.row(kind.name, args.warmup))
    return rows


def ours(args: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Hardware, and a row a kind of step of our trainer."""
    quiet()
    parser, kinds, info = open_short(args, folder)
    return info, timed(parser, kinds, args)[: len(kinds)]


def plain(args: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Hardware, and a row a kind of step of the plain build."""
    quiet()
    own = argparse.Namespace(**{**vars(args), "set": [*args.set, "keep_freed_memory=False"]})
    parser, kinds, info = open_short(own, folder)
    return info, measure_plain(parser, kinds, args)


def compare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure both, ours first."""
    rows = {}
    for work in (ours, plain):
        # Allocator, caches and peak of the one must not reach the other.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            (own := folder / work.__name__).mkdir()
            info, rows[work.__name__] = pool.submit(work, args, own).result()
        print("\n".join([work.__name__, line(None), *map(line, rows[work.__name__]), ""]))
    ratios = {a["name"]: b["median_s"] / a["median_s"] for a, b in zip(rows["ours"], rows["plain"], strict=True)}
    students = [row["name"] for row in rows["ours"] if "student" in row["name"]]
    if students:  # odd and even epochs have equally many updates
        seconds = [sum(row["median_s"] for row in found if row["name"] in students) for found in rows.values()]
        ratios["co-training"] = seconds[1] / seconds[0]
    print("\n".join(f"{name:26} {ratio:6.2f} times the updates per second" for name, ratio in ratios.items()))
    return info | rows | {"ratios": ratios}


def main(argv: list[str] | None = None) -> int:
    args = build_parser(__doc__, floor=False).parse_args(argv)
    quiet()
    with errors_in_words("plain.py"), tempfile.TemporaryDirectory(prefix="mnseg_plain_") as folder:
        if args.json:
            require_writable(args.json)
        result = compare(args, Path(folder))
    if args.json:
        atomic_write(args.json, lambda path: path.write_text(json.dumps(result, indent=2) + "\n"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
