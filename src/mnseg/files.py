"""Writing files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["atomic_save", "atomic_write"]


def atomic_write(path: str | Path, write: Callable[[Path], Any]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, then rename it: readers never see half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One name for all attempts: what a killed process leaves behind is overwritten by the next.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def atomic_save(content: Any, path: str | Path) -> Path:
    """``torch.save``, whole or not at all; ``content`` must load with ``weights_only=True``."""
    return atomic_write(path, lambda temporary: torch.save(content, temporary))
