"""Copies of a DICOM server's series: whether they are what the server has, fetching them, what is wrong with them."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib

from lib.datastores.pacs import Pacs, PacsError, Series
from lib.durable import durable_json, durable_write
from lib.errors import RequestError
from mnseg.errors import UserError

__all__ = ["UID", "SeriesCopies"]

UID = re.compile(r"[0-9.]{1,64}")

logger = logging.getLogger(__name__)


class SeriesCopies:
    """The files ``<series>/``, ``<series>.nii.gz`` and ``<series>.json`` of a folder; see `lib.datastores.dicomweb`.

    Args:
        pacs: the server.
        folder: of the copies.
        fresh_seconds: how long a comparison with the server is good.
        clock: seconds.
    """

    def __init__(self, pacs: Pacs, folder: Path, fresh_seconds: float, clock: Callable[[], float]) -> None:
        self.pacs, self.folder, self.fresh_seconds, self.clock = pacs, folder, fresh_seconds, clock
        self._compared: dict[str, float] = {}
        self._faults = self._known_faults()

    def is_here(self, series: Series, is_away: bool) -> bool:
        """Whether the copy is what the server has.

        A series that was sent anew is fetched anew, also when somebody has labeled it: what the old copy showed is no
        longer what others see, and its label does not train on other voxels (`lib.trainers.datalist`).
        """
        if not (self.folder / f"{series.uid}.nii.gz").is_file() or not (self.folder / series.uid).is_dir():
            return False
        note = self._note(series.uid)
        here = {path.stem for path in (self.folder / series.uid).glob("*.dcm")}
        if note.get("made_from", _digest(here)) != _digest(here):
            logger.warning("the copy of %s is older than its files; it is fetched anew", series.uid)  # a disk was full
            return False
        known = note.get("files")
        is_whole = known is None or series.files is None or known == series.files
        if is_whole and (is_away or self._has_the_same_files(series, here, note)):
            return True
        logger.warning("the series %s has other files now; it is fetched anew", series.uid)
        return False

    def _has_the_same_files(self, series: Series, here: set[str], note: Mapping[str, Any]) -> bool:
        """By their UIDs; asked as often as for the list of series.

        Some servers tell only the first of many; others name what they do not send, as they did when it was fetched.
        """
        now, asked = self.clock(), self._compared.get(series.uid)
        if asked is not None and now - asked < self.fresh_seconds:
            return True
        try:
            there = set(self.pacs.instances(series))
        except PacsError:  # the copy is good meanwhile
            return True
        self._compared[series.uid] = now
        return len(there) < len(here) or there == here or _digest(there) == note.get("listed")

    def fetch(self, series: Series) -> None:
        folder, path = self.folder / series.uid, self.folder / f"{series.uid}.nii.gz"
        begun = time.monotonic()
        self._adopt(series.uid)
        listed = self._listed(series)  # before: what arrives meanwhile is then seen
        count = self.pacs.fetch_series(series, folder)
        self._compared[series.uid] = self.clock()
        # Written behind the scan: what says "made_from" was made of these files.
        note = {"files": series.files, "fetched": count, "listed": listed,
                "made_from": _digest(file.stem for file in folder.glob("*.dcm"))}
        try:
            image = _as_nifti(folder)
        except UserError as error:
            note["fault"] = str(error).replace(str(folder), series.uid)
            durable_json(self.folder / f"{series.uid}.json", note)
            self._faults[series.uid] = note
            logger.warning("%s", note["fault"])
            shutil.rmtree(folder, ignore_errors=True)
            raise RequestError(422, note["fault"]) from error
        durable_write(path, lambda temporary: temporary.write_bytes(gzip.compress(image.to_bytes(), 1, mtime=0)))
        durable_json(self.folder / f"{series.uid}.json", note)
        self._faults.pop(series.uid, None)
        logger.info("fetched the series %s (%d files, %.1f s)", series.uid, count, time.monotonic() - begun)

    def _adopt(self, uid: str) -> None:
        """Of a copy that an older version made, note which files it was made of, before there are others."""
        note = self._note(uid)
        if "made_from" not in note and (self.folder / f"{uid}.nii.gz").is_file() and (self.folder / uid).is_dir():
            here = _digest(file.stem for file in (self.folder / uid).glob("*.dcm"))
            durable_json(self.folder / f"{uid}.json", {**note, "made_from": here})

    def _listed(self, series: Series) -> str | None:
        """Digest of what the server lists; None: it does not say."""
        try:
            return _digest(self.pacs.instances(series))
        except PacsError:
            return None

    def _note(self, uid: str) -> dict[str, Any]:
        try:
            content = json.loads((self.folder / f"{uid}.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _known_faults(self) -> dict[str, dict[str, Any]]:
        notes = {path.stem: self._note(path.stem) for path in self.folder.glob("*.json") if UID.fullmatch(path.stem)}
        return {uid: note for uid, note in notes.items() if note.get("fault")}

    def fault(self, series: Series) -> str:
        """Why a series cannot be used; asked again when it has other files (`doubt_a_fault`)."""
        note = self._faults.get(series.uid)
        return note["fault"] if note and note.get("files") == series.files else ""

    def doubt_a_fault(self, series: Iterable[Series]) -> None:
        """See whether a faulty series was mended and sent anew with as many files: one with every list of series."""
        faulty = [each for each in series if self.fault(each)]
        if not faulty:
            return
        doubted = min(faulty, key=lambda each: self._compared.get(each.uid, float("-inf")))
        listed = self._listed(doubted)
        self._compared[doubted.uid] = self.clock()
        if listed is not None and listed != self._faults.get(doubted.uid, {}).get("listed"):  # or of an older version
            self._faults.pop(doubted.uid, None)


def _digest(uids: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(uids)).encode()).hexdigest()


def _as_nifti(folder: Path) -> nib.Nifti1Image:
    """A series as training and inference would read it, values and grid."""
    from mnseg.data.volume_io import open_volume, read_voxels

    volume = open_volume(folder)
    image = nib.Nifti1Image(read_voxels(volume, folder), volume.affine)
    image.set_qform(volume.affine, code=1)  # both forms: ITK reads a rounded sform alone as not quite orthogonal
    image.set_sform(volume.affine, code=1)
    image.header.set_xyzt_units("mm")
    return image
