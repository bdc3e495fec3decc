"""What trainers share to stop in time: errors that handlers do not swallow, and the gradient's norm, looked at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ignite.engine import Engine, Events
from torch import Tensor, nn

from mnseg.errors import UserError

__all__ = ["NonFiniteLossError", "clip_gradient", "raise_errors_again"]


class NonFiniteLossError(UserError):
    """Loss or gradient became NaN or infinite; raised before the optimizer's step: the weights are still sound."""


def clip_gradient(
    parameters: Iterable[nn.Parameter], max_norm: float | None, check: Callable[[Tensor], None]
) -> None:
    """Give the norm of all gradients to ``check``, which may raise; then clip to ``max_norm``, unless it is None."""
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in trained])
    check(norm)
    if max_norm is not None:
        nn.utils.clip_grads_with_norm_(trained, max_norm, norm)


def raise_errors_again(engine: Engine) -> None:
    """ignite swallows an exception that any handler listens to: raise it again. Attach it behind all handlers."""
    engine.add_event_handler(Events.EXCEPTION_RAISED, _raise)


def _raise(engine: Engine, error: BaseException) -> None:
    raise error
