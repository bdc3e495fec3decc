from __future__ import annotations

from math import cos, floor, pi

import pytest
import torch
from ignite.engine import Events

from mnseg.data.lrg_sampler import LRGBatchSampler
from mnseg.errors import UserError
from mnseg.handlers import LRGSamplingHandler, TwoStageLRHandler

STAGE_1, STAGE_2, B = 2, 20, 5


def optimizer(rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def published(make_engine, run, unlabeled: int = 10, **options) -> tuple:
    sampler = LRGBatchSampler([0, 1], range(2, 2 + unlabeled), B, 2)
    optimizers = optimizer(1e-4), optimizer(1e-3)
    engine = make_engine(stage_1=STAGE_1)
    TwoStageLRHandler(optimizers, STAGE_1, STAGE_2, warmup_epochs=2).attach(engine)
    LRGSamplingHandler(sampler, *optimizers, STAGE_2, **options).attach(engine)
    values = []
    engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda e: values.append((sampler.num_unlabeled, sampler.uniform, e.state.num_unlabeled))
    )
    run(engine, STAGE_1 + STAGE_2)
    return [v[0] for v in values], [v[1] for v in values], [v[2] for v in values]


def test_learning_rate_mode_is_equation_10(make_engine, run):
    numbers, uniform, shown = published(make_engine, run)
    expected = [min(floor((1 - cos(pi * k / STAGE_2)) / 2 * B + 1e-9), B - 1) for k in range(STAGE_2)]
    assert numbers == shown == [0, 0, *expected]
    assert not any(uniform)


def test_a_low_rate_in_the_warm_up_is_not_a_high_b_u(make_engine, run):
    numbers, _, _ = published(make_engine, run)
    assert numbers[:STAGE_1] == [0] * STAGE_1


def test_the_rate_of_the_student_counts(make_engine, run):
    """Only the 2D network's rate falls: b_u rises in the even epochs of stage 2 alone."""
    sampler = LRGBatchSampler([0], [1, 2], B, 2)
    constant, falling = optimizer(1e-4), optimizer(1e-3)
    constant.param_groups[0]["initial_lr"] = 1e-4
    engine = make_engine(stage_1=STAGE_1)
    TwoStageLRHandler([falling], STAGE_1, STAGE_2).attach(engine)
    LRGSamplingHandler(sampler, constant, falling, STAGE_2).attach(engine)
    numbers: list[int] = []
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda e: numbers.append(e.state.num_unlabeled))
    run(engine, STAGE_1 + STAGE_2)
    assert set(numbers[STAGE_1::2]) == {0}
    assert max(numbers[STAGE_1 + 1 :: 2]) == B - 1


def test_linear_mode(make_engine, run):
    numbers, _, _ = published(make_engine, run, mode="linear")
    assert numbers == [0, 0] + [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4


def test_fixed_mode(make_engine, run):
    assert published(make_engine, run, mode="fixed", num_unlabeled=2)[0] == [0] * 2 + [2] * STAGE_2
    assert published(make_engine, run, mode="fixed")[0] == [0] * 22


def test_uniform_mode_publishes_the_mean(make_engine, run):
    numbers, uniform, shown = published(make_engine, run, mode="uniform")
    assert uniform == [False] * 2 + [True] * STAGE_2
    assert shown == [0] * 2 + [5 * 10 / 12] * STAGE_2
    assert set(numbers) == {0}


def test_min_labeled(make_engine, run):
    assert max(published(make_engine, run, min_labeled=3)[0]) == 2
    assert max(published(make_engine, run, mode="linear", min_labeled=4)[0]) == 1


def test_no_unlabeled_case(make_engine, run):
    assert set(published(make_engine, run, unlabeled=0)[2]) == {0}
    assert set(published(make_engine, run, unlabeled=0, mode="uniform")[2]) == {0}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "random"}, "sampling is 'random'; it must be one of learning_rate, linear, uniform, fixed"),
        ({"min_labeled": 0}, "min_labeled 0"),
        ({"min_labeled": 6}, "batch_size 5 leaves no room for min_labeled 6"),
        ({"mode": "fixed", "num_unlabeled": 5}, "num_unlabeled 5 with batch_size 5"),
        ({"mode": "fixed", "num_unlabeled": -1}, "num_unlabeled -1"),
    ],
)
def test_bad_settings(options, words):
    sampler = LRGBatchSampler([0], [1], B, 2)
    with pytest.raises(UserError) as caught:
        LRGSamplingHandler(sampler, optimizer(1), optimizer(1), STAGE_2, **options)
    assert words in str(caught.value)
