"""Labels that were replaced by newer ones: kept for a while, so that a slip of the hand costs nobody's work."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from lib.durable import durable_write

__all__ = ["Replaced"]

KEPT = 5
LONGEST_NAME = 150


class Replaced:
    """``ROOT/<image>/<time><suffix>``: the newest few labels of each scan that another one has replaced.

    Args:
        root: a folder of the workspace.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def keep(self, image_id: str, name: str, content: bytes) -> Path | None:
        """Keep a label that is about to be replaced.

        Args:
            image_id: of the scan.
            name: of the label's file, for its suffix.
            content: of the label's file.

        Returns:
            The copy; None when the newest that is kept is the same.

        Raises:
            OSError: the copy cannot be written.
        """
        folder = self.root / _name(image_id)
        earlier = sorted(folder.glob("*")) if folder.is_dir() else []
        if earlier and earlier[-1].read_bytes() == content:
            return None
        suffix = ".nii.gz" if name.lower().endswith(".nii.gz") else Path(name).suffix
        target = folder / f"{_name_behind(earlier)}{suffix}"
        durable_write(target, lambda temporary: temporary.write_bytes(content))
        for old in [*earlier, target][:-KEPT]:
            old.unlink(missing_ok=True)
        return target


def _name_behind(earlier: Sequence[Path]) -> str:
    """The time, to the nanosecond; never before the newest name, or a clock set back would cost the newest label."""
    now = time.time_ns()
    number = int(f"{time.strftime('%Y%m%d%H%M%S', time.localtime(now // 10**9))}{now % 10**9:09d}")
    newest = re.match(r"(\d{8})-(\d{6})-(\d{9})", earlier[-1].name) if earlier else None
    digits = str(max(number, int("".join(newest.groups())) + 1 if newest else 0))
    return f"{digits[:8]}-{digits[8:14]}-{digits[14:]}"


def _name(image_id: str) -> str:
    """Any text may be an image's id; none may lead out of the folder."""
    name = quote(image_id, safe=" ")
    if len(name) > LONGEST_NAME or set(name) <= {"."}:
        name = name[:LONGEST_NAME] + "-" + hashlib.sha256(image_id.encode()).hexdigest()[:16]
    return name
