"""With which version a candidate is compared: with the one that makes the masks now."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib.conf import AppConf
from lib.durable import durable_json
from lib.trainers.comparison import keep_predictions, plan_comparison
from mnseg.data.datalist import load_datalist

__all__ = ["compare_candidate"]


def compare_candidate(
    folder: Path, registry: Any, conf: AppConf, execute: Callable[[Path, Path], object]
) -> dict[str, Any]:
    """Measures of a run's model and of the version that makes the masks now, on cases that neither trained on.

    That is the published version. While it cannot be loaded and has no masks, it is the newest of those published
    before it that can, as in `lib.infers.serving.Serving`: a damaged version must not keep all others back. Without
    any the candidate is measured alone, as a first model.

    Args:
        folder: of the run.
        registry: its ``servable()`` versions are tried in turn.
        conf: the server's configuration.
        execute: carries out the plan in the first file and writes its results to the second.

    Returns:
        What `lib.trainers.comparison_main` wrote ("version" is the one that was compared), with "while_published", the
        id of the version that was published, or None, and "unusable", the names of those passed over. It lies in
        comparison/results.json as well; without these two keys the comparison was not finished.
    """
    versions, unusable = list(registry.servable()), []
    results: dict[str, Any] = {}
    for version in (*versions, None):
        results = _compare_with(version, folder, conf, execute)
        if results.get("loadable", True):
            break
        unusable.append(version.name)
    results |= {"while_published": versions[0].id if versions else None, "unusable": unusable}
    durable_json(folder / "comparison" / "results.json", results)
    return results


def _compare_with(
    version: Any, folder: Path, conf: AppConf, execute: Callable[[Path, Path], object]
) -> dict[str, Any]:
    datalist = load_datalist(folder / "datalist.json")
    device = conf.settings.get("device")
    plan = plan_comparison(folder, datalist, datalist["folds"], version, conf.class_names, conf.bundle,
                           device if isinstance(device, str) and device[:1] != "$" else None)
    scratch = folder / "comparison"
    scratch.mkdir(exist_ok=True)
    durable_json(scratch / "plan.json", plan.as_dict())
    execute(scratch / "plan.json", scratch / "results.json")
    durable_json(folder / "predictions.json", {case: plan.digests[case] for case in plan.candidate})
    if version is not None:
        keep_predictions(version, folder / "predicted" / version.id, plan.digests)
    return json.loads((scratch / "results.json").read_bytes())
