"""What clients write about a scan or a label: any keys, but those that this server reads must have their kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lib.errors import RequestError
from lib.labels.segments import segment_entries

__all__ = ["OWN", "require_sound_image_info", "require_sound_info"]


def require_sound_image_info(info: Mapping[str, Any]) -> None:
    """Raises: RequestError, 400, for a key of a scan's info that is the server's own or of the wrong kind."""
    require_sound_info(info)
    _require(info, OWN_OF_IMAGES, KINDS_OF_IMAGES)


def require_sound_info(info: Mapping[str, Any]) -> None:
    """Raises: RequestError, 400, for a key of a label's info that is the server's own or of the wrong kind."""
    _require(info, OWN, KINDS)
    if "label_info" in info:
        segment_entries(info["label_info"])


def _require(info: Mapping[str, Any], own: Mapping[str, str], kinds: Mapping[str, Kind]) -> None:
    for key in own.keys() & info.keys():
        raise RequestError(400, f"{key} in info is the server's own: it says {own[key]}.")
    for key, (fits, kind) in kinds.items():
        if key in info and not fits(info[key]):
            raise RequestError(400, f"{key} in info must be {kind}, not {repr(info[key])[:60]}.")


OWN = {
    "scan": "which scan a label was saved for",
    "classes": "which structures its values are",
    "sha256": "which file was saved",
    "origin": "where a label comes from",
    "seg": "what of a label is in the DICOM server",
}
# MONAI Label lays a scan's info over the answer of next sample.
OWN_OF_IMAGES = {
    "id": "which scan it is",
    "path": "where the scan lies",
    "reason": "why the scan is offered",
    "reserved_until": "how long the scan is kept for who was given it",
    "note": "what is unusual about an offer",
    "PatientID": "which patient a series of the DICOM server is of, and so whether it trains or validates",
}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


Kind = tuple[Callable[[Any], bool], str]
KINDS: dict[str, Kind] = {
    "ts": (_is_time, "a time in seconds since 1970"),
    "name": (_is_text, "a text"),
    "author": (_is_text, "a text"),
    "client_id": (_is_text, "a text"),
}
KINDS_OF_IMAGES: dict[str, Kind] = {
    # MONAI Label notes there who was given the scan, and when.
    "strategy": (lambda value: isinstance(value, dict), "a JSON object"),
}
