"""What trainers share to stop in time: errors that handlers do not swallow, and one look at what a step gave."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from mnseg.errors import UserError

__all__ = ["NonFiniteLossError", "clip_gradient", "fetch", "raise_errors_again", "require_finite_weights"]


class NonFiniteLossError(UserError):
    """Loss or gradient became NaN or infinite; raised before the optimizer's step: the weights are still sound."""


def clip_gradient(parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """Clip the gradients to the norm ``max_norm``, unless it is None. Returns the norm before, left on the device."""
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in trained])
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(trained, max_norm, norm)
    return norm


def fetch(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """Tensors of one element as floats, brought from the device together: the host waits for it once."""
    values = torch.stack([value.detach().float().reshape(()) for value in scalars.values()])
    return dict(zip(scalars, values.tolist(), strict=True))


def require_finite_weights(network: nn.Module, name: str) -> None:
    """Refuse to begin with weights, or batch norms' statistics, that no step can mend.

    Raises:
        UserError: naming the network by ``name``, which begins the sentence, and a broken weight.
    """
    statistics = [part for part in network.named_buffers() if part[0].endswith(("running_mean", "running_var"))]
    for key, value in itertools.chain(network.named_parameters(), statistics):
        if not value.isfinite().all():
            raise UserError(f"{name} begins with weights that are not finite ({key}): take another warm_start, "
                            "model_2d or run_dir.")


def raise_errors_again(engine: Engine) -> None:
    """ignite swallows an exception that any handler listens to: raise it again. Attach it behind all handlers."""
    engine.add_event_handler(Events.EXCEPTION_RAISED, _raise)


def _raise(engine: Engine, error: BaseException) -> None:
    raise error
