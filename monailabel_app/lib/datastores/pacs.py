"""What is asked of a DICOMweb server: series, their files, segmentations, and storing one."""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lib.errors import RequestError

__all__ = ["Pacs", "PacsError", "PacsRefusal", "Series", "connect"]

CONNECT_SECONDS, READ_SECONDS = 5.0, 60.0
AWAY = (408, 429, 502, 503, 504)  # HTTP's words for a server that is busy, or away behind another one
PAGE = 500
NO_IMAGES = ("SEG", "SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "DOC", "AU")
FIELDS = ("StudyInstanceUID", "SeriesInstanceUID", "PatientID", "Modality", "StudyDate", "StudyTime",
          "SeriesDescription", "NumberOfSeriesRelatedInstances")  # fmt: skip

logger = logging.getLogger(__name__)


class PacsError(RequestError):
    """The DICOMweb server does not answer as it should; it may do so later."""

    def __init__(self, sentence: str) -> None:
        super().__init__(503, sentence)


class PacsRefusal(PacsError):
    """The server answers, but not with what was asked for: another object or series may still be had."""


@dataclass(frozen=True)
class Series:
    """What the server says of a series; texts are empty where it says nothing, ``files`` is None."""

    uid: str
    study: str
    modality: str = ""
    patient: str = ""
    date: str = ""
    time: str = ""
    description: str = ""
    files: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Series:
        return cls(**content)


class Pacs:
    """A DICOMweb server.

    Args:
        client: ``dicomweb_client.DICOMwebClient``.

    All methods raise `PacsError` when the server cannot be reached or refuses.
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    @property
    def url(self) -> str:
        return self.client.base_url

    def series(self, search_filter: Mapping[str, Any]) -> list[Series]:
        """The series of images that match a filter; several modalities are separated by commas."""
        modalities = [part.strip() for part in str(search_filter.get("Modality") or "").split(",") if part.strip()]
        found: dict[str, Series] = {}
        for modality in modalities or [None]:
            wanted = {key: value for key, value in search_filter.items() if key != "Modality" and value}
            wanted |= {"Modality": modality} if modality else {}
            found |= {series.uid: series for series in self._search(wanted) if series.modality not in NO_IMAGES}
        return list(found.values())

    def segmentations(self) -> list[Series]:
        """All series of segmentations."""
        return [series for series in self._search({"Modality": "SEG"}) if series.modality in ("SEG", "")]

    def instances(self, series: Series) -> list[str]:
        """UIDs of the objects in a series."""
        with self._answering():
            rows = self.client.search_for_instances(series.study, series.uid)
        return [uid for row in rows if (uid := _text(row, "00080018"))]

    def fetch_series(self, series: Series, folder: Path) -> int:
        """Put the files of a series into a folder; it appears there whole or not at all. Returns how many they are."""
        draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
        draft.mkdir(parents=True)
        try:
            count = 0
            with self._answering():
                for dataset in self.client.retrieve_series(series.study, series.uid):
                    _save(dataset, draft / f"{dataset.SOPInstanceUID}.dcm")
                    count += 1
            if not count:
                raise PacsRefusal(f"{self.url} has no files of the series {series.uid}.")
            shutil.rmtree(folder, ignore_errors=True)
            draft.rename(folder)
            return count
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def fetch(self, study: str, series: str, uid: str, path: Path) -> Path:
        """Put one object into a file."""
        with self._answering():
            dataset = self.client.retrieve_instance(study, series, uid)
            _save(dataset, path)
        return path

    def store(self, path: Path) -> None:
        """Store one object (STOW-RS)."""
        import pydicom

        dataset = pydicom.dcmread(path)
        with self._answering():
            answer = self.client.store_instances([dataset])
        failed = answer.get("FailedSOPSequence") if answer is not None else None
        if failed:
            raise PacsRefusal(f"{self.url} did not take the object {dataset.SOPInstanceUID} (reason "
                              f"{failed[0].get('FailureReason', 'unknown')}).")

    def _search(self, wanted: Mapping[str, Any]) -> Iterator[Series]:
        """Page by page, since servers limit their answers; one that ignores the limits sends everything at once."""
        seen: set[str] = set()
        offset = 0
        while True:
            with self._answering():
                rows = self.client.search_for_series(
                    search_filters=dict(wanted), fields=list(FIELDS), limit=PAGE, offset=offset
                )
            fresh = [series for row in rows if (series := _series(row)) and series.uid not in seen]
            seen |= {series.uid for series in fresh}
            yield from fresh
            offset += PAGE
            if len(rows) < PAGE or not fresh:
                return

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Whatever a client library and a network raise becomes one sentence."""
        try:
            yield
        except (PacsError, OSError) as error:
            import requests

            if isinstance(error, PacsError) or not isinstance(error, requests.RequestException):
                raise  # OSError: a full disk is not the server's fault
            if isinstance(error, requests.HTTPError) and getattr(error.response, "status_code", 0) not in AWAY:
                raise PacsRefusal(f"The DICOMweb server {self.url} refuses it ({_line(error)}).") from error
            raise PacsError(f"The DICOMweb server {self.url} does not answer ({_line(error)}).") from error
        except Exception as error:
            raise PacsRefusal(f"The DICOMweb server {self.url} sent what cannot be used ({_line(error)}).") from error


def connect(url: str) -> Pacs:
    """The server at a URL, with the credentials and path prefixes of MONAI Label's settings."""
    from dicomweb_client.session_utils import create_session, create_session_from_user_pass
    from monailabel.config import settings
    from monailabel.datastore.dicom import DICOMwebClientX

    user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    if "googleapis.com" in url:
        from dicomweb_client.ext.gcp.session_utils import create_session_from_gcp_credentials

        session = create_session_from_gcp_credentials()
    else:
        session = create_session_from_user_pass(user, password) if user and password else create_session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, _timed_adapter())
    logging.getLogger("dicomweb_client").setLevel(logging.WARNING)  # one line for every search otherwise
    client = DICOMwebClientX(
        url=url.rstrip("/"),
        session=session,
        qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
    )
    client.set_http_retry_params(retry=False)  # it would wait for minutes; the next look comes soon enough
    return Pacs(client)


def _timed_adapter() -> Any:
    """Without a limit a server that hangs would hold a thread for ever."""
    from requests.adapters import HTTPAdapter

    class Timed(HTTPAdapter):
        def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            kwargs["timeout"] = kwargs.get("timeout") or (CONNECT_SECONDS, READ_SECONDS)
            return super().send(request, *args, **kwargs)

    return Timed()


def _series(row: Mapping[str, Any]) -> Series | None:
    uid, study = _text(row, "0020000E"), _text(row, "0020000D")
    if not uid or not study:
        return None
    files = _text(row, "00201209")
    return Series(
        uid, study, _text(row, "00080060"), _text(row, "00100020"), _text(row, "00080020"), _text(row, "00080030"),
        _text(row, "0008103E"), int(files) if files.isdecimal() else None,
    )  # fmt: skip


def _text(row: Mapping[str, Any], tag: str) -> str:
    values = (row.get(tag) or {}).get("Value") or [""]
    value = values[0]
    if isinstance(value, Mapping):  # a name
        value = value.get("Alphabetic", "")
    return str(value).strip()


def _save(dataset: Any, path: Path) -> None:
    """Names come from a server, so only the UIDs that DICOM allows become file names."""
    if not path.name.removesuffix(".dcm").replace(".", "").isdecimal():
        raise PacsRefusal(f"The DICOMweb server sent an object with the impossible UID {path.name[:80]!r}.")
    dataset.save_as(path, write_like_original=False)


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}"
