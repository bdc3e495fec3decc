"""What was decided on each image, a line at a time, so that a stopped round of mining goes on where it was."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from mnseg.mining.miner import MinedImage

__all__ = ["JOURNAL", "Journal"]

JOURNAL = "journal.jsonl"


class Journal:
    """Decisions in ``folder/journal.jsonl``, each with the digest of what it was made from (``Miner.digest``).

    A line is added when an image's mask is written. A last line that a kill cut in two is passed over.

    Args:
        folder: of the round.

    Raises:
        OSError: it cannot be read, or, in the methods, written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / JOURNAL
        self.lines: dict[str, tuple[str, MinedImage]] = {}
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n") if self.path.is_file() else []:
            if (entry := _entry(line)) is not None:
                self.lines[entry[1].case] = entry

    def known(self, case: str, digest: str) -> MinedImage | None:
        """What was decided on this image, without its label; None where it, the network or a setting has changed."""
        found, mined = self.lines.get(case, ("", None))
        return mined if found == digest else None

    def add(self, mined: MinedImage, digest: str) -> None:
        """Remember a decision."""
        content = {"digest": digest, **asdict(mined), "label": None}
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(content, default=float))  # behind a line that was cut in two, too
        self.lines[mined.case] = (digest, mined)


def _entry(line: str) -> tuple[str, MinedImage] | None:
    try:
        content = json.loads(line)
        return content.pop("digest"), MinedImage(**content)
    except (ValueError, TypeError, KeyError, AttributeError):  # empty, cut in two, or not ours
        return None
