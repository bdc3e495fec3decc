"""Labels and masks as DICOM SEG objects in the DICOM server, where every viewer finds them."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib.datastores.pacs import PacsError, PacsRefusal
from lib.errors import RequestError, in_words
from lib.labels.seg_journal import SegJournal
from mnseg.errors import UserError

__all__ = ["SegExport"]

FINAL = "final"
IMPORTED = "imported"
NOTICE = "not for diagnosis"
FIRST_PAUSE, LONGEST_PAUSE = 60.0, 3600.0  # seconds until what was refused is tried again

logger = logging.getLogger(__name__)


class SegExport:
    """Writes DICOM SEG with dcmqi and stores them; everything it stores is noted before, so that it is known as ours.

    Args:
        app: has ``datastore()`` (`lib.datastores.dicomweb.DicomScans`), ``app_conf``, ``provenance``, ``infer_task``.
        journal: of segmentations.
        clock: seconds.

    Attributes:
        refused: image -> why its label could not be stored and is tried again later.
    """

    def __init__(self, app: Any, journal: SegJournal, clock: Callable[[], float] = time.monotonic) -> None:
        self.app, self.journal, self.clock = app, journal, clock
        self.refused: dict[str, str] = {}
        self._pauses: dict[str, tuple[float, float]] = {}  # label's token -> the pause, and when it ends
        self._failing: tuple[str, str, str] | None = None

    def run(self) -> int:
        """Store the labels that are owed; returns how many.

        A label that the server refuses, or for which there is no room on the disk, keeps none of the others waiting.

        Raises:
            PacsError: the server does not answer; what is owed stays owed.
        """
        store, stored = self.app.datastore(), 0
        owed = store.owed()
        self.refused = {image: why for image, why in self.refused.items() if image in owed}
        due = {image: info for image, info in owed.items() if self._is_due(info["seg"]["token"])}
        if due:
            self.app.submissions.wait()  # until it is noted which mask they began as
        for image, info in due.items():
            token = info["seg"]["token"]
            if info.get("author") == IMPORTED:
                store.settle(image, token, "not owed", why="It was imported from a folder.")
                continue
            try:
                uid = self._store_label(image, info)
            except PacsRefusal as error:
                self._later(image, token, error.sentence)
            except PacsError as error:
                self._failing = (image, token, error.sentence)
                raise
            except (UserError, RequestError, FileNotFoundError) as error:
                logger.warning("the label of %s is not stored as DICOM SEG: %s", image, error)
                store.settle(image, token, "failed", why=str(error))
            except OSError as error:
                self._later(image, token, f"It cannot be written: {in_words(error)}.")
            except Exception as error:  # whatever a library makes of it
                logger.exception("the label of %s", image)
                self._later(image, token, f"It cannot be converted ({type(error).__name__}).")
            else:
                store.settle(image, token, "stored", uid=uid)
                self._pauses.pop(token, None)
                self.refused.pop(image, None)
                stored += 1
        return stored

    def hold_back(self) -> None:
        """The server answers otherwise: what it did not answer was the label at which `run` ended, which waits now."""
        if self._failing is not None:
            self._later(*self._failing)
            self._failing = None

    def _is_due(self, token: str) -> bool:
        return self.clock() >= self._pauses.get(token, (0.0, float("-inf")))[1]

    def _later(self, image: str, token: str, why: str) -> None:
        """Try again after a pause, which doubles: each attempt converts the label anew."""
        if self.refused.get(image) != why:
            logger.warning("the label of %s is not stored as DICOM SEG yet, and tried again later: %s", image, why)
        pause = min(2 * self._pauses[token][0], LONGEST_PAUSE) if token in self._pauses else FIRST_PAUSE
        self.refused[image] = why
        self._pauses[token] = (pause, self.clock() + pause)

    def put_mask(self, image: str) -> dict[str, Any]:
        """Segment a scan with the published version and store the mask (AUTOMATIC).

        Raises:
            RequestError: there is no model yet, or it finds nothing.
        """
        store = self.app.datastore()
        folder = store.series_folder(image)
        mask, answer = self.app.infer_task("mnseg")(
            {"image": store.get_image_uri(image), "image_id": image, "name": image, "result_extension": ".nii.gz"}
        )
        from mnseg.data.dicom_seg_write import Origin
        from mnseg.data.volume_io import content_digest

        try:
            origin = Origin("AUTOMATIC", "mnseg", f"{answer['model']} mask")
            stored = self._write_and_store(image, folder, Path(mask), answer["model"], origin, content_digest(mask))
        finally:
            Path(mask).unlink(missing_ok=True)
        study = store.series_of(image).study
        return {"image": image, **stored, "StudyInstanceUID": study, "model": answer["model"],
                "version": answer["version"], "notice": NOTICE,
                "ohif": f"/ohif/segmentation?StudyInstanceUIDs={study}"}

    def _store_label(self, image: str, info: dict[str, Any]) -> str:
        from mnseg.data.dicom_seg_write import Origin

        store, edit = self.app.datastore(), self.app.provenance.of(image) or {}
        version = edit.get("served")
        kind = "MANUAL" if version is None else "AUTOMATIC" if edit.get("unedited") else "SEMIAUTOMATIC"
        origin = Origin(kind, str(info.get("author") or "unknown"), "mnseg label")
        label = Path(store.get_label_uri(image, FINAL))
        model = None if version is None else f"mnseg {version}"
        return self._write_and_store(image, store.series_folder(image), label, model, origin,
                                     info["seg"]["token"])["SOPInstanceUID"]

    def _write_and_store(
        self, image: str, series: Path, mask: Path, model: str | None, origin: Any, seed: str
    ) -> dict[str, str]:
        """The same image and seed give the same UIDs: what a killed server stored is not stored once more."""
        import pydicom

        from mnseg.data.dicom_seg_write import EmptyMaskError, write_dicom_seg

        with tempfile.TemporaryDirectory(prefix="mnseg-seg-") as work:
            path = Path(work) / "seg.dcm"
            try:
                write_dicom_seg(series, mask, path, self.app.app_conf.class_names, model, origin)
            except EmptyMaskError as error:
                raise RequestError(422, "There is nothing in the mask, and an empty DICOM SEG cannot be "
                                        "written.") from error
            dataset = pydicom.dcmread(path)
            uids = {name: pydicom.uid.generate_uid(entropy_srcs=[name, image, seed]) for name in ("SOP", "Series")}
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uids["SOP"]
            dataset.SeriesInstanceUID = uids["Series"]
            dataset.save_as(path)
            if (self.journal.get(uids["SOP"]) or {}).get("state") != "ours":  # noted by an attempt that failed
                self.journal.record(uids["SOP"], "ours", f"{origin.kind}, {model or origin.author}", image=image,
                                    series=uids["Series"], study=str(dataset.StudyInstanceUID), author=origin.author)
            self.app.datastore().pacs.store(path)
        return {"SOPInstanceUID": uids["SOP"], "SeriesInstanceUID": uids["Series"]}
