"""A co-training small enough to run in a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import nn
from torch.utils.data import DataLoader

from mnseg.data.collate import collate_mixed
from mnseg.data.lrg_sampler import LRGBatchSampler
from mnseg.engines import CoTrainer
from mnseg.handlers import EpochSeedHandler, LRGSamplingHandler, TwoStageLRHandler
from one_thread import one_thread

CLASSES = 3


_one_thread = pytest.fixture(scope="package", autouse=True)(one_thread)


def make_network(in_channels: int = 1) -> nn.Module:
    """Convolution, batch norm, dropout: all that tells train from eval mode."""
    return nn.Sequential(
        nn.Conv3d(in_channels, 4, 3, padding=1),
        nn.BatchNorm3d(4),
        nn.ReLU(),
        nn.Dropout3d(0.2),
        nn.Conv3d(4, CLASSES, 1),
    )


def make_items(labeled: int, unlabeled: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    items: list[dict[str, Any]] = []
    for i in range(labeled + unlabeled):
        image = torch.randn(1, 6, 6, 4, generator=generator)
        items.append({"image": image, "case": f"case_{i}"})
        if i < labeled:
            items[-1]["label"] = (image > -0.4).to(torch.uint8) + (image > 0.4).to(torch.uint8)
    return items


@pytest.fixture
def co_training() -> Callable[..., SimpleNamespace]:
    """Build a trainer with sampler, schedule and LRG sampling; `batches` fills up with what it saw."""

    def build(
        stage_1: int = 2,
        stage_2: int = 8,
        batch_size: int = 4,
        labeled: int = 2,
        unlabeled: int = 6,
        epoch_length: int = 2,
        mode: str = "learning_rate",
        num_unlabeled: int = 0,
        handlers: tuple = (),
        networks: tuple | None = None,
        optimizer: type = torch.optim.AdamW,
        learning_rate: float = 0.01,
        **options: Any,
    ) -> SimpleNamespace:
        torch.manual_seed(1)
        g, f = networks or (make_network(), make_network())
        items = make_items(labeled, unlabeled)
        sampler = LRGBatchSampler(range(labeled), range(labeled, len(items)), batch_size, epoch_length)
        loader = DataLoader(items, batch_sampler=sampler, collate_fn=collate_mixed)
        optimizers = [optimizer(network.parameters(), lr=learning_rate) for network in (g, f)]
        batches: list[SimpleNamespace] = []
        trainer = CoTrainer(
            "cpu",
            stage_1 + stage_2,
            stage_1,
            loader,
            g,
            f,
            *optimizers,
            train_handlers=[
                *handlers,
                EpochSeedHandler(0, items, sampler),
                TwoStageLRHandler(optimizers, stage_1, stage_2),
                LRGSamplingHandler(sampler, *optimizers, stage_2, mode=mode, num_unlabeled=num_unlabeled),
            ],
            **options,
        )

        @trainer.on(Events.ITERATION_COMPLETED)
        def note(engine: CoTrainer) -> None:
            b_l, total = len(engine.state.batch["label"]), len(engine.state.batch["image"])
            batches.append(
                SimpleNamespace(
                    epoch=engine.state.epoch,
                    student=engine.state.student,
                    b_l=b_l,
                    b_u=total - b_l,
                    output=dict(engine.state.output),
                )
            )

        return SimpleNamespace(
            trainer=trainer, g=g, f=f, optimizers=optimizers, sampler=sampler, items=items, batches=batches
        )

    return build
