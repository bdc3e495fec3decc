"""From a prediction to a pseudo-label: overlaps, rejections, and what must not make a difference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mining.scenes import Oracle, blobs, certain, disk
from mnseg.errors import UserError
from mnseg.mining import miner as miner_module
from mnseg.mining.miner import KEPT, NOTHING_FOUND, TOO_SMALL, Miner
from mnseg.mining.quality import AGREEMENT, PREDICTED_IOU, STABILITY

SHAPE = (60, 80)
IMAGE = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3)).astype(np.uint8)
LEFT, RIGHT = disk(SHAPE, (30, 20), 12), disk(SHAPE, (30, 58), 10)


def guess(*structures: np.ndarray) -> np.ndarray:
    """A network that sees each structure, as class 1, 2, …, two pixels too high."""
    mask = np.zeros(SHAPE, dtype=int)
    for index, structure in enumerate(structures, start=1):
        mask[np.roll(structure, -2, axis=0)] = index
    return certain(mask, classes=max(2, len(structures) + 1))


def test_the_large_models_mask_becomes_the_label():
    model = Oracle([LEFT, RIGHT])
    mined = Miner(model).mine("a", IMAGE, guess(LEFT, RIGHT))
    assert mined.decision == KEPT and mined.label.dtype == np.uint8
    np.testing.assert_array_equal(mined.label, LEFT + 2 * RIGHT)
    assert model.embedded == 1 and len(model.calls) == 1  # all prompts of an image in one call
    assert len(model.calls[0]) == 2 + 2 * 3
    row = mined.components[0]
    moved = np.roll(LEFT, -2, axis=0)
    assert row["class"] == 1 and row["size"] == LEFT.sum() and row["box"] == (16, 8, 41, 33)
    assert row["agreement"] == pytest.approx((LEFT & moved).sum() / (LEFT | moved).sum())
    assert (row["predicted_iou"], row["stability"], row["kept"], row["reason"]) == (0.9, 1.0, True, "")


def test_gray_images_are_mined_too():
    assert Miner(Oracle([LEFT])).mine("a", IMAGE[..., 0], guess(LEFT)).decision == KEPT


def test_nothing_found_does_not_ask_the_model():
    model = Oracle([LEFT])
    mined = Miner(model).mine("a", IMAGE, guess())
    assert (mined.decision, mined.label, mined.components) == (NOTHING_FOUND, None, [])
    assert model.embedded == 0 and not model.calls


def test_specks_are_noise():
    probabilities = guess(LEFT)
    probabilities[:, 2, 70:73] = [[0.1], [0.9]]
    mined = Miner(Oracle([LEFT]), min_component_size=4 / IMAGE[..., 0].size).mine("a", IMAGE, probabilities)
    assert mined.decision == KEPT
    np.testing.assert_array_equal(mined.label, LEFT)
    assert [row["reason"] for row in mined.components] == ["", TOO_SMALL]
    assert mined.components[1]["predicted_iou"] is None
    only = Miner(Oracle([LEFT]), min_component_size=0.5).mine("a", IMAGE, probabilities)
    assert only.decision == NOTHING_FOUND and len(only.components) == 2


@pytest.mark.parametrize(
    ("reason", "model", "limits"),
    [
        (PREDICTED_IOU, Oracle([LEFT], quality=0.69), {}),
        (AGREEMENT, Oracle([RIGHT]), {}),
        (STABILITY, Oracle([], answer=lambda prompt: (disk(SHAPE, prompt.box[:2], 20)[None], np.array([0.9]))),
         {"min_agreement": 0.0, "jitter": 0.9}),
    ],
)  # fmt: skip
def test_each_quality_can_reject(reason, model, limits):
    mined = Miner(model, **limits).mine("a", IMAGE, guess(LEFT))
    assert (mined.decision, mined.label) == (reason, None)
    assert mined.components[0]["reason"] == reason and not mined.components[0]["kept"]
    anything = Miner(model, min_predicted_iou=0, min_agreement=0, min_stability=0)
    assert anything.mine("a", IMAGE, guess(LEFT)).decision == KEPT


def test_an_empty_mask_is_no_find_whatever_the_thresholds():
    empty = Oracle([], answer=lambda prompt: (np.zeros((1, *SHAPE), dtype=bool), np.array([0.9])))
    anything = Miner(empty, min_predicted_iou=0, min_agreement=0, min_stability=0, jitter_count=0)
    mined = anything.mine("a", IMAGE, guess(LEFT))
    assert (mined.decision, mined.label) == (AGREEMENT, None)


def half_good(prompt):
    """Sure of the left structure alone."""
    left = (LEFT & prompt.component).any()
    return (LEFT if left else RIGHT)[None], np.array([0.9 if left else 0.1])


def test_a_dropped_component_rejects_the_image_unless_asked_otherwise():
    model = Oracle([], answer=half_good)
    mined = Miner(model).mine("a", IMAGE, guess(LEFT, RIGHT))
    assert (mined.decision, mined.label) == (PREDICTED_IOU, None)
    assert [row["kept"] for row in mined.components] == [True, False]
    part = Miner(model, partial_images="background").mine("a", IMAGE, guess(LEFT, RIGHT))
    assert part.decision == KEPT
    np.testing.assert_array_equal(part.label, LEFT)


@pytest.mark.parametrize(("sure_of_left", "winner"), [(0.95, 1), (0.1, 2)])
def test_where_masks_overlap_the_better_one_wins(sure_of_left, winner):
    """The wide mask agrees little with its component: it wins where the model is hardly sure of the other."""
    wide = disk(SHAPE, (30, 40), 29)

    def answer(prompt):
        left = (LEFT & prompt.component).any()
        return (LEFT if left else wide)[None], np.array([sure_of_left if left else 0.9])

    miner = Miner(Oracle([], answer=answer), min_predicted_iou=0, min_agreement=0)
    mined = miner.mine("a", IMAGE, guess(LEFT, RIGHT))
    assert (LEFT & wide).any()
    expected = LEFT + 2 * (wide & ~LEFT) if winner == 1 else 2 * wide + (LEFT & ~wide)
    np.testing.assert_array_equal(mined.label, expected)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_the_order_of_components_does_not_matter(seed, random):
    probabilities, original = blobs(seed), miner_module.find_components
    image = (probabilities[0] * 255).astype(np.uint8)

    def answer(prompt):  # depends on all that a prompt says, and overlaps with others
        middle = np.mean([prompt.box[:2], prompt.box[2:]], axis=0)
        radius = 3 + np.sqrt(prompt.component.sum() / 3) + prompt.points[:, 0].mean() / 20
        return disk(image.shape, middle, radius)[None], np.array([1 / (1 + radius % 1)])

    def shuffled(*args):
        found = list(original(*args))
        random.shuffle(found)
        return found

    setup = {"min_component_size": 0.0, "min_agreement": 0.0, "partial_images": random.choice(["reject", "background"])}
    expected = Miner(Oracle([], answer=answer), **setup).mine("a", image, probabilities)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(miner_module, "find_components", shuffled)
        mined = Miner(Oracle([], answer=answer), **setup).mine("a", image, probabilities)
    assert mined.decision == expected.decision
    np.testing.assert_array_equal(mined.label, expected.label)
    assert sorted(map(repr, mined.components)) == sorted(map(repr, expected.components))


def test_jitter_depends_on_the_seed_alone():
    boxes = []
    for seed in (0, 0, 1):
        model = Oracle([LEFT, RIGHT])
        Miner(model, seed=seed).mine("a", IMAGE, guess(LEFT, RIGHT))
        boxes.append([prompt.box for prompt in model.calls[0]])
    assert boxes[0] == boxes[1] != boxes[2]
    assert boxes[0][:2] == boxes[2][:2]  # the prompts themselves are not drawn


def test_without_jitter_stability_is_not_measured():
    model = Oracle([LEFT])
    mined = Miner(model, jitter_count=0).mine("a", IMAGE, guess(LEFT))
    assert mined.decision == KEPT and mined.components[0]["stability"] is None and len(model.calls[0]) == 1


@pytest.mark.parametrize(
    ("setting", "value"),
    [("jitter", 1.0), ("jitter_count", -1), ("partial_images", "keep"), ("min_stability", 2), ("box_margin", -1)],
)
def test_wrong_settings_are_named(setting, value):
    with pytest.raises(UserError, match=setting):
        Miner(Oracle([]), **{setting: value})


def test_sizes_must_fit():
    with pytest.raises(ValueError, match="case-7"):
        Miner(Oracle([])).mine("case-7", IMAGE, np.zeros((2, 60, 79)))
