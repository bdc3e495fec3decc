"""Segmentations that a viewer stored in the DICOM server become labels, by rules that leave nothing to chance.

A SEG that refers to a known series is taken when a person made it (`lib.labels.seg_source`), its segments have the
names of the server's labels, and the scan has no final label yet. Over a final label it waits for a decision. What
equals a mask that was served, or the label that is there, is nothing new. Each SEG is judged once, and why is kept.

A SEG names series of its own study (what it refers to elsewhere, DICOM has it say in another sequence), so of studies
without a scan of ours none is fetched.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from lib.datastores.pacs import PacsError, PacsRefusal, Series
from lib.errors import RequestError, in_words
from lib.labels.seg_journal import SegJournal
from lib.labels.seg_source import facts_of, is_ours, why_not_a_label
from lib.labels.segments import class_values, classes_of
from mnseg.errors import UserError

__all__ = ["SegImport"]

FINAL = "final"

logger = logging.getLogger(__name__)


class SegImport:
    """Looks at the segmentations of the DICOM server.

    Args:
        app: has ``datastore()`` (`lib.datastores.dicomweb.DicomScans`), ``app_conf``, ``provenance``, ``submissions``.
        journal: what was looked at.

    Attributes:
        aside: UID of a SEG, or of a series of them -> why it could not be looked at; it is tried again.
    """

    def __init__(self, app: Any, journal: SegJournal) -> None:
        self.app, self.journal = app, journal
        self.aside: dict[str, str] = {}
        self._counts: dict[str, int] = {}  # objects of every series of segmentations when none was left to look at
        self._images: frozenset[str] = frozenset()
        self._told: dict[str, str] = {}  # what the log has said
        self._unanswered: set[str] = set()  # SEGs for which the server gave no answer; tried again in thorough looks
        self._lock = threading.Lock()

    @property
    def pacs(self) -> Any:
        return self.app.datastore().pacs

    def run(self, thorough: bool = False) -> list[dict[str, Any]]:
        """Look at what is new; returns the entries that were written.

        Args:
            thorough: also in series that have as many objects as before, of which one may have been replaced.

        Raises:
            PacsError: the server does not answer.
        """
        with self._lock:
            written: list[dict[str, Any]] = []
            if thorough:
                self.aside.clear()  # what is no longer there is not told of
                self._unanswered.clear()
            found, studies = self.pacs.segmentations(), self._studies()
            for series in sorted(found, key=lambda series: (series.date, series.time, series.uid)):
                known = None if thorough else self._counts.get(series.uid)
                if series.study not in studies or (series.files is not None and known == series.files):
                    continue
                is_done = self._look_through(series, written)
                if is_done and series.files is not None:
                    self._counts[series.uid] = series.files
            return written

    def _studies(self) -> set[str]:
        """Studies of the scans; when a scan has come or gone, every segmentation may be worth a look."""
        store = self.app.datastore()
        images = frozenset(store.list_images())
        if images != self._images:
            self._counts.clear()
            self._images = images
        return {series.study for image in images if (series := store.series_of(image))}

    def accept(self, uid: str, by: str) -> dict[str, Any]:
        """Let a pending SEG replace the scan's label.

        Raises:
            RequestError: 404, nothing of this UID is pending; 4xx, it cannot be used any more.
        """
        with self._lock, tempfile.TemporaryDirectory(prefix="mnseg-seg-") as work:
            entry = self._pending(uid)
            path = self._fetched(entry, Path(work))
            try:
                seg = _read(path)
                mask = self._mask(seg, entry["image"], Path(work))
            except UserError as error:
                raise RequestError(422, _sentence(error, path)) from error
            self._take(entry, mask, replace=True)
            return self.journal.record(uid, "taken", f"{by} let it replace the label that was there.", by=by)

    def reject(self, uid: str, by: str) -> dict[str, Any]:
        """Leave the scan's label as it is.

        Raises:
            RequestError: 404, nothing of this UID is pending.
        """
        with self._lock:
            self._pending(uid)
            return self.journal.record(uid, "rejected", f"{by} decided against it.", by=by)

    def _fetched(self, entry: Mapping[str, Any], work: Path) -> Path:
        uid = entry["uid"]
        try:
            return self.pacs.fetch(entry["study"], entry["series"], uid, work / f"{uid}.dcm")
        except PacsError as error:
            there = self.pacs.instances(Series(entry["series"], entry["study"]))  # raises when it does not answer
            if uid in there:
                raise
            raise RequestError(404, "This segmentation is no longer in the DICOM server; reject it.") from error

    def _pending(self, uid: str) -> dict[str, Any]:
        entry = self.journal.get(uid)
        if entry is None or entry["state"] != "pending":
            raise RequestError(404, f"No segmentation {uid[:80]!r} waits for a decision.")
        return entry

    # ---------------------------------------------------------------- new ones

    def _look_through(self, series: Series, written: list[dict[str, Any]]) -> bool:
        """Whether nothing of the series is worth another look before it, or the list of scans, changes.

        What the server refuses is asked for again in thorough looks alone.
        """
        is_done = True
        for uid in self._instances(series):
            if self.journal.is_settled(uid) or self._still_waits(uid) or uid in self._unanswered:
                continue
            try:
                entry = self._judge(series, uid)
            except PacsRefusal as error:
                self._set_aside(uid, error.sentence)
                continue
            except PacsError as error:
                self._set_aside(uid, error.sentence)
                self._unanswered.add(uid)
                raise
            except OSError as error:  # a full disk; it may be better the next time
                self._set_aside(uid, f"It cannot be looked at now: {in_words(error)}.")
                is_done = False
                continue
            except Exception as error:  # too large for the memory, say
                logger.exception("the segmentation %s", uid)
                self._set_aside(uid, f"It cannot be looked at ({type(error).__name__}).")
                continue
            self.aside.pop(uid, None)
            written.append(entry)
            log = logger.info if entry["state"] in ("taken", "ours") else logger.warning
            log("the segmentation %s (%s): %s. %s", uid, entry.get("description", ""), entry["state"], entry["reason"])
        return is_done

    def _instances(self, series: Series) -> list[str]:
        try:
            uids = self.pacs.instances(series)
        except PacsRefusal as error:
            self._set_aside(series.uid, error.sentence)
            return []
        self.aside.pop(series.uid, None)
        return uids

    def _set_aside(self, uid: str, why: str) -> None:
        """One that cannot be had must not keep out those behind it."""
        if self._told.get(uid) != why:
            logger.warning("the segmentation %s waits: %s", uid, why)
        self.aside[uid] = self._told[uid] = why

    def _still_waits(self, uid: str) -> bool:
        entry = self.journal.get(uid)
        if entry is None:
            return False
        return entry["state"] == "pending" or entry.get("image") not in self.app.datastore().list_images()

    def _judge(self, series: Series, uid: str) -> dict[str, Any]:
        place = {"study": series.study, "series": series.uid}
        with tempfile.TemporaryDirectory(prefix="mnseg-seg-") as work:
            path = self.pacs.fetch(series.study, series.uid, uid, Path(work) / f"{uid}.dcm")
            try:
                seg = _read(path)
                with _in_words(path):
                    facts = {**place, **facts_of(seg.dataset), "image": seg.series_uid}
            except UserError as error:
                return self.journal.record(uid, "unreadable", _sentence(error, path), **place)
            state, reason = self._decide(uid, seg, facts, Path(work))
            return self.journal.record(uid, state, reason, **facts)

    def _decide(self, uid: str, seg: Any, facts: Mapping[str, Any], work: Path) -> tuple[str, str]:
        """The state of a SEG and why; one that can be taken is."""
        if is_ours(seg.dataset):
            return "ours", "It was written by this program."
        if why := why_not_a_label(seg.dataset, self.app.app_conf.seg_sources):
            return "ignored", why
        image = seg.series_uid
        if not image:
            return "refused", "It does not say which series it segments."
        if image not in self.app.datastore().list_images():
            return "no scan", f"It segments the series {image[:80]}, which is not among the studies of this server."
        if why := self._other_patient(seg.dataset, image):
            return "refused", why
        try:
            mask = self._mask(seg, image, work)
            if why := self._nothing_new(image, mask):
                return "ignored", why
            if image in self.app.datastore().get_labeled_images():
                return "pending", self._why_pending(image)
            self._take({"uid": uid, "image": image, **facts}, mask, replace=False)
        except UserError as error:
            return "refused", _sentence(error, seg.path)
        except PacsError:
            raise
        except RequestError as error:
            if error.status == 409 and image in self.app.datastore().get_labeled_images():
                return "pending", self._why_pending(image)  # somebody was quicker
            return "refused", error.sentence
        return "taken", f"It is the label of the scan now, drawn by {facts['author']}."

    def _other_patient(self, dataset: Any, image: str) -> str:
        """Why it cannot belong to the scan: it says that it shows somebody else."""
        series = self.app.datastore().series_of(image)
        theirs, ours = str(dataset.get("PatientID") or "").strip(), series.patient if series else ""
        if theirs and ours and theirs != ours:
            return f"It is of the patient {theirs[:64]}, but the series that it names is of {ours[:64]}."
        return ""

    def _mask(self, seg: Any, image: str, work: Path) -> Path:
        """The SEG as a file with the server's classes on the grid of its scan.

        Raises:
            UserError, RequestError: it cannot be brought there.
        """
        from lib.labels.seg_grid import numbers_on_grid
        from mnseg.data.volume_io import open_volume

        scan = open_volume(self.app.datastore().get_image_uri(image))
        with _in_words(seg.path):
            numbers = numbers_on_grid(seg, scan)
        classes = class_values(self.app.app_conf.labels)
        mapping = classes_of([int(value) for value in np.unique(numbers) if value], classes, seg.labels, None)
        mask = np.zeros(numbers.shape, np.uint8)
        for number, value in mapping.items():
            mask[numbers == number] = value
        path = work / "label.nii.gz"
        nifti = nib.Nifti1Image(mask, scan.affine)
        nifti.set_qform(scan.affine, code=1)
        nifti.set_sform(scan.affine, code=1)
        nib.save(nifti, path)
        return path

    def _nothing_new(self, image: str, mask: Path) -> str:
        """Why a mask need not be taken: it is our own coming back, or the label that the scan has."""
        from mnseg.data.volume_io import content_digest

        if version := self.app.provenance.was_served(image, mask):
            return f"It equals the mask of mnseg {version} voxel for voxel: nobody has changed it."
        store = self.app.datastore()
        if image in store.get_labeled_images():
            label = store.get_label_uri(image, FINAL)
            if label and content_digest(label) == content_digest(mask):
                return "It equals the label that the scan has."
        return ""

    def _why_pending(self, image: str) -> str:
        info = self.app.datastore().get_label_info(image, FINAL)
        return (f"The scan has a final label, by {info.get('author', 'unknown')}: accept this one to replace it, or "
                "reject it.")

    def _take(self, entry: Mapping[str, Any], mask: Path, replace: bool) -> None:
        origin = {"kind": "DICOM SEG", **{key: entry.get(key, "") for key in
                                          ("uid", "series", "study", "made", "program", "description")}}
        self.app.submissions.take(entry["image"], mask, FINAL, {}, entry["author"], origin=origin, replace=replace)


def _read(path: Path) -> Any:
    from mnseg.data.dicom_seg_read import read_segmentation

    with _in_words(path):
        return read_segmentation(path)


@contextmanager
def _in_words(path: str | Path) -> Iterator[None]:
    """Whatever a damaged file makes libraries raise: none may keep out the segmentations behind it."""
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        logger.info("%s", path, exc_info=True)
        raise UserError(f"{path} is damaged, so it cannot be used ({type(error).__name__}).") from error


def _sentence(error: Exception, path: str | Path) -> str:
    """Without the place of a temporary file."""
    text = str(error).replace(str(path), "The segmentation")
    return text[:1].upper() + text[1:]
