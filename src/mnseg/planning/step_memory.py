"""The most memory of each kind of step of a training, without running it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from mnseg.engines import CoTrainer
from mnseg.engines.precision import amp_dtype_of
from mnseg.planning.live_memory import LiveMemory, without_data
from mnseg.planning.steps import Kind
from mnseg.planning.training import open_training, read_training

__all__ = ["AT_LEAST", "count_step_memory", "count_training_memory"]

AT_LEAST = ", at least"

FROM_ELSEWHERE = ("_target_", "train_data_loader", "train_handlers", "epoch_length")


class _CountedTrainer(CoTrainer):
    """A trainer whose tensors have no data: there is nothing to bring to the host, and no gradient to scale."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(train_data_loader=[None], epoch_length=1, **settings)
        self.scalers = {name: torch.amp.GradScaler("cpu", enabled=False) for name in self.scalers}

    def _fetch(self, scalars: Mapping[str, Tensor]) -> dict[str, float]:
        return dict.fromkeys(scalars, 0.0)

    def start_optimizers(self) -> None:
        """Let the optimizers take their memory, as a first step does."""
        for optimizer in self.optimizers.values():
            for parameter in (each for group in optimizer.param_groups for each in group["params"]):
                parameter.grad = torch.empty_like(parameter)
            optimizer.step()
            optimizer.zero_grad()

    def step(self, kind: Kind, image: Tensor, label: Tensor) -> None:
        self.state.student = kind.student
        self._iteration(self, {"image": image, "label": label})


def count_training_memory(config_file: Sequence[str] | str, overrides: Mapping[str, Any]) -> dict[str, float]:
    """Most MiB of tensors at once in each kind of step that a training has; see ``count_step_memory``.

    Args:
        config_file: of the training, as ``monai.bundle run`` takes it.
        overrides: its top-level keys.

    Raises:
        UserError: what the training itself would refuse; no labeled scan.
    """
    kinds = read_training(config_file, overrides).kinds
    workflow = open_training(config_file, {**overrides, "device": "$torch.device('cpu')"})
    workflow.initialize()
    return count_step_memory(workflow.parser, kinds)


def count_step_memory(parser: ConfigParser, kinds: Sequence[Kind]) -> dict[str, float]:
    """Most MiB of tensors at once: weights, optimizers, batch, activations, gradients.

    Not in it: what an operator needs inside itself, memory that an allocator holds but does not use, and scans cached
    in main memory.

    Args:
        parser: of train.json and overlays, initialized with ``device`` "cpu"; its networks lose their data.
        kinds: of steps.

    Returns:
        by kind, and for the windows of a validation volume that pass a network at once; where ``micro_batch_size`` is
        "auto" also with one patch and one window at a time, named so with ``AT_LEAST``.
    """
    get = parser.get_parsed_content
    settings = {key: get(f"train::trainer::{key}") for key in parser["train"]["trainer"]
                if key not in FROM_ELSEWHERE and not key.startswith("optimizer")}  # fmt: skip
    if settings.get("amp_dtype") == "auto" and torch.cuda.is_available():
        settings["amp_dtype"] = "bfloat16" if amp_dtype_of("auto", "cuda") else None
    networks = {"3D": get("network"), "2D": get("network_2d"), "teacher": settings["teacher_3d"]}
    batch_size, shape = get("batch_size"), (get("in_channels"), *get("patch_size"))
    with without_data(list(networks.values())) as memory:
        silenced = logging.root.manager.disable
        logging.disable(logging.WARNING)  # this CPU computes nothing, whatever it is slow at
        trainer = _CountedTrainer(**settings, optimizer=get("optimizer"), optimizer_2d=get("optimizer_2d"))
        logging.disable(silenced)
        with memory:
            trainer.start_optimizers()

        def peaks(windows: int, suffix: str = "") -> dict[str, float]:
            steps = {kind.name + suffix: _peak_of_step(memory, trainer, kind, batch_size, shape) for kind in kinds}
            return steps | {f"validation, {name}{suffix}": _peak_of_windows(memory, networks[name], windows, shape)
                            for name in ("3D", "2D")}  # fmt: skip

        found = peaks(get("sw_batch_size"))
        if settings["micro_batch_size"] == "auto":
            for parts in trainer.micro_batches.values():
                parts.size = 1
            found |= peaks(1, AT_LEAST)
    return found


def _peak_of_step(
    memory: LiveMemory, trainer: _CountedTrainer, kind: Kind, batch_size: int, shape: Sequence[int]
) -> float:
    with memory:
        image = torch.empty(batch_size, *shape)
        label = torch.zeros(batch_size - kind.num_unlabeled, 1, *shape[1:], dtype=torch.uint8)
        memory.peak = memory.live
        trainer.step(kind, image, label)
    return memory.peak / 2**20


@torch.no_grad()
def _peak_of_windows(memory: LiveMemory, network: torch.nn.Module, windows: int, shape: Sequence[int]) -> float:
    with memory:
        image = torch.empty(windows, *shape)
        memory.peak = memory.live
        network.eval()(image)
    return memory.peak / 2**20
