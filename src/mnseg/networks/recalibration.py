"""Batch-norm statistics of a pretrained network, measured anew on the scans at hand."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mnseg.errors import UserError

__all__ = ["recalibrate_batch_norm"]


@torch.no_grad()
def recalibrate_batch_norm(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Replace every batch norm's running statistics by the mean over ``batches``; weights do not change.

    Statistics of photographs fit scans badly, and frozen ones (``adapt``) would never come nearer.
    ``torch.optim.swa_utils.update_bn`` does the same, but through ``train()``, which frozen batch norms refuse.

    Args:
        network: any network; without batch norms nothing happens and ``batches`` is not touched.
        batches: inputs of the network.

    Returns:
        Number of batch norms that were measured.

    Raises:
        UserError: the network saw one slice at a time, of whose pooled features no statistics can be taken.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return 0
    was_training = network.training
    momenta = [m.momentum for m in norms]
    network.eval()
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # torch's way to ask for a plain mean
        m.training = True
    try:
        for batch in batches:
            network(batch)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "the 2D network's batch norms cannot be measured on one slice at a time: set slice_chunk to at least 2, or "
            "recalibrate_batches to 0."
        ) from error
    finally:
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum
        network.eval().train(was_training)
    return len(norms)
