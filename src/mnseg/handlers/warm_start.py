"""Begins a new run with the networks of another one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from mnseg.errors import UserError

__all__ = ["WarmStartHandler"]

logger = logging.getLogger(__name__)


class WarmStartHandler:
    """Load both networks, and the moving average where there is one, from another run when a new run starts.

    Epochs, rates and optimizers begin anew: that is the difference to ``ResumeHandler``. A continued run keeps its own
    weights. Attach it behind ``RecalibrationHandler``, whose statistics it replaces.

    Args:
        path: another run's ``checkpoint.pt`` (both networks), or a ``model.pt`` (the 3D network alone; the 2D network
            stays as it was built, and the log says so). None: do nothing.
        networks: "network", "network_2d" and "ema" (or None), as ``TrainingState`` names them.
        settings: of this run, as ``TrainingState`` has them. "class_names" must be the checkpoint's; other differences
            are said in the log.
    """

    compared = ("in_channels", "orientation", "spacing", "intensity", "model_2d", "slice_axis", "slice_scale")

    def __init__(
        self, path: str | Path | None, networks: Mapping[str, nn.Module | None], settings: Mapping[str, str]
    ) -> None:
        self.path = None if path is None else Path(path)
        self.networks = {name: network for name, network in networks.items() if network is not None}
        self.settings = settings

    def attach(self, engine: Engine) -> None:
        """Attach to a ``CoTrainer``."""
        if self.path is not None:
            engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        if engine.state.epoch > 0:
            return
        content = self._read()
        if "objects" not in content:
            logger.warning("%s holds a 3D network alone: the 2D network begins anew.", self.path)
            content = {"objects": {"network": content}, "settings": {}}
        self._compare(content["settings"])
        saved = content["objects"]
        saved.setdefault("ema", saved["network"])
        for name in self.networks.keys() & saved.keys():
            self._load(name, saved[name])
        logger.info("%s from %s", " and ".join(sorted(self.networks.keys() & saved.keys())), self.path)

    def _read(self) -> dict[str, Any]:
        # A run of the same folder that was started over (resume False) has set it aside.
        set_aside = self.path.with_name(f"{self.path.name}.previous")
        try:
            path = set_aside if set_aside.exists() and not self.path.exists() else self.path
            content = torch.load(path, map_location="cpu", weights_only=True)
            weights = content["objects"]["network"] if "objects" in content else content
            if weights and all(isinstance(value, torch.Tensor) for value in weights.values()):
                return {"settings": {}, **content} if "objects" in content else content
        except FileNotFoundError as error:
            raise UserError(f"warm_start {self.path} does not exist: name the checkpoint.pt of another run.") from error
        except Exception as error:
            raise self._unreadable(type(error).__name__) from error
        raise self._unreadable("no weights in it")

    def _unreadable(self, why: str) -> UserError:
        return UserError(f"warm_start {self.path} cannot be read ({why}): name the checkpoint.pt or model.pt of "
                         "another run, or set warm_start to null.")

    def _compare(self, saved: Mapping[str, str]) -> None:
        """The same structures under other numbers would load without an error, and teach wrong names."""
        names = saved.get("class_names")
        if names is not None and names != self.settings.get("class_names"):
            raise UserError(f"warm_start {self.path} was trained for the class_names {names}, this run for "
                            f"{self.settings.get('class_names')}: set warm_start to null.")
        for name in self.compared:
            if name in saved and saved[name] != self.settings.get(name):
                logger.warning("%s was trained with another %s.", self.path, name)

    def _load(self, name: str, weights: Mapping[str, torch.Tensor]) -> None:
        try:
            self.networks[name].load_state_dict(weights)
        except (RuntimeError, AttributeError, TypeError) as error:
            raise UserError(
                f"The {name} in warm_start {self.path} does not fit the one of this run "
                f"({' '.join(str(error).split())[:200]}): set warm_start to null, or the networks as they were there."
            ) from error
