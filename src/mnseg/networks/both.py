"""Both networks of a finished run as one, for evaluation and inference."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mnseg.errors import UserError
from mnseg.networks.trained import TrainedNetworks

__all__ = ["BothNetworks", "load_both_networks", "load_teacher"]


class BothNetworks(nn.Module):
    """The mean of two networks' probabilities: the ensemble of the 3D and the 2D network.

    A network, so that it fits wherever a config expects one; MONAI's ``EnsembleEvaluator`` would replace evaluator and
    postprocessing, and sends each network over the whole volume by itself.

    Args:
        network: 3D network, volumes (B, C, H, W, D) to logits (B, K, H, W, D).
        network_2d: the 2D network lifted to volumes, same shapes.
    """

    def __init__(self, network: nn.Module, network_2d: nn.Module) -> None:
        super().__init__()
        self.network, self.network_2d = network, network_2d

    def forward(self, image: Tensor) -> Tensor:
        """Logarithm of the mean, (B, K, H, W, D), float32: its softmax is the mean itself."""
        found = [each(image).float().log_softmax(dim=1) for each in (self.network, self.network_2d)]
        # Of logarithms, so that no probability that underflows becomes an infinity.
        return torch.stack(found).logsumexp(dim=0) - math.log(2)


def load_both_networks(
    checkpoint_file: str | Path,
    network: nn.Module,
    device: str | torch.device = "cpu",
    settings: Mapping[str, Any] | None = None,
) -> BothNetworks:
    """Both networks of a run, from its ``checkpoint.pt`` (``configs/inference/both_networks.json``).

    Args:
        checkpoint_file: of the run; the files of its pretrained 2D network must be where they were in training.
        network: the 3D network as the config builds it.
        device: where both are put.
        settings: of the config, which must be those of the run: see ``TrainedNetworks.require_same``.

    Raises:
        UserError: no checkpoint, a damaged one, one of other settings or another 3D network, or one whose 2D network
            cannot be built.
    """
    return _both(TrainedNetworks.read(checkpoint_file), network, device, settings)


def _both(
    trained: TrainedNetworks, network: nn.Module, device: str | torch.device, settings: Mapping[str, Any] | None
) -> BothNetworks:
    trained.require_same(settings or {})
    trained.fill(network=network)
    return BothNetworks(network, trained.build_2d()).to(device)


def load_teacher(
    warm_start: str | Path | None,
    network: nn.Module,
    device: str | torch.device = "cpu",
    settings: Mapping[str, Any] | None = None,
) -> BothNetworks:
    """Both networks of an earlier run as the teacher that stays as it is (``configs/recipes/distillation.json``).

    Args:
        warm_start: the earlier run's ``checkpoint.pt``, from which the student begins as well. It is read again when
            the student's run goes on after a stop.
        network: a 3D network like the student's, which is copied.
        device, settings: see ``load_both_networks``.

    Raises:
        UserError: no ``warm_start``, and what ``load_both_networks`` refuses.
    """
    if warm_start is None:
        raise UserError("warm_start is null, but both networks of an earlier run are to teach: "
                        "set warm_start to its checkpoint.pt.")
    advice = "set warm_start to the checkpoint.pt of the run whose networks teach, which must stay where it is"
    trained = TrainedNetworks.read(warm_start, advice)
    return _both(trained, copy.deepcopy(network), device, settings).eval().requires_grad_(False)
