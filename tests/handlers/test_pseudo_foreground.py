from __future__ import annotations

from types import SimpleNamespace

import torch
from ignite.engine import Events
from monai.data import Dataset
from monai.inferers import SimpleInferer

from mnseg.data.pseudo_foreground import PseudoForeground
from mnseg.handlers import PseudoForegroundHandler


class Threshold(torch.nn.Module):
    """Foreground where the image is positive; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.modes = 0, set()

    def forward(self, x):
        self.calls += 1
        self.modes.add((self.training, torch.is_grad_enabled()))
        return torch.cat([-x, x], dim=1)


def attach(engine, cases: int, **options) -> SimpleNamespace:
    """Case i has its only foreground at flat index i; the first two are labeled and not in `indices`."""
    items = []
    for i in range(cases):
        image = -torch.ones(1, 4, 5, 6)
        image.view(-1)[i] = 1
        items.append({"image": image, "case": f"c{i}"})
    store, network = PseudoForeground(), Threshold()
    PseudoForegroundHandler(store, Dataset(items), range(2, cases), network, SimpleInferer(), **options).attach(engine)
    calls = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: calls.append(network.calls))
    return SimpleNamespace(store=store, network=network, calls=calls)


def test_finds_the_foreground_of_unlabeled_cases(make_engine, run):
    engine = make_engine(num_unlabeled=1)
    seen = attach(engine, 5)
    run(engine, 1)
    assert {case: values.tolist() for case, values in seen.store.indices.items()} == {"c2": [2], "c3": [3], "c4": [4]}
    assert seen.network.modes == {(False, False)}


def test_only_when_unlabeled_patches_are_drawn_and_due(make_engine, run):
    engine = make_engine()
    seen = attach(engine, 5, interval=3)

    @engine.on(Events.EPOCH_COMPLETED(once=2))
    def start(engine):
        engine.state.num_unlabeled = 2

    run(engine, 9)
    assert seen.calls == [0, 0, 3, 3, 3, 6, 6, 6, 9]  # epochs 3, 6, 9


def test_due_is_counted_from_the_last_refresh(make_engine, run):
    """Not from the turn of the scan that has waited longest: of a pool of two turns, one is always older."""
    engine = make_engine(num_unlabeled=1)
    seen = attach(engine, 10, interval=2, max_cases=4)
    run(engine, 6)
    assert seen.calls == [4, 4, 8, 8, 12, 12]  # epochs 1, 3, 5


def test_predicts_in_the_precision_of_the_training(make_engine, run):
    engine = make_engine(num_unlabeled=1)
    engine.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    seen = attach(engine, 5)
    mixed = []
    seen.network.register_forward_pre_hook(lambda *_: mixed.append(torch.is_autocast_enabled("cpu")))
    run(engine, 1)
    assert mixed == [True] * 3


def test_keeps_at_most_limit_voxels(make_engine, run):
    engine = make_engine(num_unlabeled=1)
    seen = attach(engine, 3, limit=5)
    seen.network.forward = lambda x: torch.cat([x, -x], dim=1)  # foreground everywhere but in one voxel
    run(engine, 1)
    assert len(seen.store.indices["c2"]) == 5


def test_cost_does_not_grow_with_the_pool(make_engine, run):
    """At most `max_cases` predictions a refresh; those that have waited longest come first."""
    for cases in (12, 120):
        engine = make_engine(num_unlabeled=1)
        seen = attach(engine, cases, interval=1, max_cases=4)
        run(engine, 3)
        assert seen.calls == [4, 8, 12]
        if cases == 120:
            assert sorted(seen.store.refreshed.items(), key=lambda pair: int(pair[0][1:])) == [
                (f"c{i}", 1 + (i - 2) // 4) for i in range(2, 14)
            ]
    small = make_engine(num_unlabeled=1)
    seen = attach(small, 8, interval=1, max_cases=4)
    run(small, 2)
    assert sorted(seen.store.refreshed.values()) == [1, 1, 2, 2, 2, 2], "two that had never been, then the stalest"


def test_all_cases_and_no_cases(make_engine, run):
    engine = make_engine(num_unlabeled=1)
    seen = attach(engine, 70, max_cases=None)
    run(engine, 1)
    assert seen.calls == [68]
    engine = make_engine(num_unlabeled=1)
    seen = attach(engine, 2)
    run(engine, 1)
    assert seen.calls == [0]
