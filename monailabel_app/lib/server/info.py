"""What clients write about a scan or a label: any keys, but those that this server reads must have their kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lib.errors import RequestError
from lib.labels.segments import segment_entries

__all__ = ["OWN", "require_sound_info"]


def require_sound_info(info: Mapping[str, Any]) -> None:
    """Raises: RequestError, 400, for a key of the wrong kind."""
    for key in OWN.keys() & info.keys():
        raise RequestError(400, f"{key} in info is the server's own: it says {OWN[key]}.")
    for key, (fits, kind) in KINDS.items():
        if key in info and not fits(info[key]):
            raise RequestError(400, f"{key} in info must be {kind}, not {repr(info[key])[:60]}.")
    if "label_info" in info:
        segment_entries(info["label_info"])


OWN = {
    "scan": "which scan a label was saved for",
    "classes": "which structures its values are",
    "sha256": "which file was saved",
    "origin": "where a label comes from",
    "seg": "what of a label is in the DICOM server",
}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "ts": (_is_time, "a time in seconds since 1970"),
    "name": (_is_text, "a text"),
    "author": (_is_text, "a text"),
    "client_id": (_is_text, "a text"),
}
