"""Types of command-line arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable

__all__ = ["count", "positive", "whole_number"]


def whole_number(minimum: int) -> Callable[[str], int]:
    """An ``argparse`` type: a whole number of at least ``minimum``."""

    def parse(text: str) -> int:
        value = int(text) if text.isdecimal() else minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {minimum}")
        return value

    return parse


positive = whole_number(1)
count = whole_number(0)
