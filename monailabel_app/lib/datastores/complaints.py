"""Sentences on names in a folder of scans that cannot all be used; each is logged once while it is true."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from monailabel.datastore.local import ImageLabelModel

from lib.datastores.listing import Listing

__all__ = ["Complaints"]

logger = logging.getLogger(__name__)


class Complaints:
    """Remembers what was said at the last look."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def tell(self, listing: Listing, index: Mapping[str, ImageLabelModel]) -> None:
        """Log what is new.

        Args:
            listing: of the folder.
            index: scan -> its entry, brought up to the listing.
        """
        sentences = listing.faults() | _scans_of_one_name(listing, index) | _labels_of_one_scan(listing, index)
        for sentence in sorted(sentences - self._said):
            logger.warning("%s", sentence)
        self._said = sentences


def _scans_of_one_name(listing: Listing, index: Mapping[str, ImageLabelModel]) -> set[str]:
    # A file that arrived this moment is in the list, and not yet in the index.
    return {f"{_listed(image_id, suffixes)} have one name: {image_id}{index[image_id].image.ext} is used alone; rename "
            "the others" for image_id, suffixes in listing.images.items() if len(suffixes) > 1 and image_id in index}


def _labels_of_one_scan(listing: Listing, index: Mapping[str, ImageLabelModel]) -> set[str]:
    found = set()
    for tag, labels in listing.labels.items():
        for image_id, suffixes in labels.items():
            used = index[image_id].labels.get(tag) if image_id in index else None
            if used is not None and len(suffixes) > 1:
                found.add(f"{_listed(image_id, suffixes)} in labels/{tag} are of one scan: the newest, "
                          f"{image_id}{used.ext}, is used; remove the others")
    return found


def _listed(image_id: str, suffixes: Sequence[str]) -> str:
    return " and ".join(sorted(f"{image_id}{ext}" for ext in suffixes))
