"""The sample of foreground voxels that steers crops."""

from __future__ import annotations

import io

import numpy as np
import torch

from mnseg.data.pseudo_foreground import PseudoForeground, sample_foreground


def test_all_foreground_voxels_where_they_fit():
    mask = np.zeros((3, 4, 5), dtype=np.uint8)
    mask[1, 2, 3], mask[0, 0, 4] = 1, 2
    assert sorted(sample_foreground(mask)) == sorted([1 * 20 + 2 * 5 + 3, 4])
    assert sorted(sample_foreground(torch.as_tensor(mask)[None])) == sorted(sample_foreground(mask))


def test_small_classes_keep_their_share():
    mask = np.ones((20, 20, 20), dtype=np.uint8)
    mask[0], mask[1, 0, :5] = 0, 2
    drawn = sample_foreground(mask, limit=100)
    values = mask.ravel()[drawn]
    assert len(drawn) == len(set(drawn)) == 55
    assert (values == 1).sum() == 50 and (values == 2).sum() == 5
    assert not (values == 0).any()


def test_no_voxel_is_drawn_twice():
    drawn = sample_foreground(np.ones((5, 5, 5), dtype=np.uint8), limit=120)
    assert len(drawn) == len(set(drawn)) == 120


def test_the_draw_is_a_function_of_the_seed():
    mask = np.ones((9, 9, 9))
    assert (sample_foreground(mask, 50, seed=1) == sample_foreground(mask, 50, seed=1)).all()
    assert (sample_foreground(mask, 50, seed=1) != sample_foreground(mask, 50, seed=2)).any()


def test_empty_mask():
    assert sample_foreground(np.zeros((2, 2, 2))).size == 0


def test_state_survives_a_weights_only_file():
    store = PseudoForeground()
    store.update("a", np.array([3, 5]), epoch=7)
    store.update("b", np.array([], dtype=np.int64), epoch=9)
    file = io.BytesIO()
    torch.save(store.state_dict(), file)
    file.seek(0)
    again = PseudoForeground()
    again.load_state_dict(torch.load(file, weights_only=True))
    assert again.get("a").tolist() == [3, 5] and again.get("b").size == 0
    assert again.get("c") is None
    assert again.refreshed == {"a": 7, "b": 9}
