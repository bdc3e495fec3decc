"""Fold models were measured: does the new model work by itself? Against values computed by hand."""

from __future__ import annotations

import pytest
from lib.registry.gate import judge
from lib.registry.measure import CaseResult
from lib.registry.own_weights import judge_own_weights

NAN = float("nan")


def cases(values, empty=()):
    return [CaseResult(f"scan{number}", f"scan{number}", value, {}, empty=number in empty)
            for number, value in enumerate(values)]


FOLDS = cases([0.9, 0.8, 0.7, 0.6])
GOOD = judge(FOLDS, None)


@pytest.mark.parametrize(("own", "words"), [
    ([], "could be run on none of the scans"),
    (cases([0.9, NAN, 0.9]), "on the scan scan1, which it was trained on, the new model gives no numbers"),
    (cases([0.9, 0.9, 0.0], empty={2}), "on the scan scan2, which it was trained on, the new model itself finds noth"),
    (cases([0.7, 0.7, 0.69]), "by 0.697 (mean Dice), models that never saw them by 0.800"),  # 0.103 below
])
def test_a_model_that_fails_by_itself_is_kept_back(own, words):
    verdict = judge_own_weights(GOOD, own, FOLDS)
    assert GOOD.publish and not verdict.publish
    assert verdict.reason.startswith("Kept back: ") and words in verdict.reason
    assert "The masks of 4 scans are those of fold models" in verdict.reason


@pytest.mark.parametrize("own", [
    cases([0.7, 0.7, 0.7]),  # 0.1 below the fold models' 0.8
    cases([1.0]),
    cases([0.95, 0.9, 0.4, 0.6], empty={2}),
])
def test_a_model_that_works_is_published_and_the_verdict_says_who_was_measured(own):
    folds = cases([0.9, 0.8, 0.7, 0.6], empty={2})  # what fold models do not find either is no sign
    verdict = judge_own_weights(GOOD, own, folds)
    assert verdict.publish and verdict.reason.startswith(GOOD.reason)
    assert "The masks of 4 scans are those of fold models, which never saw them. The model itself" in verdict.reason
    assert verdict.reason.endswith(f"{sum(case.dice for case in own) / len(own):.3f}.")


def test_a_refusal_stays_and_says_who_was_measured():
    low = judge(cases([0.1, 0.1]), None)
    verdict = judge_own_weights(low, cases([0.9, 0.9]), cases([0.1, 0.1]))
    assert not verdict.publish and verdict.reason == f"{low.reason} The masks of 2 scans are those of fold models, " \
                                                     "which never saw them."
