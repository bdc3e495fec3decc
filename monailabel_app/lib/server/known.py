"""Only images and labels of the datastore: never a path of the server, which MONAI Label would take for an image."""

from __future__ import annotations

import re
from typing import Any

from lib.errors import RequestError

__all__ = ["require_image", "require_label", "require_tag"]

TAG = re.compile(r"final|original|version_\d{1,6}")  # Slicer's reviewer writes version_1, version_2, …


def require_image(datastore: Any, image_id: str) -> None:
    """Raises: RequestError, 404, when the datastore has no image of this id."""
    if image_id not in datastore.list_images():
        raise RequestError(404, f"There is no image {_shown(image_id)} among the studies.")


def require_label(datastore: Any, label_id: str, tag: str) -> None:
    """Raises: RequestError, 404, when the image has no label of this tag."""
    require_image(datastore, label_id)
    if tag not in datastore.get_labels_by_image_id(label_id):
        raise RequestError(404, f"The image {_shown(label_id)} has no label {_shown(tag)}.")


def require_tag(tag: str) -> str:
    """The tag that a label may be saved under; empty means final.

    Raises:
        RequestError: 400; a tag is the name of a folder.
    """
    if tag and not TAG.fullmatch(tag):
        raise RequestError(400, f"A label cannot be saved as {_shown(tag)}: use final, original or version_N.")
    return tag or "final"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
