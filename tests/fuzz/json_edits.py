"""Damaged datalists: wrong types at every place, and damaged text."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from fuzz.header_edits import drawn
from fuzz.mutations import _damage

__all__ = ["damaged_json"]

VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-5, 5), st.floats(),
        st.sampled_from([2**70, 1e308, "", "a", "/", "/dev/null", "~nobody/x", "..", "\x00", "\ud800", "ü", "x" * 5000,
                         "a.nii", "background"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3),
                            st.dictionaries(st.sampled_from(["image", "label", "a"]), inner, max_size=2)),
    max_leaves=4,
)  # fmt: skip
EXTRA = ("case", "patient", "modality", "ignored", "hidden_label", "label", "image")
_EDIT = st.tuples(st.integers(0, 10**6), st.sampled_from(["replace", "replace", "add", "remove", "top"]),
                  st.sampled_from(EXTRA), VALUES)  # fmt: skip


def damaged_json(content: dict[str, Any], count: int) -> Iterator[tuple[str, bytes]]:
    """``count`` texts with what was done to ``content``: two in three with other values, the rest with other bytes."""
    text = json.dumps(content).encode()
    fixed = {
        "empty": b"", "byte order mark": b"\xef\xbb\xbf" + text, "UTF-16": text.decode().encode("utf-16"),
        "deep": b'{"labeled": ' + b"[" * 100_000, "deep objects": b'{"a":' * 100_000, "NaN": b'{"labeled": NaN}',
        "huge number": b'{"labeled": [], "x": ' + b"9" * 5000 + b"}", "number": b"3", "list": b"[]", "null": b"null",
        "key twice": text[:-1] + b', "labeled": []}', "text behind": text + b"x", "binary": bytes(range(256)),
    }  # fmt: skip
    yield from list(fixed.items())[:count]
    count = max(count - len(fixed), 0)
    for edit in drawn(_EDIT, 2 * count // 3):
        yield f"{edit[1]} {edit[2]} at {edit[0]}: {edit[3]!r:.60}", _edited(content, edit)
    rng = random.Random(5)
    for _ in range(count - 2 * count // 3):
        yield _damage(text, rng)


def _edited(content: dict[str, Any], edit: tuple[int, str, str, Any]) -> bytes:
    place, how, key, value = edit
    content = copy.deepcopy(content)
    holders = _places(content)
    holder, position = holders[place % len(holders)]
    if how == "replace":
        holder[position] = value
    elif how == "remove":
        del holder[position]
    else:
        items = [items[0] for items in content.values() if isinstance(items, list) and isinstance(items[0], dict)]
        (content if how == "top" else items[place % len(items)])[key] = value
    return json.dumps(content).encode()


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every value inside, as container and key."""
    keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
    return [(node, key) for key in keys] + [place for key in keys for place in _places(node[key])]
