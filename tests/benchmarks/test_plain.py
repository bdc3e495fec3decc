"""plain.py: the plain build learns what it should, and both are timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from monai.networks.nets import BasicUNet
from plain import PlainTrainer, main, stock
from step import build_parser, open_short
from transformers import MobileNetV2Config, MobileNetV2ForSemanticSegmentation, MobileNetV2Model

from mnseg.networks.build import build_slice_network
from mnseg.networks.channels_last import to_channels_last
from mnseg.networks.fast_convolution import to_fast_convolutions
from mnseg.networks.same_padding import to_inner_padding

TINY = ["network_def#features=[4, 4, 8, 8, 16, 4]", "batch_size=3"]
ARGV = ["--steps", "1", "--warmup", "0", "--unlabeled", "2", "--unlabeled-cases", "2", "--volumes", "1",
        "--warmup-volumes", "0", "--device", "cpu", "--set", *TINY]  # fmt: skip


def test_both_are_timed_and_compared(tmp_path, capsys):
    assert main([*ARGV, "--json", str(tmp_path / "out.json")]) == 0
    content = json.loads((tmp_path / "out.json").read_text())
    names = ["labeled step, both", "labeled step, 3D alone", "labeled step, 2D alone", "3D student, b_u 2",
             "2D student, b_u 2"]  # fmt: skip
    assert [row["name"] for row in content["ours"]] == [row["name"] for row in content["plain"]] == names
    students = [[sum(row["median_s"] for row in content[who][3:])] for who in ("ours", "plain")]
    assert content["ratios"]["co-training"] == pytest.approx(students[1][0] / students[0][0])
    assert "times the updates per second" in capsys.readouterr().out


def test_only_the_student_learns(tmp_path):
    parser, _, _ = open_short(build_parser().parse_args(ARGV), Path(tmp_path))
    assert not all(p.is_contiguous() for p in parser.get_parsed_content("network").parameters()), "ours: channels last"
    trainer = PlainTrainer(parser)
    assert all(p.is_contiguous() for network in trainer.networks.values() for p in network.parameters())
    kinds = {type(module) for module in trainer.networks["3d"].modules() if isinstance(module, torch.nn.InstanceNorm3d)}
    assert kinds == {torch.nn.InstanceNorm3d}
    assert {type(module) for module in trainer.networks["3d"].modules() if isinstance(module, torch.nn.Conv3d)} == {
        torch.nn.Conv3d
    }
    image, label = trainer.batch(3, 2)
    assert image.shape == (3, 1, 32, 32, 32) and label.shape == (1, 1, 32, 32, 32)
    for student in ("3d", "2d"):
        before = _weights(trainer.networks)
        trainer.step(image, label, student)
        after = _weights(trainer.networks)
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == {student}


def test_the_plain_build_has_torchs_own_convolutions():
    network = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, dilation=2, groups=4), torch.nn.Conv2d(4, 2, 1))
    to_fast_convolutions(network.to(memory_format=torch.channels_last))
    assert type(network[0]) is not torch.nn.Conv2d
    assert {type(conv) for conv in stock(network)} == {torch.nn.Conv2d}


def test_the_plain_build_has_transformers_own_head(tmp_path):
    config = MobileNetV2Config(depth_multiplier=0.25)
    wanted = MobileNetV2ForSemanticSegmentation(config)
    wanted.save_pretrained(tmp_path)
    network = stock(build_slice_network(str(tmp_path), config.num_labels, finetuning="whole", seed=0)).network_2d
    kinds = [
        [type(module) for module in each.segmentation_head.modules() if not isinstance(module, torch.nn.BatchNorm2d)]
        for each in (network, wanted)
    ]
    assert kinds[0] == kinds[1]


def test_the_plain_build_has_monais_own_3d_network():
    network = BasicUNet(3, 1, 2, features=(4, 4, 8, 8, 16, 4))
    wanted = [type(module) for module in network.modules()]
    assert [type(module) for module in to_channels_last(network).modules()] != wanted
    assert [type(module) for module in stock(network).modules()] == wanted


def test_the_plain_build_pads_as_transformers_does():
    config = MobileNetV2Config(depth_multiplier=0.25)
    network = to_inner_padding(MobileNetV2Model(config))
    layers = [module for module in network.modules() if hasattr(module, "convolution")]
    assert not all(layer.config.tf_padding for layer in layers)
    stock(network)
    assert all(layer.config.tf_padding and layer.convolution.padding == (0, 0) for layer in layers)


def _weights(networks: dict[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([p.detach().flatten() for p in net.parameters()]) for name, net in networks.items()}
