"""The comparison's results, judged by the gate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lib.registry.gate import Verdict, judge
from lib.registry.measure import CaseResult
from lib.registry.own_weights import judge_own_weights

__all__ = ["judge_results"]


def judge_results(results: Mapping[str, Any], folds: Iterable[Mapping[str, Any]], margin: float) -> Verdict:
    """May the candidate be served?

    Args:
        results: what `lib.trainers.comparison_main` wrote.
        folds: of the run's datalist; of each "predicted".
        margin: see `lib.registry.gate.judge`.
    """
    candidate, published, own = (_read(results[key]) for key in ("candidate", "published", "own"))
    verdict = judge(candidate, published, margin)
    predicted = {case for fold in folds for case in fold["predicted"]}
    if not predicted:
        return verdict
    return judge_own_weights(verdict, own, [result for result in candidate if result.case in predicted])


def _read(results: list[Mapping[str, Any]] | None) -> list[CaseResult] | None:
    return None if results is None else [CaseResult.from_dict(result) for result in results]
