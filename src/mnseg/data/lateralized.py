"""Left and right in class names, and the flips that would exchange them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from mnseg.errors import UserError

__all__ = ["allowed_flips", "lateralized"]

logger = logging.getLogger(__name__)

_WORDS = re.compile(r"(?:[A-Z]+(?![a-z])|[A-Z]?[a-z]+)\d*|\d+")
_SIDE = re.compile(r"l|r|lt|rt|(left|right|sinist|dext).*")


def lateralized(class_names: Sequence[str]) -> list[str]:
    """The names that tell a side: with a word left, right, l, r, lt, rt, sinister, dexter (in any inflection).

    A single side counts too. Whether the other one exists cannot be read off the names: the mirror image of a scan with
    a "left kidney" shows the right kidney where the label says left, and the left one as background.
    """
    return [name for name in class_names if any(_SIDE.fullmatch(word.lower()) for word in _WORDS.findall(name))]


def allowed_flips(flip_axes: Sequence[int], class_names: Sequence[str], orientation: str = "RAS") -> list[int]:
    """The axes of ``flip_axes`` along which patches may be flipped at random.

    The left-right axis is taken off, with a warning, when class names are `lateralized`.

    Args:
        flip_axes: axes of the volumes as they are turned to ``orientation``.
        class_names: names of all classes.
        orientation: the three axis codes; the left-right axis is the one with R or L.

    Raises:
        UserError: an axis other than 0, 1, 2.
    """
    if isinstance(flip_axes, (str, int)) or any(axis not in (0, 1, 2) for axis in flip_axes):
        raise UserError(f"flip_axes is {flip_axes!r}; it must be a list of the axes 0, 1, 2, or [] for no flips.")
    axes = sorted(set(flip_axes))
    left_right = next(axis for axis, code in enumerate(orientation.upper()) if code in "LR")
    sided = lateralized(class_names)
    if left_right in axes and sided:
        logger.warning("flip_axes: no flips along axis %d, left-right, since a flip would make left right in the "
                       "classes %s.", left_right, ", ".join(sided))
        axes.remove(left_right)
    return axes
