"""Small pictures of a scan with its newest mask, for the status page."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lib.errors import RequestError
from mnseg.errors import UserError
from mnseg.files import atomic_write, stamp_of

__all__ = ["Thumbnails"]


class Thumbnails:
    """PNG files, drawn when they are first asked for and kept until the scan or the mask changes.

    Args:
        folder: where they are kept.
        labels: names of the structures 1, 2, …
        limit: so many files are kept; the oldest go first.
    """

    def __init__(self, folder: str | Path, labels: Sequence[str], limit: int = 500) -> None:
        self.folder = Path(folder)
        self.class_names = dict(enumerate(labels, start=1))
        self.limit = limit

    def of(self, image: str | Path, mask: str | Path | None) -> Path:
        """The picture of a scan: the slice across its thickest voxel axis in which the mask is largest.

        Args:
            image: the scan's file or DICOM series folder.
            mask: a mask on the scan's grid, or None.

        Raises:
            RequestError: 415 when the scan cannot be read.
        """
        stamps = [stamp_of(path) for path in (image, mask) if path is not None]
        key = hashlib.sha256(json.dumps([str(image), str(mask), stamps, self.class_names]).encode()).hexdigest()[:24]
        target = self.folder / f"{key}.png"
        if not target.exists():
            self._draw(Path(image), mask, target)
            self._thin()
        return target

    def _draw(self, image: Path, mask: str | Path | None, target: Path) -> None:
        from mnseg.reports.overlays import read_canonical, thumbnail_figure  # matplotlib only where pictures are drawn

        try:
            scan = read_canonical(image)
            drawn = None if mask is None else read_canonical(mask)
        except UserError as error:
            raise RequestError(415, str(error)) from error
        if drawn is not None and drawn.voxels.shape != scan.voxels.shape:
            drawn = None
        axis = int(np.argmax(scan.spacing)) if np.ptp(scan.spacing) > 1e-3 else 2
        figure = thumbnail_figure(scan, drawn, axis, self.class_names)
        atomic_write(target, lambda temporary: figure.savefig(temporary, format="png", facecolor="black"))

    def _thin(self) -> None:
        files = sorted(self.folder.glob("*.png"), key=lambda file: file.stat().st_mtime)
        for file in files[: max(0, len(files) - self.limit)]:
            file.unlink(missing_ok=True)
