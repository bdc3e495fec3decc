"""Eq. 10 and 11 over whole schedules, and what the sampler draws."""

from __future__ import annotations

from collections import Counter
from math import acos, comb, pi

import pytest

from mnseg.data.lrg_sampler import LRGBatchSampler, lrg_num_unlabeled
from mnseg.engines.stages import learning_rate_factor
from mnseg.errors import UserError

EPOCHS = 7000


def schedule(batch_size: int, min_labeled: int = 1, rate: float = 1e-4) -> list[int]:
    """b_u in every stage-2 epoch under the paper's cosine from `rate` to 0."""
    rates = [rate * learning_rate_factor(epoch, 0, EPOCHS) for epoch in range(1, EPOCHS + 1)]
    return [lrg_num_unlabeled(lr, rate, 0.0, batch_size, min_labeled) for lr in rates]


@pytest.mark.parametrize(
    ("batch_size", "shares"),
    # On paper b_u reaches k where (1 - cos(pi t)) / 2 = k / B, that is t = acos(1 - 2 k / B) / pi.
    [(5, [0.29517, 0.43591, 0.56409, 0.70483]), (4, [1 / 3, 0.5, 2 / 3]), (2, [0.5])],
)
def test_whole_cosine_by_hand(batch_size, shares):
    assert shares == pytest.approx([acos(1 - 2 * k / batch_size) / pi for k in range(1, batch_size)], abs=1e-5)
    numbers = schedule(batch_size)
    assert numbers[0] == 0 and numbers[-1] == batch_size - 1
    for k, share in enumerate(shares, start=1):
        assert numbers.index(k) == pytest.approx(share * EPOCHS, abs=1)
    assert numbers == sorted(numbers), "b_u never falls while the rate falls"


def test_no_unlabeled_patch_for_the_first_295_permille_of_stage_2():
    numbers = schedule(5)
    assert numbers.count(0) / EPOCHS == pytest.approx(0.295, abs=5e-4)
    assert schedule(2).count(0) / EPOCHS == pytest.approx(0.5, abs=5e-4)


@pytest.mark.parametrize("rate", [1e-4, 1e-3, 0.3])
def test_depends_on_the_share_of_the_way_alone(rate):
    assert schedule(5, rate=rate) == schedule(5)
    assert lrg_num_unlabeled(0.55, 1.0, 0.1, 4) == 2  # (1 - 0.55) / (1 - 0.1) * 4


def test_min_labeled():
    assert lrg_num_unlabeled(0.0, 1.0, 0.0, 5, min_labeled=0) == 5  # the bare equation
    assert lrg_num_unlabeled(0.0, 1.0, 0.0, 5) == 4
    assert lrg_num_unlabeled(0.0, 1.0, 0.0, 5, min_labeled=3) == 2
    assert max(schedule(5, min_labeled=2)) == 3


@pytest.mark.parametrize("k", range(6))
def test_rounding_does_not_lose_a_whole_number(k):
    assert lrg_num_unlabeled(1 - k / 5, 1.0, 0.0, 5, min_labeled=0) == k


def test_rates_outside_the_schedule_are_clamped():
    assert lrg_num_unlabeled(2.0, 1.0, 0.0, 5) == 0
    assert lrg_num_unlabeled(-1.0, 1.0, 0.0, 5) == 4


def test_final_rate_must_be_lower():
    with pytest.raises(UserError, match="learning_rate_final"):
        lrg_num_unlabeled(1e-4, 1e-4, 1e-4, 5)


LABELED, UNLABELED = list(range(8)), list(range(8, 80))


def sampler(epoch_length: int = 8, **values: int) -> LRGBatchSampler:
    result = LRGBatchSampler(LABELED, UNLABELED, 5, epoch_length)
    for name, value in values.items():
        setattr(result, name, value)
    return result


@pytest.mark.parametrize("b_u", range(6))
def test_labeled_first_and_b_u_behind(b_u):
    drawn = sampler(num_unlabeled=b_u)
    batches = list(drawn)
    assert len(batches) == len(drawn) == 8
    for batch in batches:
        assert [index in LABELED for index in batch] == [True] * (5 - b_u) + [False] * b_u


def test_an_epoch_is_a_function_of_seed_and_epoch():
    first, second = sampler(num_unlabeled=2), sampler(num_unlabeled=2)
    list(first)  # an earlier epoch leaves no trace
    first.set_epoch(7)
    second.set_epoch(7)
    assert list(first) == list(second)
    second.set_epoch(8)
    assert list(first) != list(second)
    other = LRGBatchSampler(LABELED, UNLABELED, 5, 8, seed=1)
    other.num_unlabeled = 2
    other.set_epoch(7)
    assert list(first) != list(other)


def test_every_case_is_drawn_equally_often():
    """72 batches of 3 labeled and 2 unlabeled: each labeled case 27 times, each unlabeled one twice."""
    counts = Counter(index for batch in sampler(72, num_unlabeled=2) for index in batch)
    assert {counts[i] for i in LABELED} == {27}
    assert {counts[i] for i in UNLABELED} == {2}


def test_over_epochs_no_case_is_left_out():
    counts: Counter = Counter()
    drawn = sampler(num_unlabeled=3)
    for epoch in range(300):
        drawn.set_epoch(epoch)
        counts.update(index for batch in drawn for index in batch)
    # 300 * 8 * 3 unlabeled draws over 72 cases: 100 each, standard deviation about 8.
    assert all(60 < counts[i] < 140 for i in UNLABELED)
    assert all(500 < counts[i] < 700 for i in LABELED)


def test_uniform_leaves_most_batches_without_a_label():
    drawn = sampler(16, uniform=True)
    batches = []
    for epoch in range(250):
        drawn.set_epoch(epoch)
        batches += list(drawn)
    without = sum(all(i in UNLABELED for i in batch) for batch in batches) / len(batches)
    # Without replacement C(72, 5) / C(80, 5) = 0.582; METHOD.md's 59 % is 0.9 ** 5. Standard deviation 0.008.
    assert without == pytest.approx(comb(72, 5) / comb(80, 5), abs=0.03)
    counts = Counter(i for batch in batches for i in batch)
    assert sum(counts[i] for i in LABELED) == 0.1 * 5 * len(batches)
    for batch in batches:
        kinds = [i in LABELED for i in batch]
        assert kinds == sorted(kinds, reverse=True), "labeled first"


def test_epoch_length_does_not_depend_on_the_pool():
    small, large = LRGBatchSampler([0], [1], 4, 8), LRGBatchSampler([0], range(1, 100_000), 4, 8)
    for drawn in (small, large):
        drawn.num_unlabeled = 2
        assert len(list(drawn)) == 8


def test_bad_settings():
    with pytest.raises(UserError, match="no labeled case"):
        LRGBatchSampler([], [1], 4, 8)
    with pytest.raises(UserError, match="batch_size is 0"):
        LRGBatchSampler([0], [1], 0, 8)
    without = LRGBatchSampler([0], [], 4, 8)
    without.num_unlabeled = 1
    with pytest.raises(ValueError, match="does not fit"):
        list(without)
    assert list(LRGBatchSampler([0], [], 2, 1)) == [[0, 0]]


@pytest.mark.parametrize("b_u", [0, 1, 3])
def test_processes_divide_one_joint_batch(b_u):
    """Two processes with B = 4 draw together what one process with B = 8 draws."""
    whole = LRGBatchSampler(LABELED, UNLABELED, 8, 30)
    parts = [LRGBatchSampler(LABELED, UNLABELED, 4, 30, rank=rank, world_size=2) for rank in (0, 1)]
    for drawn, number in ((whole, 2 * b_u), (parts[0], b_u), (parts[1], b_u)):
        drawn.num_unlabeled = number
        drawn.set_epoch(5)
    for joint, first, second in zip(whole, *parts, strict=True):
        assert len(first) == len(second) == 4
        for part in (first, second):
            assert [index in LABELED for index in part] == [True] * (4 - b_u) + [False] * b_u
        assert sorted(first + second) == sorted(joint)
        assert len(set(first + second)) == 8, "disjoint"


def test_no_case_twice_in_a_batch_unless_the_pool_is_smaller():
    drawn = LRGBatchSampler(range(5), [], 4, 500)
    assert all(len(set(batch)) == 4 for batch in drawn)
    counts = [Counter(batch) for batch in LRGBatchSampler(range(3), [], 8, 50)]
    assert all(sorted(count.values()) == [2, 3, 3] for count in counts)
    assert Counter(i for batch in drawn for i in batch) == dict.fromkeys(range(5), 400)
