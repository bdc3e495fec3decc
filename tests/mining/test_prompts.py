"""Prompts: what holds for every component, and a few computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mining.scenes import blobs, disk
from mnseg.errors import UserError
from mnseg.mining.prompts import (
    PromptSettings,
    component_box,
    depth_inside,
    find_components,
    find_specks,
    jittered,
    make_prompt,
)

SEEDS = st.integers(0, 10_000)
QUICK = settings(max_examples=15, deadline=None)


def prompts_of(seed: int, made_with: PromptSettings):
    probabilities = blobs(seed)
    mask = probabilities.argmax(axis=0)
    for index, component in find_components(mask, len(probabilities)):
        yield make_prompt(index, component, mask, probabilities[index], made_with), mask


def pixels(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.rint(points).astype(int).T)


@QUICK
@given(SEEDS)
def test_components_share_the_mask_out_among_them(seed):
    mask = blobs(seed).argmax(axis=0)
    total = np.zeros(mask.shape, dtype=int)
    for index, component in find_components(mask, 3):
        assert (mask[component] == index).all()
        total += component
    np.testing.assert_array_equal(total, mask > 0)


@QUICK
@given(SEEDS, st.integers(0, 200))
def test_specks_are_the_components_that_are_too_small(seed, smallest):
    mask = blobs(seed).argmax(axis=0)
    every = [(index, component.sum(), component_box(component)) for index, component in find_components(mask, 3)]
    large = [(index, c.sum(), component_box(c)) for index, c in find_components(mask, 3, smallest)]
    assert large == [each for each in every if each[1] >= smallest]
    assert list(find_specks(mask, 3, smallest)) == [each for each in every if each[1] < smallest]


@QUICK
@given(SEEDS)
def test_depth_is_the_distance_over_the_whole_image(seed):
    for _, component in find_components(blobs(seed).argmax(axis=0), 3):
        expected = ndimage.distance_transform_edt(np.pad(component, 1))[1:-1, 1:-1]
        np.testing.assert_array_equal(depth_inside(component), expected)


def test_the_ring_is_where_the_distance_over_the_whole_image_says():
    component = disk((60, 70), (20, 40), 9)
    prompt = make_prompt(1, component, component.astype(int), component.astype(np.float32),
                         PromptSettings(negative_points=10_000))  # fmt: skip
    distance = ndimage.distance_transform_edt(~component)
    radius = np.sqrt(component.sum() / np.pi)
    found = np.zeros_like(component)
    found[pixels(prompt.points[prompt.point_labels == 0])] = True
    np.testing.assert_array_equal(found, (distance >= 0.4 * radius) & (distance <= 0.8 * radius))


def test_components_touch_at_corners_but_not_across_classes():
    mask = np.zeros((5, 5), dtype=int)
    mask[0, 0] = mask[1, 1] = 1
    mask[1, 2] = 2
    mask[4, 4] = 1
    found = [(index, component.sum()) for index, component in find_components(mask, 3)]
    assert found == [(1, 2), (1, 1), (2, 1)]


@QUICK
@given(SEEDS, st.floats(0, 2))
def test_box_contains_its_component_and_lies_in_the_image(seed, margin):
    for prompt, mask in prompts_of(seed, PromptSettings(box_margin=margin)):
        row0, column0, row1, column1 = prompt.box
        rows, columns = np.nonzero(prompt.component)
        assert row0 <= rows.min() and rows.max() + 1 <= row1
        assert column0 <= columns.min() and columns.max() + 1 <= column1
        assert row0 >= 0 and column0 >= 0 and row1 <= mask.shape[0] and column1 <= mask.shape[1]


def test_box_by_hand():
    component = np.zeros((20, 30), dtype=bool)
    component[4:9, 10:20] = True
    assert component_box(component) == (4, 10, 9, 20)
    assert component_box(component, 0.2) == (3, 8, 10, 22)
    assert component_box(component, 1.0) == (0, 0, 14, 30)


@QUICK
@given(SEEDS, st.sampled_from(["distance", "confidence"]), st.integers(0, 6), st.integers(0, 6))
def test_positive_points_lie_inside_and_negative_ones_on_no_component(seed, selection, positive, negative):
    made_with = PromptSettings(positive_points=positive, negative_points=negative, point_selection=selection)
    for prompt, mask in prompts_of(seed, made_with):
        inside, outside = (prompt.points[prompt.point_labels == label] for label in (1, 0))
        assert prompt.component[pixels(inside)].all()
        assert (mask[pixels(outside)] == 0).all()
        assert len(inside) == min(positive, prompt.component.sum())
        assert len(outside) <= negative
        assert len({tuple(point) for point in prompt.points}) == len(prompt.points)


def test_points_of_a_disk():
    component = disk((61, 61), (30, 30), 10)
    probability = np.full(component.shape, 0.6)
    probability[30, 36] = 0.99
    mask = component.astype(int)
    deep = make_prompt(1, component, mask, probability, PromptSettings(positive_points=1, negative_points=8))
    assert deep.points[0].tolist() == [30, 30]
    sure = make_prompt(1, component, mask, probability, PromptSettings(positive_points=1, point_selection="confidence"))
    assert sure.points[0].tolist() == [30, 36]
    # The ring: 0.4 to 0.8 radii of the disk away from it, on all sides.
    radii = np.linalg.norm(deep.points[1:] - 30, axis=1)
    assert len(radii) == 8 and radii.min() > 13.9 and radii.max() < 18.1
    assert np.abs(deep.points[1:].mean(axis=0) - 30).max() < 3


def test_a_component_that_fills_the_image_has_no_negative_points():
    component = np.ones((12, 12), dtype=bool)
    prompt = make_prompt(1, component, component.astype(int), component * 1.0, PromptSettings())
    assert prompt.point_labels.tolist() == [1, 1, 1]


@QUICK
@given(SEEDS, st.floats(0, 0.9))
def test_a_moved_prompt_is_a_prompt(seed, jitter):
    for prompt, mask in prompts_of(seed, PromptSettings()):
        moved = jittered(prompt, jitter, np.random.default_rng(seed))
        row0, column0, row1, column1 = moved.box
        assert 0 <= row0 < row1 <= mask.shape[0] and 0 <= column0 < column1 <= mask.shape[1]
        assert moved.component[pixels(moved.points[moved.point_labels == 1])].all()
        assert not moved.component[pixels(moved.points[moved.point_labels == 0])].any()
        size = np.subtract(prompt.box[2:], prompt.box[:2])
        assert (np.abs(moved.points - prompt.points) <= jitter * size + 1e-9).all()
        assert (np.abs(np.subtract(moved.box, prompt.box)) <= np.maximum(jitter * np.tile(size, 2), 1) + 1e-9).all()


def test_no_jitter_changes_nothing():
    prompt, _ = next(prompts_of(3, PromptSettings()))
    moved = jittered(prompt, 0.0, np.random.default_rng(0))
    assert moved.box == prompt.box
    np.testing.assert_array_equal(moved.points, prompt.points)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("min_component_size", 1), ("box_margin", -0.1), ("positive_points", -1), ("negative_points", 1.5),
     ("point_selection", "random")],
)  # fmt: skip
def test_wrong_settings_are_named(setting, value):
    with pytest.raises(UserError, match=setting):
        PromptSettings(**{setting: value})
