"""A handler that a config may have switched off."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine

__all__ = ["OptionalHandler"]


class OptionalHandler:
    """Attach another handler, or nothing.

    MONAI wants ``train::handlers`` to be a list of components, so an object that other parts of the config refer to
    (the moving average) cannot stand in it itself.

    Args:
        handler: any handler with ``attach``, or None.
    """

    def __init__(self, handler: Any | None) -> None:
        self.handler = handler

    def attach(self, engine: Engine) -> None:
        """Attach the inner handler, if there is one."""
        if self.handler is not None:
            self.handler.attach(engine)
