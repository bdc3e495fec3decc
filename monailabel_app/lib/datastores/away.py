"""What is known of scans and labels whose files are away, also over a restart: they may be back soon.

A share that was unmounted, or a folder that is being synchronized, must not cost authors and names of labels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastoreModel

from lib.durable import durable_write

__all__ = ["Away"]

logger = logging.getLogger(__name__)


class Away:
    """Entries of MONAI Label's index that have left it.

    Args:
        path: of the file that keeps them; one that cannot be read says nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._known = LocalDatastoreModel.model_validate_json(path.read_bytes())
        except (OSError, ValueError):
            self._known = LocalDatastoreModel(name="away", description="labels whose files are away")
        self._saved = self._known.model_dump_json()

    def note(self, gone: Mapping[str, ImageLabelModel]) -> None:
        """Remember what left the index: scan -> its entry, with the labels that are gone."""
        for image_id, entry in gone.items():
            earlier = self._known.objects.get(image_id)
            labels = {**(earlier.labels if earlier else {}), **entry.labels}
            self._known.objects[image_id] = ImageLabelModel(image=entry.image, labels=labels)

    def forget(self, image_id: str, tag: str | None = None) -> None:
        """What was known of a label that was removed on purpose, or of those of a scan, is not its successor's."""
        earlier = self._known.objects.get(image_id)
        if earlier is None or tag not in (None, *earlier.labels):
            return
        if tag is not None:
            del earlier.labels[tag]
        if tag is None or not earlier.labels:
            del self._known.objects[image_id]
        self.save()

    def bring_back(
        self, index: Mapping[str, ImageLabelModel], is_same: Callable[[str, str, DataModel, DataModel], bool]
    ) -> set[tuple[str, str]]:
        """Give scans and labels that are back what was known of them.

        Args:
            index: scan -> its entry, which is changed.
            is_same: called with scan, tag, the label and the earlier one: whether it is the same file, which then gets
                its author back; another one is somebody else's label.

        Returns:
            Scans and tags of the labels that are the same as before.
        """
        returned = set()
        for image_id in [image_id for image_id in self._known.objects if image_id in index]:
            entry, earlier = index[image_id], self._known.objects[image_id]
            if entry.image.ext == earlier.image.ext:
                entry.image.info = {**earlier.image.info, **entry.image.info}
            for tag in [tag for tag in earlier.labels if tag in entry.labels]:
                before = earlier.labels.pop(tag)
                if is_same(image_id, tag, entry.labels[tag], before):
                    entry.labels[tag].info = {**entry.labels[tag].info, **before.info}
                    returned.add((image_id, tag))
            if not earlier.labels:
                del self._known.objects[image_id]
        return returned

    def save(self) -> None:
        """Write what has changed. A full disk is told: it is in memory, and nobody asked for it."""
        text = self._known.model_dump_json()
        if text == self._saved:
            return
        try:
            durable_write(self.path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        except OSError as error:
            logger.warning("%s cannot be written: %s", self.path, error)
        else:
            self._saved = text
