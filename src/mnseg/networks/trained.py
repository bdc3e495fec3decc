"""Networks of a run, back from its ``checkpoint.pt``."""

from __future__ import annotations

import ast
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from mnseg.bundle import config_text
from mnseg.errors import UserError, user_error_in

__all__ = ["TrainedNetworks", "load_2d_network", "load_networks"]

logger = logging.getLogger(__name__)

# What must be as in training for the networks to see what they were trained on; the rest of the settings may differ.
SHARED = ("class_names", "in_channels", "orientation", "intensity", "network_def", "network_2d_def", "spacing",
          "patch_size", "slice_axis", "slice_scale", "slice_context")  # fmt: skip
ADVICE = "give the config files and keys of the training, for evaluation and inference the model.json of its run"


@dataclass(frozen=True)
class TrainedNetworks:
    """What a checkpoint holds of its run's two networks.

    Attributes:
        path: the checkpoint.
        settings: of the run, as text.
        weights: of "network", the 3D product (its moving average, where there is one), and of "network_2d".
    """

    path: Path
    settings: Mapping[str, str]
    weights: Mapping[str, Mapping[str, Tensor]]

    @classmethod
    def read(cls, path: str | Path, advice: str = "set run_dir or ckpt_dir to a finished run") -> TrainedNetworks:
        """
        Args:
            path: of the checkpoint.
            advice: what to do where it cannot be read.

        Raises:
            UserError: no checkpoint, or a damaged one.
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(f"There is no checkpoint {path}: train first, or {advice}.")
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            objects = content["objects"]
            weights = {"network": objects.get("ema", objects["network"]), "network_2d": objects["network_2d"]}
            settings, epoch = content["settings"], content["engine"]["epoch"]
            last = int(settings["stage_1_epochs"]) + int(settings["stage_2_epochs"])
        except Exception as error:
            raise UserError(
                f"{path} cannot be read ({type(error).__name__}: damaged, or not a checkpoint of this bundle): "
                f"{advice}, or train again."
            ) from error
        if epoch < last:
            logger.warning("%s is of a training that has not finished: epoch %d of %d.", path, epoch, last)
        return cls(path, settings, weights)

    def require_same(self, settings: Mapping[str, Any]) -> None:
        """
        Args:
            settings: of the config at hand; those that decide what a network sees are compared, where both have them,
                and the running config's ``intensity``.

        Raises:
            UserError: naming the settings of training that are others now.
        """
        text = config_text("intensity")
        settings = {**({"intensity": text} if text else {}), **settings}
        different = [
            f"{key} {str(self.settings[key])[:60]} then, {str(settings[key])[:60]} now"
            for key in SHARED
            if key in self.settings and key in settings and self.settings[key] != str(settings[key])
        ]
        if different:
            raise UserError(f"{self.path} was trained with other settings ({'; '.join(different)}): {ADVICE}.")

    def fill(self, **networks: nn.Module) -> None:
        """Put the weights into networks, by name.

        Raises:
            UserError: for another network than the run's.
        """
        for name, module in networks.items():
            try:
                module.load_state_dict(self.weights[name])
            except RuntimeError as error:
                why = " ".join(str(error).split())[:200]
                raise UserError(f"The {name} in {self.path} does not fit the config ({why}): {ADVICE}.") from error

    def build_2d(self) -> nn.Module:
        """The 2D network, from the run's settings alone, without its configs.

        The files of ``model_2d`` must be where they were in training: they say how it is built.

        Raises:
            UserError: its settings cannot build it.
        """
        try:
            settings = {key: _literal(value) for key, value in self.settings.items()}
            settings["num_classes"] = len(settings["class_names"])
            settings["lora_rank"], settings["lora_dropout"] = settings["lora"]
            settings |= {"slice_chunk": 32, "slice_checkpoint": False}  # no settings of a run, since memory alone
            parser = ConfigParser(settings | {"network_2d_def": json.loads(self.settings["network_2d_def"])})
            with _no_warnings("mnseg.networks.build"):  # of random weights, which do not stay
                network = parser.get_parsed_content("network_2d_def")
        except Exception as error:
            sentence = user_error_in(error) or f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise UserError(
                f"The 2D network of {self.path} cannot be built as in training; the files of its model_2d, "
                f"{self.settings.get('model_2d')}, must be where they were then ({sentence})"
            ) from error
        self.fill(network_2d=network)
        return network


def load_networks(path: str | Path, network: nn.Module, network_2d: nn.Module, settings: Mapping[str, Any]) -> str:
    """Fill both networks, as a config builds them, from a run's ``checkpoint.pt``.

    Args:
        path: the checkpoint.
        network, network_2d: as the run's config builds them.
        settings: of this config, as ``TrainingState`` compares them.

    Returns:
        The file's SHA-256.

    Raises:
        UserError: no checkpoint, a damaged one, or one of other settings.
    """
    trained = TrainedNetworks.read(path)
    trained.require_same(settings)
    trained.fill(network=network, network_2d=network_2d)
    with trained.path.open("rb") as file:
        digest = sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def load_2d_network(
    checkpoint_file: str | Path, device: str | torch.device = "cpu", settings: Mapping[str, Any] | None = None
) -> nn.Module:
    """The 2D network of a run alone, lifted to volumes (``configs/inference/network_2d.json``).

    Args:
        checkpoint_file: of the run; the files of its pretrained 2D network must be where they were in training.
        device: where it is put.
        settings: of the config, which must be those of the run: see ``TrainedNetworks.require_same``.

    Raises:
        UserError: no checkpoint, a damaged one, one of other settings, or one whose 2D network cannot be built.
    """
    trained = TrainedNetworks.read(checkpoint_file)
    trained.require_same(settings or {})
    return trained.build_2d().to(device)


@contextmanager
def _no_warnings(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
