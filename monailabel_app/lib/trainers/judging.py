"""The comparison's results, judged by the gate."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from lib.registry.gate import Verdict, judge
from lib.registry.measure import CaseResult
from lib.registry.own_weights import judge_own_weights

__all__ = ["judge_results"]


def judge_results(
    results: Mapping[str, Any],
    folds: Iterable[Mapping[str, Any]],
    published: Any,
    margin: float,
    corrected: Collection[str] = (),
) -> Verdict:
    """May the candidate be served?

    Args:
        results: of `lib.trainers.reference.compare_candidate`.
        folds: of the run's datalist; of each "predicted".
        published: the version that it was compared with, or None.
        margin, corrected: see `lib.registry.gate.judge`.
    """
    candidate, reference, own = (_read(results[key]) for key in ("candidate", "published", "own"))
    verdict = judge(candidate, reference, margin, behind=_behind(published), corrected=corrected)
    if unusable := results["unusable"]:
        instead = f"the present model is {published.name}" if published else "it is judged as a first model"
        remark = f"{' and '.join(unusable)} cannot be loaded, so {instead}."
        verdict = replace(verdict, reason=f"{verdict.reason} {remark}")
    predicted = {case for fold in folds for case in fold["predicted"]}
    if not predicted:
        return verdict
    return judge_own_weights(verdict, own, [result for result in candidate if result.case in predicted])


def _read(results: list[Mapping[str, Any]] | None) -> list[CaseResult] | None:
    return None if results is None else [CaseResult.from_dict(result) for result in results]


def _behind(version: Any) -> float:
    """What was lost since the best version; one that a person published against its verdict is a new beginning."""
    verdict = (version.facts.get("verdict") or {}) if version is not None else {}
    return float(verdict.get("behind") or 0.0) if verdict.get("publish") else 0.0
