"""Embeddings on disk: the encoder runs once an image, and nothing out of date is served."""

from __future__ import annotations

import logging
import os

import numpy as np
import pytest
import torch

from mining.scenes import Oracle, certain, disk
from mnseg.errors import UserError
from mnseg.mining import EmbeddingCache, Miner, build_promptable

SHAPE = (40, 50)
STRUCTURE = disk(SHAPE, (20, 25), 10)


class Counting:
    """Embeds an image as a ramp that depends on it; counts."""

    def __init__(self, identity="v1", values=1000):
        self.identity, self.values, self.embedded = identity, values, 0

    def embed(self, image):
        self.embedded += 1
        return {"a": torch.arange(self.values) * float(image.mean()), "b": torch.ones(2, 3)[:, ::2]}


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SHAPE, 3)).astype(np.uint8)


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_each_image_is_embedded_once(tmp_path):
    model, cache = Counting(), EmbeddingCache(tmp_path / "cache")
    first = [cache.get(model, image(i)) for i in range(3)]
    again = [EmbeddingCache(tmp_path / "cache").get(model, image(i)) for i in range(3)]
    assert model.embedded == 3
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not same(first[0], first[1])


def test_other_weights_or_pixels_are_embedded_again(tmp_path):
    cache, model = EmbeddingCache(tmp_path), Counting()
    cache.get(model, image(0))
    changed = image(0)
    changed[0, 0, 0] ^= 1
    cache.get(model, changed)
    assert model.embedded == 2
    other = Counting("v2")
    cache.get(other, image(0))
    assert other.embedded == 1
    cache.get(model, image(0).reshape(SHAPE[1], SHAPE[0], 3))  # the same bytes
    assert model.embedded == 3


def test_damaged_files_are_made_again(tmp_path, caplog):
    model, cache = Counting(), EmbeddingCache(tmp_path)
    expected = cache.get(model, image(0))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        assert same(cache.get(model, image(0)), expected)
    assert "cannot be read" in caplog.text and model.embedded == 2
    assert same(cache.get(model, image(0)), expected) and model.embedded == 2


def test_the_folder_stays_within_its_bound(tmp_path, caplog):
    model = Counting()
    cache = EmbeddingCache(tmp_path, max_gb=20_000e-9)  # two files of some 4.2 kB, with 4 kB of allowance
    with caplog.at_level(logging.WARNING):
        for i in range(6):
            cache.get(model, image(i))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 20_000
    assert caplog.text.count("is full") == 1
    kept = len(list(tmp_path.iterdir()))
    assert 2 <= kept < 6
    for i in range(kept):  # the first ones stay: each image comes back only after all others
        cache.get(model, image(i))
    assert model.embedded == 6


def test_files_of_earlier_processes_make_room_the_oldest_first(tmp_path):
    model = Counting()
    for i in range(3):
        EmbeddingCache(tmp_path).get(model, image(i))
        new = max(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        os.utime(new, (1000 + i, 1000 + i))
    oldest = min(tmp_path.iterdir(), key=lambda file: file.stat().st_mtime)
    EmbeddingCache(tmp_path, max_gb=17_500e-9).get(model, image(9))
    assert not oldest.exists()
    assert len(list(tmp_path.iterdir())) == 3


def test_files_that_another_run_renames_meanwhile_do_not_matter(tmp_path):
    (tmp_path / "gone.tmp").symlink_to(tmp_path / "renamed")  # listed, and not there when looked at
    model, cache = Counting(), EmbeddingCache(tmp_path)
    cache.get(model, image(0))
    cache.get(model, image(0))
    assert model.embedded == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/cache cannot be written"):
        EmbeddingCache(tmp_path / "file" / "cache").get(Counting(), image(0))


def test_a_folder_that_is_not_needed_may_fail(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    model, cache = Counting(), EmbeddingCache(tmp_path / "file" / "cache", needed=False)
    for _ in range(2):
        assert cache.get(model, image(0)).keys() == model.embed(image(0)).keys()
    assert caplog.text.count("it is no longer used") == 1


def test_the_random_walker_leaves_no_files(tmp_path):
    cache = EmbeddingCache(tmp_path / "cache")
    assert cache.get(build_promptable("random-walker"), image(0)) == {}
    assert not (tmp_path / "cache").exists()


def test_a_second_round_calls_the_encoder_zero_times(tmp_path):
    model = Oracle([STRUCTURE])
    for count in (4, 4):
        miner = Miner(model, cache=EmbeddingCache(tmp_path))
        labels = [miner.mine(str(i), image(i), certain(STRUCTURE)).label for i in range(4)]
        assert model.embedded == count
        assert all((label == STRUCTURE).all() for label in labels)
