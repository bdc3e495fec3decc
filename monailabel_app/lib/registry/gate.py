"""May a new version be served? Decided on measured cases alone, and said in a sentence that a clinician understands."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lib.durable import as_json
from lib.registry.measure import CaseResult, ClassResult
from mnseg.reports.statistics import paired_difference

__all__ = ["Collapse", "Limits", "Verdict", "judge"]

NAN = float("nan")
# Of one case: the candidate's result and that of the published version.
Pair = tuple[CaseResult, CaseResult]


@dataclass(frozen=True)
class Limits:
    """When one case counts as collapsed, and what a first model must reach.

    Args:
        floor: least mean Dice of a first model, which has no other to be compared with.
        hd95_factor, hd95_mm: HD95 has jumped when it is more than ``hd95_factor`` times that of the published version
            and more than ``hd95_mm`` above it.
        volume_factor, volume_ml: the volume has jumped when its ratio to the label's (the larger by the smaller) is
            more than ``volume_factor`` times that of the published version, and both volumes lie more than
            ``volume_ml`` apart.
        interval_patients: fewest patients for whom the interval decides. All of fewer than five differences are
            negative by chance alone in more than 5 % of comparisons of equal models (0.5^4 = 6 %).
        own_label_patients: fewest patients with labels that did not begin as masks of the published version for whom
            the others are left out of the means.
    """

    floor: float = 0.3
    hd95_factor: float = 3.0
    hd95_mm: float = 10.0
    volume_factor: float = 2.0
    volume_ml: float = 0.5
    interval_patients: int = 5
    own_label_patients: int = 3


@dataclass(frozen=True)
class Collapse:
    """One case in which the new version fails: ``kind`` is "empty", "hd95", "volume" or "nan"."""

    case: str
    structure: str
    kind: str
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """The decision and what it rests on.

    Args:
        publish: whether the candidate may be served.
        reason: one or a few sentences without jargon beyond Dice.
        difference: mean Dice of the candidate minus that of the published version, each patient counted once; NaN
            without a published version or without common cases.
        low, high: 95 % bootstrap interval of ``difference`` over patients; NaN below two patients.
        cases, patients: how many were compared.
        dice, published_dice: the two means; NaN where there is none.
        behind: mean Dice that was lost since the best version, this difference included; 0 when nothing was.
        collapsed: the cases in which the candidate fails.
    """

    publish: bool
    reason: str
    difference: float = NAN
    low: float = NAN
    high: float = NAN
    cases: int = 0
    patients: int = 0
    dice: float = NAN
    published_dice: float = NAN
    behind: float = 0.0
    collapsed: tuple[Collapse, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON; NaN becomes null."""
        return as_json(asdict(self))


def judge(
    candidate: Sequence[CaseResult],
    published: Sequence[CaseResult] | None,
    margin: float = 0.01,
    limits: Limits | None = None,
    behind: float = 0.0,
    corrected: Collection[str] = (),
) -> Verdict:
    """Compare a candidate with the published version on the cases that both were measured on.

    Refused are a mean difference below ``behind - margin``, an interval that lies wholly below 0 (from
    ``limits.interval_patients`` patients on), any collapsed case, and masks without numbers. Without a published
    version only empty masks, masks without numbers and a mean Dice below ``limits.floor`` are.

    Args:
        candidate: one result for each case that the candidate did not train on.
        published: the same for the published version, measured against the same labels; None when there is none.
        margin: Dice by which the mean may be worse than that of the best version.
        limits: see `Limits`.
        behind: `Verdict.behind` of the published version. Without it each version might be a little worse than the one
            before, without end.
        corrected: cases whose labels began as masks of the published version. Where a person corrected a mask only in
            part, its model is praised for the rest. They count for the means only where there are few others, for
            collapses always.
    """
    limits = limits or Limits()
    if published is None:
        return _judge_first(candidate, limits)
    new, old = ({result.case: result for result in results} for results in (candidate, published))
    pairs = [(new[case], old[case]) for case in sorted(new.keys() & old.keys())]
    if not pairs:
        return Verdict(False, "Kept back: there is no scan on which the new model could be compared with the present "
                              "one.")
    if broken := tuple(_without_numbers(result for result, _ in pairs)):
        return Verdict(False, f"Kept back: {broken[0].sentence}", cases=len(pairs), collapsed=broken)
    return _judge_pairs(pairs, margin, limits, behind, corrected)


def _judge_pairs(
    pairs: Sequence[Pair], margin: float, limits: Limits, behind: float, corrected: Collection[str]
) -> Verdict:
    collapsed = tuple(collapse for pair in pairs for collapse in _collapses(*pair, limits))
    pairs, remark = _preferred(pairs, corrected, limits)
    new, old = (_patient_means([pair[side] for pair in pairs], [pair[0].patient for pair in pairs]) for side in (0, 1))
    difference, low, high = paired_difference(new, old)
    facts = {"difference": difference, "low": low, "high": high, "cases": len(pairs), "patients": len(new),
             "dice": float(np.mean(new)), "published_dice": float(np.mean(old))}
    measured = _measured(**facts) + remark
    facts |= {"behind": max(behind - difference, 0.0), "collapsed": collapsed}
    if collapsed:
        more = f" There are {len(collapsed) - 1} more such failures." if len(collapsed) > 1 else ""
        return Verdict(False, f"Kept back: {collapsed[0].sentence}{more} {measured}", **facts)
    allowed = f"the {margin:g} that is allowed"
    allowed += f", of which the versions since the best one have used up {behind:.3f}" if behind >= 0.0005 else ""
    # Means of equal cases must not differ from the margin by a rounding error.
    if not difference >= behind - margin - 1e-9:
        return Verdict(False, f"Kept back: the new model is worse by more than {allowed}. {measured}", **facts)
    if len(new) >= limits.interval_patients and high < 0:
        return Verdict(False, "Kept back: the new model is a little worse, and on so many patients alike that it is "
                              f"no chance. {measured}", **facts)
    better = "better" if difference > 0 else f"not worse by more than {allowed}"
    return Verdict(True, f"The new model is {better}, and no scan got much worse. {measured}", **facts)


def _preferred(pairs: Sequence[Pair], corrected: Collection[str], limits: Limits) -> tuple[Sequence[Pair], str]:
    """The pairs for the means, and what the verdict says of those with corrected labels."""
    others = [pair for pair in pairs if pair[0].case not in corrected]
    if len(others) == len(pairs):
        return pairs, ""
    began = f"{len(pairs) - len(others)} of {len(pairs)} labels began as masks of the present model"
    if len({new.patient for new, _ in others}) >= limits.own_label_patients:
        return others, f" Left out of this: {began}, which they would favor."
    return pairs, f" {began}, which they favor."


def _measured(
    difference: float, low: float, high: float, cases: int, patients: int, dice: float, published_dice: float
) -> str:
    interval = f", 95 % interval {low:+.3f} to {high:+.3f}" if math.isfinite(low) and math.isfinite(high) else ""
    return (f"On {_scans(cases, patients)} its masks overlap with the labels by {dice:.3f} (mean Dice), those of the "
            f"present model by {published_dice:.3f}: difference {difference:+.3f}{interval}.")


def _scans(cases: int, patients: int) -> str:
    scans = f"{cases} scan{'' if cases == 1 else 's'}"
    return scans if patients == cases else f"{scans} of {patients} patient{'' if patients == 1 else 's'}"


def _patient_means(results: Sequence[CaseResult], patients: Sequence[str]) -> list[float]:
    groups = defaultdict(list)
    for result, patient in zip(results, patients, strict=True):
        groups[patient].append(result.dice)
    return [float(np.mean(groups[patient])) for patient in sorted(groups)]


def _judge_first(candidate: Sequence[CaseResult], limits: Limits) -> Verdict:
    if not candidate:
        return Verdict(False, "Kept back: there is no labeled scan on which the first model could be measured.")
    if broken := tuple(_without_numbers(candidate)):
        return Verdict(False, f"Kept back: {broken[0].sentence}", cases=len(candidate), collapsed=broken)
    means = _patient_means(candidate, [result.patient for result in candidate])
    dice = float(np.mean(means))
    empty = tuple(Collapse(result.case, "", "empty", f"on the scan {result.case} it finds nothing at all.")
                  for result in candidate if result.empty)
    facts = {"cases": len(candidate), "patients": len(means), "dice": dice, "collapsed": empty}
    where = f"On {_scans(len(candidate), len(means))} its masks overlap with the labels by {dice:.3f} (mean Dice)."
    if empty:
        return Verdict(False, f"The first model is kept back: {empty[0].sentence} {where}", **facts)
    if dice < limits.floor:
        return Verdict(False, f"The first model is kept back: it needs a mean Dice of {limits.floor:g}. {where}",
                       **facts)
    return Verdict(True, f"The first model. {where}", **facts)


def _without_numbers(results: Iterable[CaseResult]) -> Iterator[Collapse]:
    for result in results:
        if not math.isfinite(result.dice):
            yield Collapse(result.case, "", "nan", f"on the scan {result.case} the new model gives no numbers (NaN).")


def _collapses(new: CaseResult, old: CaseResult, limits: Limits) -> Iterator[Collapse]:
    """At most one collapse for each structure."""
    for name, result in new.classes.items():
        before = old.classes.get(name)
        if before is None:
            continue
        if result.truth_ml > 0 and result.volume_ml == 0 and before.volume_ml > 0:
            yield Collapse(new.case, name, "empty", f"on the scan {new.case} it finds no {name}, the present model "
                                                    "does.")
        elif _hd95_jumped(result, before, limits):
            yield Collapse(new.case, name, "hd95", f"on the scan {new.case} the outline of {name} is off by "
                           f"{result.hd95_mm:.0f} mm (HD95), that of the present model by {before.hd95_mm:.0f} mm.")
        elif _volume_jumped(result, before, limits):
            yield Collapse(new.case, name, "volume", f"on the scan {new.case} it makes {name} {result.volume_ml:.1f} "
                           f"ml large, the present model {before.volume_ml:.1f} ml; labeled are "
                           f"{result.truth_ml:.1f} ml.")


def _hd95_jumped(new: ClassResult, old: ClassResult, limits: Limits) -> bool:
    # A comparison with NaN (an empty mask) is False.
    return new.hd95_mm > limits.hd95_factor * old.hd95_mm and new.hd95_mm > old.hd95_mm + limits.hd95_mm


def _volume_jumped(new: ClassResult, old: ClassResult, limits: Limits) -> bool:
    if abs(new.volume_ml - old.volume_ml) <= limits.volume_ml:
        return False
    return _times_off(new) > limits.volume_factor * _times_off(old)


def _times_off(result: ClassResult) -> float:
    """How many times the volume is larger or smaller than the label's; infinite when one of them is 0."""
    smaller, larger = sorted((result.volume_ml, result.truth_ml))
    if larger == 0:
        return 1.0
    return larger / smaller if smaller > 0 else math.inf
