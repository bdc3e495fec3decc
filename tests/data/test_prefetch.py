"""PrefetchLoader: MONAI's batches, one made ahead, and errors where they belong."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, RandGaussianNoised
from torch.utils.data import Sampler

from mnseg.data.prefetch import PrefetchLoader, has_spare_cores


class Batches(Sampler):
    """The batches of an epoch; what is to be drawn may be set until the first one is asked for."""

    def __init__(self, batches: list[list[int]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def loader(kind: type[DataLoader], batches: list[list[int]], **kwargs) -> DataLoader:
    transform = Compose([RandGaussianNoised(keys="image", prob=1.0)]).set_random_state(3)
    items = [{"image": torch.full((1, 4), float(i))} for i in range(6)]
    return kind(Dataset(items, transform), batch_sampler=Batches(batches), **kwargs)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_batches_are_those_of_monai_epoch_after_epoch(workers):
    batches = [[0, 3], [1], [5, 2]]
    found = {}
    for kind in (DataLoader, PrefetchLoader):
        torch.manual_seed(0)  # the base of the workers' seeds
        epochs = loader(kind, batches, num_workers=workers)
        found[kind] = [batch["image"] for _ in range(2) for batch in epochs]
        found[kind].append(torch.rand(1))  # torch's own numbers are used up alike
    assert len(found[PrefetchLoader]) == 7
    assert all(torch.equal(a, b) for a, b in zip(found[DataLoader], found[PrefetchLoader], strict=True))
    assert not torch.equal(found[PrefetchLoader][0], found[PrefetchLoader][3])  # each epoch has noise of its own


class Watched(Dataset):
    """Items that say when they are made."""

    def __init__(self) -> None:
        self.made = [threading.Event() for _ in range(4)]

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        self.made[index].set()
        if index == 3:
            raise OSError("case 3 cannot be read")
        return index


def test_one_batch_is_made_ahead_and_no_more():
    data = Watched()
    batches = iter(PrefetchLoader(data, batch_sampler=Batches([[0], [1], [2]])))
    assert not data.made[0].is_set()  # what an epoch's handlers set still counts
    next(batches)
    assert data.made[1].wait(10)  # while the first is learned from
    assert not data.made[2].wait(0.2)


def test_in_turn_where_it_is_told_so():
    data = Watched()
    batches = iter(PrefetchLoader(data, batch_sampler=Batches([[0], [1], [2]]), ahead=False))
    assert [int(next(batches)), data.made[1].wait(0.2), int(next(batches))] == [0, False, 1]


@pytest.mark.parametrize(("device", "threads", "cores", "spare"), [
    ("cpu", 1, 2, True), ("cpu", 2, 2, False), ("cpu", 1, 1, False), ("cpu", 4, 8, True), ("cpu", 5, 8, False),
    ("cuda", 8, 8, True),
])  # fmt: skip
def test_cores_are_spare_where_two_teams_of_threads_fit(monkeypatch, device, threads, cores, spare):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert has_spare_cores(device) is spare
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert has_spare_cores(device) is spare


def test_the_sampler_is_read_when_the_first_batch_is_asked_for():
    sampler = Batches([[0]])
    epochs = PrefetchLoader(Watched(), batch_sampler=sampler)
    batches = iter(epochs)
    sampler.batches = [[2], [1]]
    assert [int(batch) for batch in batches] == [2, 1]


def test_an_error_comes_at_its_batch_and_the_next_epoch_can_begin():
    epochs = PrefetchLoader(Watched(), batch_sampler=Batches([[0], [3], [1]]))
    for _ in range(2):
        batches = iter(epochs)
        assert int(next(batches)) == 0
        with pytest.raises(OSError, match="case 3 cannot be read"):
            next(batches)


def test_no_thread_is_left_of_an_epoch_that_ended_or_was_left():
    before = threading.active_count()
    epochs = loader(PrefetchLoader, [[0], [1], [2]])
    assert len([np.asarray(batch["image"]) for batch in epochs]) == 3
    left = iter(epochs)
    next(left)
    left.close()
    assert threading.active_count() == before
