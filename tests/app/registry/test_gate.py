"""May a version be served? Against values computed by hand."""

from __future__ import annotations

import json
import math

import pytest
from lib.registry.gate import Limits, judge
from lib.registry.measure import CaseResult, ClassResult

NAN = float("nan")


def case(name, dice, patient=None, hd95=3.0, volume=10.0, truth=10.0, empty=False):
    return CaseResult(name, patient or name, dice, {"liver": ClassResult(dice, hd95, volume, truth)}, empty)


def cases(values, **rest):
    return [case(f"scan{number}", value, **rest) for number, value in enumerate(values)]


def test_better_is_published():
    verdict = judge(cases([0.9, 0.8, 0.88]), cases([0.8, 0.78, 0.85]))
    assert verdict.publish and verdict.collapsed == ()
    assert verdict.difference == pytest.approx((0.10 + 0.02 + 0.03) / 3)
    assert 0.02 <= verdict.low <= verdict.difference <= verdict.high <= 0.10
    assert (verdict.cases, verdict.patients) == (3, 3)
    assert (verdict.dice, verdict.published_dice) == pytest.approx((0.86, 0.81))
    assert verdict.reason.startswith("The new model is better, and no scan got much worse. On 3 scans its masks "
                                     "overlap with the labels by 0.860 (mean Dice), those of the present model by "
                                     "0.810: difference +0.050, 95 % interval +0.0")


def test_the_margin_is_inclusive():
    old = [0.80, 0.90, 0.70, 0.85]
    changes = [-0.02, -0.02, 0.01, -0.01]  # mean -0.01
    new = [before + change for before, change in zip(old, changes, strict=True)]
    assert judge(cases(new), cases(old), margin=0.01).publish
    refused = judge(cases(new), cases(old), margin=0.009)
    assert not refused.publish and "worse by more than the 0.009" in refused.reason
    assert refused.difference == pytest.approx(-0.01)


def test_losses_since_the_best_version_use_up_the_margin():
    """Each of 30 candidates is worse by 0.004 than the version that is published then."""
    dice, behind, published = 0.9, 0.0, 0
    for _ in range(30):
        verdict = judge(cases([dice - 0.004] * 3), cases([dice] * 3), margin=0.01, behind=behind)
        if verdict.publish:
            dice, behind, published = dice - 0.004, verdict.behind, published + 1
    assert published == 2 and (dice, behind) == pytest.approx((0.892, 0.008))
    assert "more than the 0.01 that is allowed, of which the versions since the best one have used up 0.008" \
           in verdict.reason
    assert judge(cases([dice] * 3), cases([dice] * 3), behind=behind).behind == pytest.approx(0.008), "nor given back"
    better = judge(cases([dice + 0.005] * 3), cases([dice] * 3), behind=behind)
    assert better.publish and better.behind == pytest.approx(0.003)
    assert judge(cases([dice + 0.05] * 3), cases([dice] * 3), behind=behind).behind == 0
    small = judge(cases([dice + 0.001] * 3), cases([dice] * 3), margin=0.005, behind=behind)
    assert not small.publish, "a smaller margin holds for what was lost before as well"


def test_an_interval_below_zero_is_refused_when_patients_are_enough():
    changes = [-0.004, -0.006, -0.005, -0.003, -0.007]  # mean -0.005: within the margin, but never better
    old = [0.8] * 5
    new = [before + change for before, change in zip(old, changes, strict=True)]
    refused = judge(cases(new), cases(old))
    assert not refused.publish and refused.high < 0 and "no chance" in refused.reason
    four = judge(cases(new[:4]), cases(old[:4]))
    assert four.publish and four.high < 0
    assert judge(cases(new[:4]), cases(old[:4]), limits=Limits(interval_patients=3)).publish is False


def test_equal_models_pass():
    verdict = judge(cases([0.8] * 6), cases([0.8] * 6))
    assert verdict.publish and (verdict.difference, verdict.low, verdict.high) == (0, 0, 0)


def test_one_patient_counts_once():
    # Three scans of one patient that got worse by 0.03, one of another that got better by 0.05.
    patients = ["p", "p", "p", "q"]
    new, old = [0.77, 0.77, 0.77, 0.85], [0.80] * 4
    verdict = judge(*[[case(f"s{i}", value, patient) for i, (value, patient)
                       in enumerate(zip(values, patients, strict=True))] for values in (new, old)])
    assert verdict.difference == pytest.approx((-0.03 + 0.05) / 2)
    assert (verdict.cases, verdict.patients) == (4, 2) and "4 scans of 2 patients" in verdict.reason
    assert verdict.publish


def test_one_patient_gives_no_interval():
    verdict = judge(cases([0.9]), cases([0.8]))
    assert verdict.publish and math.isnan(verdict.low) and "interval" not in verdict.reason


def test_only_common_cases_are_compared():
    verdict = judge([case("a", 0.9), case("new", 0.1)], [case("a", 0.8), case("old", 0.99)])
    assert verdict.publish and verdict.cases == 1 and verdict.difference == pytest.approx(0.1)
    none = judge([case("a", 0.9)], [case("b", 0.8)])
    assert not none.publish and "no scan on which" in none.reason and math.isnan(none.difference)


def test_labels_that_began_as_masks_of_the_published_version_count_only_where_others_are_few():
    new, old = cases([0.90, 0.90, 0.90, 0.80, 0.80]), cases([0.85, 0.85, 0.85, 0.95, 0.95])
    biased = judge(new, old)
    assert not biased.publish and biased.difference == pytest.approx(-0.03)
    three = judge(new, old, corrected={"scan3", "scan4", "another"})
    assert three.publish and three.difference == pytest.approx(0.05) and three.cases == three.patients == 3
    assert three.reason.endswith("Left out of this: 2 of 5 labels began as masks of the present model, which they "
                                 "would favor.")
    two = judge(new, old, corrected={"scan2", "scan3", "scan4"})
    assert not two.publish and two.difference == biased.difference and two.cases == 5
    assert two.reason.endswith("3 of 5 labels began as masks of the present model, which they favor.")
    collapsed = judge([*new[:3], *cases([0.9] * 5, volume=0, hd95=NAN)[3:]], old, corrected={"scan3", "scan4"})
    assert not collapsed.publish and "on the scan scan3 it finds no liver" in collapsed.reason


@pytest.mark.parametrize(("new", "old", "kind"), [
    ({"volume": 0, "hd95": NAN}, {}, "empty"),
    ({"volume": 0, "hd95": NAN}, {"volume": 0, "hd95": NAN}, None),
    ({"volume": 0, "hd95": 0, "truth": 0}, {"volume": 3, "truth": 0}, None),
    ({"hd95": 14.0}, {"hd95": 3.9}, "hd95"),  # 3 x 3.9 = 11.7, 3.9 + 10 = 13.9
    ({"hd95": 13.8}, {"hd95": 3.9}, None),
    ({"hd95": 29.0}, {"hd95": 10.0}, None),  # 3 x 10 = 30
    ({"hd95": 30.1}, {"hd95": 10.0}, "hd95"),
    ({"hd95": 90.0}, {"hd95": NAN, "volume": 0}, None),
    ({"volume": 21.0}, {"volume": 10.0}, "volume"),
    ({"volume": 19.0}, {"volume": 10.0}, None),
    ({"volume": 4.9}, {"volume": 10.0}, "volume"),
    ({"volume": 5.1}, {"volume": 10.0}, None),
    ({"volume": 4.0}, {"volume": 30.0}, None),  # 2.5 times too small after 3 times too large
    ({"volume": 18.0}, {"volume": 5.0}, None),
    ({"volume": 0.8, "truth": 0.35}, {"volume": 0.35, "truth": 0.35}, None),  # 0.45 ml
    ({"volume": 0.9, "truth": 0.35}, {"volume": 0.35, "truth": 0.35}, "volume"),
    ({"volume": 6.0, "truth": 0}, {"volume": 0, "truth": 0, "hd95": 0}, "volume"),
])
def test_collapses(new, old, kind):
    """One case of six fails, the mean rises: refused all the same."""
    candidate = [*cases([0.9] * 5), case("poor", 0.9, **new)]
    published = [*cases([0.8] * 5), case("poor", 0.8, **old)]
    verdict = judge(candidate, published)
    assert verdict.publish is (kind is None)
    assert [collapse.kind for collapse in verdict.collapsed] == ([kind] if kind else [])
    if kind:
        assert (verdict.collapsed[0].case, verdict.collapsed[0].structure) == ("poor", "liver")
        assert verdict.reason.startswith("Kept back: on the scan poor ") and "liver" in verdict.reason
        assert "difference +0.100" in verdict.reason


def test_several_collapses_are_counted():
    verdict = judge(cases([0.9] * 3, volume=0, hd95=NAN), cases([0.8] * 3))
    assert "on the scan scan0 it finds no liver, the present model does. There are 2 more" in verdict.reason


def test_masks_without_numbers():
    verdict = judge(cases([0.9, NAN]), cases([0.8, 0.8]))
    assert not verdict.publish and verdict.collapsed[0].kind == "nan" and "scan1" in verdict.reason


def test_the_first_model():
    verdict = judge(cases([0.5, 0.4]), None)
    assert verdict.publish and math.isnan(verdict.difference) and verdict.dice == pytest.approx(0.45)
    assert verdict.reason == "The first model. On 2 scans its masks overlap with the labels by 0.450 (mean Dice)."
    assert judge(cases([0.3]), None).publish
    low = judge(cases([0.3, 0.2]), None)
    assert not low.publish and "needs a mean Dice of 0.3" in low.reason
    assert judge(cases([0.3, 0.2]), None, limits=Limits(floor=0.25)).publish
    empty = judge([*cases([0.9, 0.9]), case("poor", 0.0, empty=True)], None)
    assert not empty.publish and "on the scan poor it finds nothing at all" in empty.reason
    assert not judge(cases([NAN]), None).publish
    assert not judge([], None).publish


def test_a_verdict_is_json_and_pure():
    arguments = cases([0.7, 0.9, 0.8]), cases([0.8, 0.8, 0.8])
    first, second = judge(*arguments), judge(*arguments)
    assert first == second
    assert json.loads(json.dumps(first.as_dict(), allow_nan=False))["cases"] == 3
    assert judge(cases([0.9]), None).as_dict()["difference"] is None
