"""Writes model.json once a run has been accepted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from mnseg.errors import UserError
from mnseg.files import atomic_write

__all__ = ["ModelOverlayHandler"]


class ModelOverlayHandler:
    """Write ``run_dir/model.json``, the overlay that evaluation and inference need, when the training starts.

    Not earlier: a repeated command that is refused, for other settings or unsound data, must not change what describes
    the model of the finished run. It is also the first file that a run writes. Attach it behind ``ResumeHandler``.

    Args:
        run_dir: folder of the run.
        overlay: what to write, from ``mnseg.bundle.model_overlay``.
    """

    main_process_only = True

    def __init__(self, run_dir: str | Path, overlay: Mapping[str, Any]) -> None:
        self.path = Path(run_dir) / "model.json"
        self.overlay = dict(overlay)

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        text = json.dumps(self.overlay, indent=4) + "\n"
        try:
            atomic_write(self.path, lambda path: path.write_text(text))
        except OSError as error:
            message = f"{self.path} cannot be written ({error.strerror}): set run_dir to another folder."
            raise UserError(message) from error
