"""The order of scans against values computed by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from lib.activelearning.diversity import drawn, greedy_order, spread_order, typical_distance


def line(**at: float) -> dict[str, np.ndarray]:
    return {name: np.array([value]) for name, value in at.items()}


def names(order) -> list[str]:
    return [ranked.name for ranked in order]


def test_worth_by_hand():
    """a is taken at 0; b one typical distance away, c half of one, d far."""
    order = list(greedy_order({"b": 1.0, "c": 1.0, "d": 0.5}, line(a=0, b=2, c=-1, d=40), ["a"], typical=2.0))
    values = {ranked.name: ranked.value for ranked in order}
    assert values["b"] == pytest.approx(1 - math.exp(-2)) and values["c"] == pytest.approx(1 - math.exp(-0.5))
    assert values["d"] == pytest.approx(0.5)
    assert names(order) == ["b", "d", "c"]
    assert [ranked.distance for ranked in order] == pytest.approx([1.0, 19.0, 0.5])


def test_without_anything_near_the_most_interesting_comes_first():
    interest = {"a": 0.1, "b": 0.4, "c": 0.3}
    assert names(greedy_order(interest, line(a=0, b=50, c=100), [], 1.0)) == ["b", "c", "a"]


def test_a_look_alike_of_the_best_waits():
    """The two most interesting scans are copies; the second is offered after all others."""
    interest = {"best": 0.9, "copy": 0.89, "other": 0.4, "third": 0.3}
    at = line(best=0, copy=0.001, other=5, third=10)
    assert names(greedy_order(interest, at, [], typical_distance(at))) == ["best", "other", "third", "copy"]
    assert names(greedy_order({k: v for k, v in interest.items() if k != "best"}, at, ["best"], 5.0))[-1] == "copy"


def test_scans_without_features_get_the_median_discount():
    """b and c keep 1 - e^-2 and 1 - e^-8 of their interest; the median between them decides about the unknown."""
    at = line(a=0, b=1, c=2)
    middle = (2 - math.exp(-2) - math.exp(-8)) / 2
    first = {ranked.name: ranked.value for ranked in greedy_order({"b": 0.1, "c": 0.1, "new": 1.0}, at, ["a"], 1.0)}
    assert first["new"] == pytest.approx(middle)


def test_nothing_but_unknown_scans_and_nothing_at_all():
    assert names(greedy_order({"x": 0.2, "y": 0.3}, {}, ["z"], 1.0)) == ["y", "x"]
    assert names(greedy_order({}, line(a=0), ["a"], 1.0)) == []


def test_copies_alone_come_by_interest_then_name():
    at = line(a=0, b=0, c=0, d=0)
    assert names(greedy_order({"b": 0.1, "c": 0.2, "d": 0.2}, at, ["a"], 1.0)) == ["c", "d", "b"]


def test_clusters_are_visited_before_any_is_visited_twice():
    """Five scanners with four scans each, all equally interesting: the first five come from five scanners."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(5, 8)) * 10
    features = {f"{c}_{i}": centers[c] + rng.normal(size=8) * 0.1 for c in range(5) for i in range(4)}
    interest = {name: 0.3 + 0.01 * rng.random() for name in features}
    order = names(itertools.islice(greedy_order(interest, features, [], typical_distance(features)), 5))
    assert {name[0] for name in order} == set("01234")


def test_typical_distance_by_hand():
    assert typical_distance(line(a=0, b=1, c=3, d=10)) == pytest.approx(1.5)  # 1, 1, 2, 7
    assert typical_distance(line(a=0)) == typical_distance(line(a=0, b=0, c=0)) == 1.0


def test_spread_over_the_list_by_hand():
    assert list(spread_order(list("abcdefghi"), []))[:4] == ["a", "i", "e", "c"]
    assert next(spread_order(list("bcdefgh"), ["a"])) == "h"
    assert next(spread_order(list("bcdefgh"), ["a", "i"])) == "e"
    assert sorted(spread_order(list("cab"), ["d"])) == ["a", "b", "c"]


def test_drawn_is_even_and_stands_still():
    values = [drawn(f"scan_{i}") for i in range(2000)]
    assert drawn("scan_7") == values[7] and min(values) > 0 and max(values) < 1
    assert np.histogram(values, 4, (0, 1))[0] == pytest.approx([500] * 4, rel=0.15)
