"""ITK, loaded whole."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from mnseg.data.volume_formats import NIFTI_SUFFIXES

__all__ = ["load_itk", "load_itk_for"]

_LOCK = threading.Lock()
# Read by nibabel and Pillow.
OTHERS = (*NIFTI_SUFFIXES, ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def load_itk() -> ModuleType:
    """The module ``itk``, whose readers and writers are ready.

    ITK loads its libraries when they are first asked for, which takes seconds. Until then the process is in another
    working directory, and a second thread that asks finds the module half made: sound scans would be called damaged.
    Whoever starts threads that read scans calls this first.
    """
    with _LOCK:
        import itk

        for name in ("ImageIOFactory", "PyBuffer"):  # the libraries that reading and writing need
            getattr(itk, name)
    return itk


def load_itk_for(paths: Iterable[str | Path]) -> None:
    """Load ITK where one of these files needs it."""
    if not all(str(path).lower().endswith(OTHERS) for path in paths):
        load_itk()
