"""Writes model.json and metadata.json once a run has been accepted."""

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
    """Write ``run_dir/model.json``, the overlay that evaluation and inference need, when the training starts; beside
    it ``metadata.json``, what a receiver of the model must know.

    Not earlier: a repeated command that is refused, for other settings or unsound data, must not change what describes
    the model of the finished run. It is also the first file that a run writes. Attach it behind ``ResumeHandler``.

    Args:
        run_dir: folder of the run.
        overlay: what to write, from ``mnseg.bundle.model_overlay``.
        metadata: from ``mnseg.bundle.model_metadata``; empty: no such file.
    """

    main_process_only = True

    def __init__(
        self, run_dir: str | Path, overlay: Mapping[str, Any], metadata: Mapping[str, Any] | None = None
    ) -> None:
        self.contents = {Path(run_dir) / "model.json": dict(overlay)}
        if metadata:
            self.contents[Path(run_dir) / "metadata.json"] = dict(metadata)

    def attach(self, engine: Engine) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        for path, content in self.contents.items():
            _write(path, json.dumps(content, indent=4) + "\n")


def _write(path: Path, text: str) -> None:
    try:
        atomic_write(path, lambda temporary: temporary.write_text(text))
    except OSError as error:
        message = f"{path} cannot be written ({error.strerror}): set run_dir to another folder."
        raise UserError(message) from error
