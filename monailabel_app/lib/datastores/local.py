"""A folder of scans: MONAI Label's local datastore, whole after every fault and fit for several clients at once.

MONAI Label writes ``datastore_v2.json`` and labels in place: a server killed in between leaves half a file, with which
it does not start again. It also reloads the file behind the back of a request that is about to change it. Here every
file is written beside its place and renamed, one thread at a time reads or changes the index, and an index that cannot
be read is set aside and made anew from the files that are there.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore
from monailabel.interfaces.exception import ImageNotFoundException

from lib.durable import durable_write
from lib.errors import RequestError

__all__ = ["EXTENSIONS", "LocalScans"]

EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".mha")

logger = logging.getLogger(__name__)


class LocalScans(LocalDatastore):
    """A folder of NIfTI, NRRD and MetaImage files; labels lie in ``labels/final`` under the scans' names.

    Args:
        folder: must be writable.
        auto_reload: whether scans and labels that are put there or removed by others are noticed.
    """

    def __init__(self, folder: str | os.PathLike, auto_reload: bool = True) -> None:
        self._guard = threading.RLock()
        self._away: dict[str, ImageLabelModel] = {}
        super().__init__(str(folder), extensions=[f"*{ext}" for ext in EXTENSIONS], auto_reload=auto_reload)

    def add_image(self, image_id: str, image_filename: str, image_info: Mapping[str, Any] | None) -> str:
        """Copy a scan into the folder.

        Raises:
            RequestError: 409, there is a scan of this name; labels may belong to it.
        """
        found, ext = self._to_id(os.path.basename(image_filename))
        image_id = image_id or found
        with self._guard:
            if image_id in self._datastore.objects:
                raise RequestError(409, f"There is an image {image_id!r} already; send it under another name.")
            name = self._filename(image_id, ext)
            _copy(image_filename, Path(self._datastore.image_path()) / name)
            info = {**(image_info or {}), "ts": int(time.time()), "name": name}
            self._datastore.objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=ext))
            self._update_datastore_file()
        return image_id

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any] | None) -> str:
        """Take a label in; an older one of this scan and tag is replaced in one step."""
        _, ext = self._to_id(os.path.basename(label_filename))
        with self._guard:
            scan = self._datastore.objects.get(image_id)
            if scan is None:
                raise ImageNotFoundException(f"Image {image_id} not found")
            folder = Path(self._datastore.label_path(label_tag))
            name = self._filename(image_id, ext)
            _copy(label_filename, folder / name)
            before = scan.labels.get(label_tag)
            info = {**(label_info or {}), "ts": int(time.time()), "name": name}
            scan.labels[label_tag] = DataModel(info=info, ext=ext)
            self._update_datastore_file()
            if before is not None and before.ext != ext:
                (folder / self._filename(image_id, before.ext)).unlink(missing_ok=True)
        return image_id

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        if not self.datalist():
            raise RequestError(404, "No scan has a final label yet, so there is nothing to download.")
        return super().get_dataset_archive(limit_cases)

    def _reconcile_datastore(self) -> None:
        """Compare the index with the files. What is known of scans that are away is kept: they may be back soon.

        A share that was unmounted, or a folder that is being synchronized, must not cost authors and names of labels.
        """
        before = dict(self._datastore.objects)
        super()._reconcile_datastore()
        now = self._datastore.objects
        self._away |= {image_id: entry for image_id, entry in before.items() if image_id not in now}
        if back := [image_id for image_id in self._away if image_id in now]:
            for image_id in back:
                _remember(now[image_id], self._away.pop(image_id))
            self._update_datastore_file()

    def _to_id(self, file: str) -> tuple[str, str]:
        ext = next((ext for ext in EXTENSIONS if file.endswith(ext)), Path(file).suffix)
        return file.removesuffix(ext), ext

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        try:
            super()._init_from_datastore_file(throw_exception=True)
        except ValueError as error:
            path = Path(self._datastore_config_path)
            aside = path.with_name(f"{path.name}.broken-{time.strftime('%Y%m%d-%H%M%S')}")
            os.replace(path, aside)
            logger.warning("%s cannot be read (%s); it is now %s, and a new one is made from the files",
                           path, str(error).splitlines()[0], aside.name)
            # While the server runs, what is in memory is the newer truth.
            self._update_datastore_file()

    def _update_datastore_file(self, lock: bool = True) -> None:
        content = self._datastore.model_dump(exclude={"base_path"})
        text = json.dumps(content, indent=2, default=str)
        path = Path(self._datastore_config_path)
        with self._guard, FileLock(self._lock_file):
            durable_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
            self._config_ts = os.stat(path).st_mtime

    def _on_modify_event(self, event: Any) -> None:
        # A replaced file arrives as another event; what else changes the index is seen by its time stamp.
        if event.src_path == self._datastore_config_path:
            self._init_from_datastore_file()


def _remember(entry: ImageLabelModel, earlier: ImageLabelModel) -> None:
    """Give a scan that is back, and its labels, what was known of them."""
    pairs = [(entry.image, earlier.image)]
    pairs += [(label, earlier.labels[tag]) for tag, label in entry.labels.items() if tag in earlier.labels]
    for new, old in pairs:
        if new.ext == old.ext:
            new.info = {**new.info, **old.info}


def _copy(source: str | os.PathLike, target: Path) -> None:
    durable_write(target, lambda temporary: shutil.copyfile(source, temporary))


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(self: LocalScans, *args: Any, **kwargs: Any) -> Any:
        with self._guard:
            return method(self, *args, **kwargs)

    return run


# Everything that reads or changes the index, MONAI Label's own methods included: a reader must not meet a change.
for _name in (
    "datalist", "get_image_uri", "get_image_info", "get_label_uri", "get_labels_by_image_id", "get_label_info",
    "get_labeled_images", "get_unlabeled_images", "list_images", "remove_image", "remove_label", "update_image_info",
    "update_label_info", "set_name", "set_description", "refresh", "status", "json", "_reconcile_datastore",
    "_init_from_datastore_file",
):  # fmt: skip
    setattr(LocalScans, _name, _guarded(getattr(LocalScans, _name)))
