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
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore, LocalDatastoreModel
from monailabel.interfaces.exception import ImageNotFoundException

from lib.durable import durable_write
from lib.errors import RequestError
from lib.registry.parts import sha256_of
from lib.stamped import StampedDigests

__all__ = ["EXTENSIONS", "LocalScans"]

EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".mha")
LOOK_SECONDS = 30.0  # besides what the operating system tells of the folder at once

logger = logging.getLogger(__name__)


class LocalScans(LocalDatastore):
    """A folder of NIfTI, NRRD and MetaImage files; labels lie in ``labels/final`` under the scans' names.

    Args:
        folder: must be writable.
        auto_reload: whether scans and labels that are put there or removed by others are noticed.

    Attributes:
        on_removed: called with the scan and the tag of a label that somebody deleted; None: all of the scan.
    """

    def __init__(self, folder: str | os.PathLike, auto_reload: bool = True) -> None:
        self._guard = threading.RLock()
        self._away_path = Path(folder) / ".datastore_away.json"
        self._away = self._read_away(self._away_path)
        self.doubles: dict[str, list[str]] = {}
        self._complaint = ""
        self._digests = StampedDigests()
        self.on_removed: Callable[[str, str | None], None] = lambda image_id, tag: None
        super().__init__(str(folder), extensions=[f"*{ext}" for ext in EXTENSIONS], auto_reload=auto_reload)
        if auto_reload:
            self._handler.on_moved = self._on_any_event
            threading.Thread(target=self._look_regularly, name="folder of scans", daemon=True).start()

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
            info = {**(label_info or {}), "ts": int(time.time()), "name": name, "sha256": sha256_of(label_filename)}
            scan.labels[label_tag] = DataModel(info=info, ext=ext)
            self._forget(image_id, label_tag)
            self._update_datastore_file()
            if before is not None and before.ext != ext:
                (folder / self._filename(image_id, before.ext)).unlink(missing_ok=True)
        return image_id

    def remove_image(self, image_id: str) -> None:
        """Remove a scan and its labels from the folder; what a link there points to stays.

        Raises:
            ImageNotFoundException: there is no such scan.
        """
        scan = self._datastore.objects.get(image_id)
        if scan is None:
            raise ImageNotFoundException(f"Image {image_id} not found")
        for tag in list(scan.labels):
            self.remove_label(image_id, tag)
        (Path(self._datastore.image_path()) / self._filename(image_id, scan.image.ext)).unlink(missing_ok=True)
        self._look()
        self._forget(image_id)
        self.on_removed(image_id, None)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label from the folder; what a link there points to stays."""
        label = self._datastore.label(label_id, label_tag)
        if label is not None:
            (Path(self._datastore.label_path(label_tag)) / self._filename(label_id, label.ext)).unlink(missing_ok=True)
        self._look()
        self._forget(label_id, label_tag)
        self.on_removed(label_id, label_tag)

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        if not self.datalist():
            raise RequestError(404, "No scan has a final label yet, so there is nothing to download.")
        return super().get_dataset_archive(limit_cases)

    def _reconcile_datastore(self) -> None:
        """Compare the index with the files. What is known of scans and labels that are away is kept, also over a
        restart: they may be back soon.

        A share that was unmounted, or a folder that is being synchronized, must not cost authors and names of labels.
        """
        before = {image_id: (entry, dict(entry.labels)) for image_id, entry in self._datastore.objects.items()}
        changes = self._remove_non_existing() + self._add_non_existing_images()
        labels = Path(self._datastore.label_path(None))
        for tag in [folder.name for folder in labels.iterdir() if folder.is_dir()] if labels.is_dir() else []:
            changes += self._add_non_existing_labels(tag)
        changes += self._forget_overwritten()
        if changes:
            self._update_datastore_file()
        self._tell_of_doubles()
        now = self._datastore.objects
        known = self._away.model_dump()
        for image_id, (entry, labels) in before.items():
            here = now[image_id].labels if image_id in now else {}
            gone = {tag: label for tag, label in labels.items() if tag not in here}
            if gone or image_id not in now:
                earlier = self._away.objects.get(image_id)
                kept = {**(earlier.labels if earlier else {}), **gone}
                self._away.objects[image_id] = ImageLabelModel(image=entry.image, labels=kept)
        if self._bring_back():
            self._update_datastore_file()
        if self._away.model_dump() != known:
            self._save_away()

    def _forget_overwritten(self) -> int:
        """A label that somebody overwrote in the folder is no longer its author's; how many there were."""
        found = 0
        for image_id, entry in self._datastore.objects.items():
            for tag, label in entry.labels.items():
                path = Path(self._datastore.label_path(tag)) / self._filename(image_id, label.ext)
                if "sha256" in label.info and self._is_another(path, label.info["sha256"]):
                    label.info = {"ts": int(time.time()), "name": label.info.get("name", path.name)}
                    found += 1
        return found

    def _is_another(self, path: Path, sha256: str) -> bool:
        try:
            return self._digests.of(path) != sha256
        except OSError:  # away, or just being written
            return False

    def _forget(self, image_id: str, tag: str | None = None) -> None:
        """What was known of a label that was removed on purpose, or of those of a scan, is not its successor's."""
        earlier = self._away.objects.get(image_id)
        if earlier is None or tag not in (None, *earlier.labels):
            return
        if tag is not None:
            del earlier.labels[tag]
        if tag is None or not earlier.labels:
            del self._away.objects[image_id]
        self._save_away()

    def _save_away(self) -> None:
        text = self._away.model_dump_json()
        try:
            durable_write(self._away_path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        except OSError as error:  # a full disk; it is in memory, and nobody asked for it
            logger.warning("%s cannot be written: %s", self._away_path, error)

    def _bring_back(self) -> bool:
        """Give labels that are back what was known of them; whether there were any."""
        found = False
        for image_id in [image_id for image_id in self._away.objects if image_id in self._datastore.objects]:
            entry, earlier = self._datastore.objects[image_id], self._away.objects[image_id]
            if earlier.image.info.keys() - entry.image.info.keys() and entry.image.ext == earlier.image.ext:
                entry.image.info, found = {**earlier.image.info, **entry.image.info}, True
            for tag in [tag for tag in earlier.labels if tag in entry.labels]:
                found |= self._is_as_before(image_id, tag, entry.labels[tag], earlier.labels.pop(tag))
            if not earlier.labels:
                del self._away.objects[image_id]
        return found

    def _is_as_before(self, image_id: str, tag: str, label: DataModel, earlier: DataModel) -> bool:
        """Whether it is the same file, which then gets its author back; another one is somebody else's label."""
        path = Path(self._datastore.label_path(tag)) / self._filename(image_id, label.ext)
        if label.ext != earlier.ext or not _is_the_file(path, earlier.info):
            return False
        label.info = {**label.info, **earlier.info}
        return True

    def _tell_of_doubles(self) -> None:
        """Of two scans with one name and different suffixes only one can be seen."""
        files: dict[str, list[str]] = {}
        for file in sorted(self._list_files(self._datastore.image_path(), self._extensions)):
            files.setdefault(self._to_id(file)[0], []).append(file)
        doubles = {image_id: names for image_id, names in files.items() if len(names) > 1}
        # A file that arrived this moment is in the list, and not yet in the index.
        for image_id in (doubles.keys() - self.doubles.keys()) & self._datastore.objects.keys():
            used = self._filename(image_id, self._datastore.objects[image_id].image.ext)
            logger.warning("%s have one name: %s is used alone; rename the others",
                           " and ".join(doubles[image_id]), used)
        self.doubles = doubles

    @staticmethod
    def _read_away(path: Path) -> LocalDatastoreModel:
        try:
            return LocalDatastoreModel.model_validate_json(path.read_bytes())
        except (OSError, ValueError):  # nothing was away, or a file that says nothing
            return LocalDatastoreModel(name="away", description="labels whose files are away")

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

    def _look(self) -> None:
        """Compare the index with the files; what fails now, the next look tries again.

        A folder that is away or a disk that is full must not end the thread that watches: the server would be deaf.
        """
        try:
            self.refresh()
            complaint = ""
        except Exception as error:  # whatever a disk or a network can do
            complaint = f"{type(error).__name__}: {error}"
        if complaint and complaint != self._complaint:
            logger.warning("%s cannot be looked through (%s): it is tried again", self._datastore_path, complaint)
        self._complaint = complaint

    def _look_regularly(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            self._look()

    def _on_any_event(self, event: Any) -> None:
        self._look()

    def _on_modify_event(self, event: Any) -> None:
        # A replaced file arrives as another event; what else changes the index is seen by its time stamp.
        if event.src_path == self._datastore_config_path:
            self._look()


def _is_the_file(path: Path, info: Mapping[str, Any]) -> bool:
    """Whether it is the file that was noted so; of older servers' labels, and of others', the time is known alone."""
    try:
        if "sha256" in info:
            return sha256_of(path) == info["sha256"]
        return path.stat().st_mtime <= info.get("ts", 0) + 5
    except OSError:  # gone again, or it cannot be read
        return False


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
