"""``python -m lib.trainers.comparison_main PLAN RESULTS``: the masks of a plan, then all masks measured.

A process of its own: it needs a network's memory, and its distances would keep the server's threads waiting.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from lib.durable import durable_json
from lib.errors import RequestError
from lib.registry.measure import measure_case
from mnseg.errors import UserError

logger = logging.getLogger("comparison")


def predict(plan: Mapping[str, Any], scratch: Path) -> dict[str, str]:
    """Make the missing masks; returns ``{case: why it has none}``."""
    faults: dict[str, str] = {}
    for number, task in enumerate(plan["tasks"]):
        folder = Path(task["folder"])
        missing = [case for case in task["cases"] if not (folder / f"{case}.nii.gz").is_file()]
        if not missing:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        predictor = _load(task, plan, scratch / f"weights_{number}.pt")
        if predictor is None:
            logger.warning("the published version makes no masks of %s", ", ".join(missing))
            continue
        for case in missing:
            logger.info("%s predicts %s", task["model_file"], case)
            try:
                _predict_case(predictor, plan["images"][case], folder / f"{case}.nii.gz", plan["notice"], scratch)
            except RequestError as error:
                faults[case] = str(error)
                logger.warning("%s", error)
    return faults


def is_loadable(plan: Mapping[str, Any], scratch: Path) -> bool:
    """Whether the published version can make masks; true without one."""
    return plan["served"] is None or _load(plan["served"], plan, scratch / "weights.pt") is not None


def measure(masks: Mapping[str, str], plan: Mapping[str, Any], faults: dict[str, str]) -> list[dict[str, Any]]:
    """`CaseResult`s as dicts; a case without a mask, or whose label does not fit it, has none."""
    results = []
    for case, mask in sorted(masks.items()):
        if not Path(mask).is_file() or case in faults:
            continue
        try:
            found = measure_case(mask, plan["labels"][case], plan["class_names"], case, plan["patients"][case])
        except UserError as error:
            faults[case] = str(error)
            logger.warning("%s", error)
        else:
            results.append(found.as_dict())
    return results


def _load(task: Mapping[str, Any], plan: Mapping[str, Any], scratch: Path) -> Any:
    """The task's `lib.infers.predictor.Predictor`; None when it cannot be loaded and is not needed."""
    import torch  # here: measuring alone needs no torch

    from lib.infers.predictor import Predictor

    overlay = Path(task["overlay"])
    try:
        weights = _weights_of(Path(task["model_file"]), scratch)
        predictor = Predictor(SimpleNamespace(id="", model_file=weights, overlay=overlay), plan["bundle"],
                              plan["device"])
        if predictor.class_names != list(plan["class_names"]):
            raise UserError(f"{overlay} segments {', '.join(predictor.class_names[1:])}.")
    except (MemoryError, torch.OutOfMemoryError):  # says nothing of the model
        raise
    except Exception as error:  # whatever damaged weights or configs make torch and MONAI say
        if task["needed"]:
            raise
        logger.warning("%s cannot be used (%s: %s)", task["model_file"], type(error).__name__, error)
        return None
    return predictor


def _predict_case(predictor: Any, image: str, path: Path, notice: str, scratch: Path) -> None:
    from lib.infers.masks import write_mask

    prediction = predictor.predict(image)
    mask = np.asarray(prediction.mask).astype(np.uint8)
    # Beside the plan, then renamed: what a killed process leaves is not taken for a mask.
    write_mask(scratch / "unfinished.nii.gz", mask, np.asarray(prediction.affine), notice)
    os.replace(scratch / "unfinished.nii.gz", path)


def _weights_of(model_file: Path, scratch: Path) -> Path:
    """A model.pt as it is; of a checkpoint the product: the 3D network's moving average, if it has one."""
    import torch

    from mnseg.files import atomic_save

    try:
        content = torch.load(model_file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{model_file} cannot be read ({type(error).__name__}).") from error
    if "objects" not in content:
        return model_file
    objects = content["objects"]
    return atomic_save(objects.get("ema", objects["network"]), scratch)


def main(argv: list[str]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    plan_file, results_file = map(Path, argv)
    plan = json.loads(plan_file.read_bytes())
    faults = predict(plan, plan_file.parent)
    published = None if plan["published"] is None else measure(plan["published"], plan, faults)
    durable_json(results_file, {
        "version": plan["version"],
        "candidate": measure(plan["candidate"], plan, faults),
        "published": published,
        "loadable": bool(published) or is_loadable(plan, plan_file.parent),
        "own": measure(plan["own"], plan, faults),
        "faults": faults,
    })  # fmt: skip


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"mnseg: {error}")
