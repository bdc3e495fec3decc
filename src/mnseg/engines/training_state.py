"""All that a stopped run needs to go on as if it had never stopped."""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine

from mnseg.distributed import num_processes
from mnseg.errors import UserError
from mnseg.files import atomic_save

__all__ = ["TrainingState"]

logger = logging.getLogger(__name__)

FORMAT = 1
# Of amp_dtype: what one of them began another may continue, with the same optimizers and no scale to keep.
EXCHANGEABLE = {"None", "auto", "bfloat16"}
# Older checkpoints say nothing of these; without all others that they lack they were trained.
LATER = {"augmentation_def", "optimizer_def", "optimizer_2d_def", "teacher_3d_def"}
NAMES = {"model_2d", "warm_start"}
ENGINE_VALUES = ("epoch", "iteration", "unlabeled_seen", "best_metric", "best_metric_epoch")


class TrainingState:
    """Save and load a ``CoTrainer`` with everything that it trains.

    Random numbers need no place here: they are a function of the seed, which stands among the settings, and the epoch
    (``EpochSeedHandler``). The same holds for sampler and learning rates.

    Args:
        path: the checkpoint file; it loads with ``weights_only=True``.
        objects: name -> object with ``state_dict`` and ``load_state_dict`` (networks, optimizers, loss scalers, moving
            average, pseudo-foreground). None values are left out.
        settings: plain values that must be the same when the run goes on (data, batch size, epochs, seed, …).
    """

    def __init__(self, path: str | Path, objects: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.objects = {name: value for name, value in objects.items() if value is not None}
        self.settings = {name: str(value) for name, value in settings.items()}

    def save(self, engine: Engine, path: str | Path | None = None) -> Path:
        """Write the state, whole or not at all."""
        state = engine.state
        content = {
            "format": FORMAT,
            "settings": self.settings,
            "processes": num_processes(),
            "engine": {name: getattr(state, name) for name in ENGINE_VALUES},
            "scalers": {name: scaler.state_dict() for name, scaler in engine.scalers.items()},
            "objects": {name: value.state_dict() for name, value in self.objects.items()},
        }
        return atomic_save(content, path or self.path)

    def load(self, engine: Engine) -> None:
        """Put a saved state into the engine and the objects.

        Raises:
            UserError: when the file cannot be read or belongs to a run with other settings.
        """
        try:
            # On the CPU: networks and optimizers copy to where they live; numpy arrays cannot come from a GPU.
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            saved = content["settings"]
        except Exception as error:
            # torch's own text runs over many lines and advises to unpickle the file.
            raise UserError(
                f"{self.path} cannot be read ({type(error).__name__}: damaged, or not a checkpoint of this bundle): "
                "remove it, or set resume to False to start over."
            ) from error
        self._require_same_settings(saved)
        for name, value in self.objects.items():
            self._load_object(name, value, content["objects"])
        for name, scaler in engine.scalers.items():
            scaler.load_state_dict(content["scalers"][name])
        for name in ENGINE_VALUES:
            setattr(engine.state, name, content["engine"][name])
        if content.get("processes", 1) != num_processes():
            logger.warning(
                "%s was trained by %d process(es), now by %d: the joint batch changes with their number.",
                self.path, content.get("processes", 1), num_processes(),
            )  # fmt: skip
        logger.info("continuing %s after epoch %d", self.path, engine.state.epoch)

    def _load_object(self, name: str, value: Any, saved: Mapping[str, Any]) -> None:
        try:
            value.load_state_dict(saved[name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(
                f"The {name} in {self.path} does not fit the one of this run ({' '.join(str(error).split())[:200]}): "
                "set run_dir to a new folder, or resume to False to start over in this one."
            ) from error

    def _require_same_settings(self, saved: Mapping[str, str]) -> None:
        names = sorted(saved.keys() | self.settings.keys())
        different = [
            "{} {} then, {} now".format(name, *_where_they_differ(saved.get(name), self.settings.get(name)))
            for name in names
            if not (name in LATER and name not in saved)
            and not _mean_the_same(name, saved.get(name, "None"), self.settings.get(name, "None"))
        ]
        if different:
            raise UserError(
                f"{self.path} belongs to a run with other settings ({'; '.join(different)}): set run_dir to a new "
                "folder, or resume to False to start over in this one."
            )


def _mean_the_same(name: str, one: str, other: str) -> bool:
    """An overlay may write 0 for 0.0, and a command's tuple is a config's list; a model's name is no number."""
    if name in NAMES:
        return one == other
    return _value(one) == _value(other) or (name == "amp_dtype" and {one, other} <= EXCHANGEABLE)


def _value(text: str) -> Any:
    with contextlib.suppress(ValueError):
        return json.loads(text)
    try:
        return json.loads(json.dumps(ast.literal_eval(text)))
    except (TypeError, ValueError, SyntaxError):
        return text


def _where_they_differ(*values: str | None, length: int = 60) -> list[str]:
    """Both as they are; of long ones, such as definitions, what stands around the first difference."""
    texts = ["not set" if value is None else value for value in values]
    if max(map(len, texts)) <= length:
        return texts
    start = max(len(os.path.commonprefix(texts)) - length // 3, 0)
    end = start + length
    return [("..." if start else "") + text[start:end] + ("..." if text[end:] else "") for text in texts]
