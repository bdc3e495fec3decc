from __future__ import annotations

import torch
from ignite.engine import Events
from monai.transforms import Compose, RandScaleIntensity, RandShiftIntensity

from mnseg.data.lrg_sampler import LRGBatchSampler
from mnseg.handlers import EpochSeedHandler


def draws(make_engine, run, seed: int, epochs: int, noise: int = 0) -> list[tuple]:
    """What torch, the sampler and nested random transforms draw in every epoch."""
    transform = Compose([RandShiftIntensity(1.0, prob=1), Compose([RandScaleIntensity(1.0, prob=1)])])
    sampler = LRGBatchSampler([0, 1], range(2, 20), 5, 2, seed)
    sampler.num_unlabeled = 3
    engine = make_engine()
    EpochSeedHandler(seed, transform, sampler).attach(engine)
    torch.rand(noise)
    for _ in range(noise):
        transform(torch.ones(1, 2))
    seen = []

    @engine.on(Events.EPOCH_COMPLETED)
    def note(_):
        values = [float(transform(torch.ones(1, 1))) for _ in range(2)]
        seen.append((*torch.rand(2).tolist(), *values, tuple(map(tuple, sampler))))

    run(engine, epochs)
    return seen


def test_an_epoch_is_a_function_of_seed_and_epoch(make_engine, run):
    one, other = draws(make_engine, run, 0, 4), draws(make_engine, run, 0, 4, noise=3)
    assert one == other
    assert len(set(one)) == 4, "epochs differ"
    for values in zip(*one, strict=True):
        assert len(set(values)) == 4, "and so does every single source of chance"


def test_seeds_differ(make_engine, run):
    for one, other in zip(draws(make_engine, run, 0, 2), draws(make_engine, run, 1, 2), strict=True):
        assert all(a != b for a, b in zip(one, other, strict=True))
