"""The commands of a page of the documentation, as its reader would type them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def commands(page: str, program: str = "mnseg") -> list[list[str]]:
    """Words of the commands of ``docs/how-to/PAGE`` that begin with a program; comments are left out."""
    text = (ROOT / "docs" / "how-to" / page).read_text().replace("\\\n", " ")
    found = re.findall(rf"^    ({re.escape(program)} .*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in found]
