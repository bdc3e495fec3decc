"""Scans of a DICOMweb server: fetched when they are asked for, kept as NIfTI files on the grid of their series.

The list of scans, their patients and studies come from the server; labels are kept here. So a final label is never
lost with a server that does not answer, and training reads files. MONAI Label's own store takes any segmentation in the
server for a label, asks for all of them at every status, and keeps lists for two hours.

    <series>/            the DICOM files, which a DICOM SEG is made with
    <series>.nii.gz      the scan, as `mnseg.data.volume_io` reads the series
    <series>.json        which files the series had when it was fetched, and what is wrong with it
    series.json          what the server last said of the series
    labels/final/        labels, on the scans' grids
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.exception import ImageNotFoundException

from lib.datastores.copies import UID, SeriesCopies
from lib.datastores.local import LocalScans
from lib.datastores.pacs import Pacs, PacsError, Series
from lib.durable import durable_json
from lib.errors import RequestError

__all__ = ["DicomScans"]

FINAL = "final"
FETCHING = 16  # locks
PATIENCE = 2.0  # seconds

logger = logging.getLogger(__name__)


class DicomScans(LocalScans):
    """The series of a DICOMweb server as MONAI Label's datastore; a scan's id is its SeriesInstanceUID.

    Args:
        pacs: the server.
        folder: of the copies and labels; it belongs to this store alone.
        search_filter: which series, such as ``{"Modality": "CT"}``.
        fresh_seconds: how long the list of series is good.
        clock: seconds.
    """

    def __init__(
        self,
        pacs: Pacs,
        folder: str | os.PathLike,
        search_filter: Mapping[str, Any],
        fresh_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pacs, self.folder, self.search_filter = pacs, Path(folder), dict(search_filter)
        self.fresh_seconds, self.clock = fresh_seconds, clock
        self.unreachable = ""  # why the list of series is not up to date
        self._asking, self._fetching = threading.Lock(), [threading.Lock() for _ in range(FETCHING)]
        self._asked: float | None = None
        super().__init__(self.folder, auto_reload=False)
        self.on_changed = lambda images: None  # nobody else puts labels into this folder
        for left in self.folder.glob(".*.*"):  # of a killed server
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
        self._series = self._remembered()
        self._copies = SeriesCopies(pacs, self.folder, fresh_seconds, clock)

    def name(self) -> str:
        return self.pacs.url

    def description(self) -> str:
        return f"Series of {self.pacs.url}"

    # ---------------------------------------------------------------- scans

    def list_images(self) -> list[str]:
        """Series of the server, without those that turned out to be no volumes.

        While the server does not answer, the last list is good.

        Raises:
            PacsError: there is none yet.
        """
        series = self._fresh()
        return [uid for uid in series if not self._copies.fault(series[uid])]

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """DICOM attributes of a series; nothing is fetched."""
        series = self._fresh().get(image_id)
        info = super().get_image_info(image_id)
        return info if series is None else {**info, **_attributes(series)}

    def get_image_uri(self, image_id: str) -> str:
        """File of a scan, fetched if it is not here yet; "" for an unknown one.

        Raises:
            PacsError: the server does not answer.
            RequestError: 422, the series is no volume that can be used.
        """
        series = self._fresh().get(image_id)
        path = self.folder / f"{image_id}.nii.gz"
        if series is None:
            return str(path) if path.is_file() and UID.fullmatch(image_id) else ""
        with self._fetching[hash(image_id) % FETCHING]:
            if fault := self._copies.fault(series):
                raise RequestError(422, fault)
            if not self._copies.is_here(series, is_away=bool(self.unreachable)):
                self._copies.fetch(series)
                with self._guard:
                    self.refresh()
                    self.update_image_info(series.uid, _attributes(series))
        return str(path)

    def series_folder(self, image_id: str) -> Path:
        """Folder with the DICOM files of a scan, fetched if they are not here yet.

        Raises:
            PacsError, RequestError: as `get_image_uri`; 404, there is no such series.
        """
        if not self.get_image_uri(image_id):
            raise RequestError(404, f"There is no series {image_id[:80]!r} among the studies.")
        return self.folder / image_id

    def series_of(self, image_id: str) -> Series | None:
        """What the server says of a scan."""
        return self._fresh().get(image_id)

    def unusable(self) -> dict[str, str]:
        """Series that are no volumes, and why."""
        return {uid: fault for uid, series in self._fresh().items() if (fault := self._copies.fault(series))}

    def status(self) -> dict[str, Any]:
        return {**super().status(), "unusable": self.unusable(), "unreachable": self.unreachable}

    def json(self) -> dict[str, Any]:
        """MONAI Label's index, with the series that nobody has asked for yet."""
        content = super().json()
        known, series = content["objects"], self._fresh()
        content["objects"] = {
            uid: known.get(uid) or {"image": {"info": _attributes(series[uid]), "ext": ".nii.gz"}, "labels": {}}
            for uid in self.list_images()
        }
        return content

    def add_image(self, image_id: str, image_filename: str, image_info: Mapping[str, Any] | None) -> str:
        raise RequestError(400, "The scans lie in a DICOMweb server: send them there.")

    def remove_image(self, image_id: str) -> None:
        raise RequestError(400, "The scans lie in a DICOMweb server: remove them there.")

    # ---------------------------------------------------------------- labels

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        known = set(self.list_images())
        return [image for image in super().get_labeled_images(label_tag, labels) if image in known]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        labeled = set(super().get_labeled_images(label_tag, labels))
        return [image for image in self.list_images() if image not in labeled]

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any] | None) -> str:
        """Keep a label; a final one is owed to the server as DICOM SEG, unless it came from there (`owed`)."""
        if not self.get_image_uri(image_id):
            raise ImageNotFoundException(f"Image {image_id} not found")
        info = dict(label_info or {})
        if label_tag == FINAL:
            info["seg"] = {"state": "not owed" if "origin" in info else "owed", "token": uuid.uuid4().hex}
        return super().save_label(image_id, label_filename, label_tag, info)

    def owed(self) -> dict[str, dict[str, Any]]:
        """Final labels that the server should hold as DICOM SEG and does not: image -> what is known of the label."""
        return self._in_state("owed")

    def failed(self) -> dict[str, str]:
        """Final labels that cannot become DICOM SEG: image -> why."""
        return {image: str(info["seg"].get("why", "")) for image, info in self._in_state("failed").items()}

    def _in_state(self, state: str) -> dict[str, dict[str, Any]]:
        with self._guard:
            infos = {image: self.get_label_info(image, FINAL) for image in super().get_labeled_images()}
            return {image: dict(info) for image, info in infos.items()
                    if isinstance(info.get("seg"), dict) and info["seg"].get("state") == state}

    def settle(self, image_id: str, token: str, state: str, **facts: Any) -> None:
        """Note what became of an owed label, unless a newer one has taken its place."""
        with self._guard:
            info = self.get_label_info(image_id, FINAL)
            if (info.get("seg") or {}).get("token") == token:
                self.update_label_info(image_id, FINAL, {"seg": {"state": state, "token": token, **facts}})

    # ---------------------------------------------------------------- the list of series

    def _fresh(self) -> dict[str, Series]:
        """The series by UID.

        One thread asks the server at a time; the others are content with the last answer. So is, after a moment, the
        request that made it ask: a status poll must not wait for a server that hangs.
        """
        if self._is_good():
            return self._series
        if not self._series:
            with self._asking:
                if not self._is_good():
                    self._ask()
        elif self._asking.acquire(blocking=False):
            asking = threading.Thread(target=self._ask_and_release, name="series", daemon=True)
            asking.start()
            asking.join(PATIENCE)
        return self._series

    def _is_good(self) -> bool:
        return self._asked is not None and self.clock() - self._asked < self.fresh_seconds

    def _ask_and_release(self) -> None:
        try:
            self._ask()
        except Exception:
            logger.exception("the list of series could not be renewed")
        finally:
            self._asking.release()

    def _ask(self) -> None:
        try:
            found = {series.uid: series for series in self.pacs.series(self.search_filter) if UID.fullmatch(series.uid)}
        except PacsError as error:
            if not self._series:
                raise
            if not self.unreachable:
                logger.warning("%s The list of series stays as it was.", error.sentence)
            self.unreachable = error.sentence
        else:
            self.unreachable = ""
            if found != self._series:
                durable_json(self.folder / "series.json", [series.as_dict() for series in found.values()])
            self._series = found
            self._copies.doubt_a_fault(found.values())
        self._asked = self.clock()

    def _remembered(self) -> dict[str, Series]:
        try:
            content = json.loads((self.folder / "series.json").read_bytes())
            return {series.uid: series for series in map(Series.from_dict, content)}
        except (OSError, ValueError, TypeError):
            return {}


def _attributes(series: Series) -> dict[str, Any]:
    """By DICOM's keywords, as MONAI Label's clients and the division by patients know them."""
    pairs = {
        "SeriesInstanceUID": series.uid,
        "StudyInstanceUID": series.study,
        "PatientID": series.patient,
        "Modality": series.modality,
        "StudyDate": series.date,
        "StudyTime": series.time,
        "SeriesDescription": series.description,
    }
    return {key: value for key, value in pairs.items() if value}
