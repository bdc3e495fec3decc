"""A folder of scans: MONAI Label's local datastore, whole after every fault and fit for several clients at once.

MONAI Label writes ``datastore_v2.json`` and labels in place: a server killed in between leaves half a file, with which
it does not start again. It also reloads the file behind the back of a request that is about to change it. Here every
file is written beside its place and renamed, one thread at a time reads or changes the index, and an index that cannot
be read is set aside and made anew from the files that are there.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore
from monailabel.interfaces.exception import ImageNotFoundException

from lib.datastores.away import Away
from lib.datastores.comparison import add_found, drop_missing, drop_overwritten, is_same, note_digests
from lib.datastores.complaints import Complaints
from lib.datastores.listing import EXTENSIONS, Listing, is_volume
from lib.datastores.lookout import Lookout
from lib.durable import durable_write
from lib.errors import RequestError
from lib.registry.parts import sha256_of
from lib.stamped import StampedDigests

__all__ = ["LocalScans"]

FINAL = "final"

logger = logging.getLogger(__name__)


class LocalScans(LocalDatastore):
    """A folder of NIfTI, NRRD and MetaImage files; labels lie in ``labels/final`` under the scans' names.

    Args:
        folder: must be writable.
        auto_reload: whether scans and labels that are put there or removed by others are noticed.

    Attributes:
        on_removed: called with the scan and the tag of a label that somebody deleted; None: all of the scan.
        on_changed: called with the scans whose final labels somebody put into the folder, or changed there. Looks write
            nothing into the index before it is set: what they found then is told, and written, at the next look.
    """

    def __init__(self, folder: str | os.PathLike, auto_reload: bool = True) -> None:
        self._guard = threading.RLock()
        self._away = Away(Path(folder) / ".datastore_away.json")
        self._complaints = Complaints()
        self._complaint = ""
        self._digests = StampedDigests()
        self._is_unsaved = False
        self._lookout = Lookout(self._look, "folder of scans")
        self.on_removed: Callable[[str, str | None], None] = lambda image_id, tag: None
        self.on_changed: Callable[[Collection[str]], Any] | None = None
        self._changed: set[str] = set()
        super().__init__(str(folder), extensions=[f"*{ext}" for ext in EXTENSIONS], auto_reload=auto_reload)
        if auto_reload:
            self._handler.on_moved = self._handler.on_closed = self._on_any_event
            self._lookout.start()

    def get_image_uri(self, image_id: str) -> str:
        """File of a scan; "" for an unknown one.

        A link is not followed: what it points to may have any name, and a reader goes by the suffix.
        """
        scan = self._datastore.objects.get(image_id)
        folder = self._datastore.image_path()
        return os.path.abspath(os.path.join(folder, self._filename(image_id, scan.image.ext))) if scan else ""

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """File of a label, as `get_image_uri`; "" for an unknown one."""
        label = self._datastore.label(label_id, label_tag)
        folder = self._datastore.label_path(label_tag)
        return os.path.abspath(os.path.join(folder, self._filename(label_id, label.ext))) if label else ""

    def datalist(self, full_path: bool = True) -> list[dict[str, str]]:
        """Files of the scans that have a final label: "image" and "label", by their names in this folder."""
        # Of this class: a store of series would fetch them.
        return [{"image": LocalScans.get_image_uri(self, image_id), "label": self.get_label_uri(image_id, FINAL)}
                for image_id in self._datastore.filter_by_tag(FINAL)]

    def add_image(self, image_id: str, image_filename: str, image_info: Mapping[str, Any] | None) -> str:
        """Copy a scan into the folder.

        Raises:
            RequestError: 409, there is a scan of this name, perhaps one that no look has found yet; labels may be its.
        """
        found, ext = self._to_id(os.path.basename(image_filename))
        image_id = image_id or found
        with self._guard:
            places = [Path(self._datastore.image_path()) / self._filename(image_id, suffix) for suffix in EXTENSIONS]
            if image_id in self._datastore.objects or any(os.path.lexists(place) for place in places):
                raise RequestError(409, f"There is an image {image_id!r} already; send it under another name.")
            name = self._filename(image_id, ext)
            _copy(image_filename, Path(self._datastore.image_path()) / name)
            info = {**(image_info or {}), "ts": int(time.time()), "name": name}
            self._datastore.objects[image_id] = ImageLabelModel(image=DataModel(info=info, ext=ext))
            self._update_datastore_file()
        return image_id

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any] | None) -> str:
        """Take a label in; what lies there for this scan and tag, under whichever suffix, is replaced."""
        _, ext = self._to_id(os.path.basename(label_filename))
        with self._guard:
            scan = self._datastore.objects.get(image_id)
            if scan is None:
                raise ImageNotFoundException(f"Image {image_id} not found")
            folder = Path(self._datastore.label_path(label_tag))
            name = self._filename(image_id, ext)
            _copy(label_filename, folder / name)
            info = {**(label_info or {}), "ts": int(time.time()), "name": name, "sha256": sha256_of(label_filename)}
            scan.labels[label_tag] = DataModel(info=info, ext=ext)
            self._away.forget(image_id, label_tag)
            self._update_datastore_file()
            for other in (folder / self._filename(image_id, suffix) for suffix in EXTENSIONS if suffix != ext):
                if is_volume(other):
                    other.unlink(missing_ok=True)
        return image_id

    def label_files(self, image_id: str, tag: str) -> list[Path]:
        """What lies where labels of this scan and tag do, also a file that somebody has put there this moment."""
        places = [Path(self._datastore.label_path(tag)) / self._filename(image_id, suffix) for suffix in EXTENSIONS]
        return [place for place in places if is_volume(place)]

    def remove_image(self, image_id: str) -> None:
        """Remove a scan and its labels from the folder; what a link there points to stays.

        Raises:
            ImageNotFoundException: there is no such scan.
        """
        scan = self._datastore.objects.get(image_id)
        if scan is None:
            raise ImageNotFoundException(f"Image {image_id} not found")
        for tag in list(scan.labels):
            self._drop_label(image_id, tag)
        (Path(self._datastore.image_path()) / self._filename(image_id, scan.image.ext)).unlink(missing_ok=True)
        del self._datastore.objects[image_id]
        self._write_removal()
        self._away.forget(image_id)
        self.on_removed(image_id, None)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label from the folder, under whichever suffix; what a link there points to stays."""
        if self._datastore.label(label_id, label_tag) is not None:
            self._drop_label(label_id, label_tag)
        self._write_removal()
        self._away.forget(label_id, label_tag)
        self.on_removed(label_id, label_tag)

    def _drop_label(self, image_id: str, tag: str) -> None:
        labels = self._datastore.objects[image_id].labels
        known = Path(self._datastore.label_path(tag)) / self._filename(image_id, labels[tag].ext)
        for file in {known, *self.label_files(image_id, tag)}:  # a link that is dead now is known alone
            file.unlink(missing_ok=True)
        del labels[tag]

    def _write_removal(self) -> None:
        """On a full disk things are removed to make room: the next look writes the index then."""
        self._is_unsaved = True
        try:
            self._update_datastore_file()
        except OSError as error:
            logger.warning("%s cannot be written yet: %s", self._datastore_config_path, error)
        self._lookout.notice()  # another file may have the name

    def _reconcile_datastore(self) -> None:
        """Compare the index with the files.

        They are listed and read without the lock, since others would wait for the disk. With it files are looked at
        again that changed meanwhile, and the index is written.
        """
        listing = Listing.of(self._datastore.image_path(), self._datastore.label_path(None))
        read = {(tag, image_id, ext): sha256 for tag, image_id, ext in listing.each_label()
                if (sha256 := self._digest(listing.label_path(image_id, tag, ext)))}
        with self._guard:
            self._init_from_datastore_file()
            index = self._datastore.objects
            gone = drop_missing(index, listing)
            self._away.note(gone)
            if not self._is_unsaved:
                self._away.save()
            added = add_found(index, listing, self._digest)
            returned = self._away.bring_back(index, lambda image_id, tag, label, earlier: is_same(
                listing.label_path(image_id, tag, label.ext), label, earlier, self._digest))
            overwritten = drop_overwritten(index, listing, read, self._digest)
            noted = note_digests(index, read)
            self._is_unsaved |= bool(gone or added or overwritten or noted)
            self._changed |= {image_id for image_id, tag in (added - returned) | overwritten if tag == FINAL}
            # A start that does not come as far as listening must not make known what nobody has been told.
            is_told = not self._changed or self.on_changed is not None
            if is_told and (self._is_unsaved or self._changed):
                self._update_datastore_file()
            if not self._is_unsaved:
                self._away.save()  # not before the index has what came back
            self._complaints.tell(listing, index)

    def _digest(self, path: Path) -> str | None:
        try:
            return self._digests.of(path)
        except OSError:  # away, or it cannot be read
            return None

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
        # Not json.dumps of model_dump: with thousands of scans that takes ten times as long, and others wait.
        text = self._datastore.model_dump_json(exclude={"base_path"})
        path = Path(self._datastore_config_path)
        with self._guard, FileLock(self._lock_file):
            if self._changed and self.on_changed is not None:
                # Before the index says that they are known: a kill in between tells once more, not less.
                self.on_changed(frozenset(self._changed))
                self._changed.clear()
            durable_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
            self._config_ts = os.stat(path).st_mtime
            self._is_unsaved = False

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

    def _on_any_event(self, event: Any) -> None:
        index = self._datastore_config_path
        if index not in (event.src_path, event.dest_path) or self._is_of_others():
            self._lookout.notice()

    def _on_modify_event(self, event: Any) -> None:
        # A scan that is being copied is modified many times; that it is whole is an event of its own.
        if event.src_path == self._datastore_config_path:
            self._on_any_event(event)

    def _is_of_others(self) -> bool:
        """Whether somebody else wrote the index last."""
        with self._guard:  # until the store has noted what it is writing at this moment
            try:
                return os.stat(self._datastore_config_path).st_mtime != self._config_ts
            except OSError:
                return True


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
    "update_label_info", "set_name", "set_description", "status", "json", "_init_from_datastore_file",
):  # fmt: skip
    setattr(LocalScans, _name, _guarded(getattr(LocalScans, _name)))
