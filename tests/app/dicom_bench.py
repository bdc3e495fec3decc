"""A DICOM server that is a folder, and an app with all that segmentations pass through, but no web server."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pydicom
from dicom_phantoms import AXIAL, OBLIQUE, ball, write_series
from lib.conf import AppConf
from lib.datastores.dicomweb import DicomScans
from lib.datastores.pacs import PacsError, PacsRefusal, Series
from lib.labels.provenance import Provenance
from lib.server.inbox import Inbox
from lib.server.labels import Submissions
from lib.server.pacs_sync import PacsSync

from mnseg.data.dicom_seg_write import Origin, write_dicom_seg
from mnseg.data.volume_io import open_volume

LABELS = ("left organ", "right organ")
ROOT = Path(__file__).parents[2]


class FolderPacs:
    """What `lib.datastores.pacs.Pacs` asks of a server, answered from a folder; it counts how often."""

    url = "http://pacs"

    def __init__(self, root: Path) -> None:
        self.root, self.is_down, self.fetched, self.asked = root, False, [], 0
        self.root.mkdir(exist_ok=True)

    def add(self, name: str, **options) -> str:
        voxels, _ = ball(name)
        return self.add_voxels(name, voxels, **options)

    def add_voxels(self, name: str, voxels: np.ndarray, **options) -> str:
        folder = self.root / f"new-{name}"
        uid = write_series(folder, voxels, f"patient of {name}", **options)
        folder.rename(self.root / uid)
        return uid

    def send(self, file: Path) -> str:
        """Store an object as a viewer does; its UID."""
        dataset = pydicom.dcmread(file)
        target = self.root / dataset.SeriesInstanceUID / f"{dataset.SOPInstanceUID}.dcm"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
        return str(dataset.SOPInstanceUID)

    def _all(self):
        if self.is_down:
            raise PacsError("The DICOMweb server http://pacs does not answer.")
        self.asked += 1
        for folder in sorted(self.root.iterdir()):
            files = sorted(folder.glob("*.dcm"))
            head = pydicom.dcmread(files[0], stop_before_pixels=True, force=True)
            yield Series(folder.name, str(head.get("StudyInstanceUID", "1.2")), str(head.get("Modality", "SEG")),
                         str(head.get("PatientID", "")), files=len(files))

    def series(self, search_filter):
        return [series for series in self._all() if series.modality == search_filter["Modality"]]

    def segmentations(self):
        return [series for series in self._all() if series.modality == "SEG"]

    def instances(self, series):
        return [path.stem for path in sorted((self.root / series.uid).glob("*.dcm"))]

    def fetch_series(self, series, folder):
        if self.is_down:
            raise PacsError("The DICOMweb server http://pacs does not answer.")
        self.fetched.append(series.uid)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.root / series.uid, folder)
        return len(list(folder.iterdir()))

    def fetch(self, study, series, uid, path):
        self.fetched.append(uid)
        file = self.root / series / f"{uid}.dcm"
        if not file.is_file():
            raise PacsRefusal("The DICOMweb server http://pacs refuses it (HTTPError: 404).")
        return shutil.copyfile(file, path)

    def store(self, path):
        if self.is_down:
            raise PacsError("The DICOMweb server http://pacs does not answer.")
        self.send(path)


@functools.cache
def template() -> tuple[Path, str, str]:
    """Two MR series, the first of them oblique, and a cache that has fetched both; made once."""
    root = Path(tempfile.mkdtemp(prefix="mnseg-tests-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    pacs = FolderPacs(root / "pacs")
    one, two = pacs.add("a", orientation=OBLIQUE), pacs.add("b", orientation=AXIAL)
    store = DicomScans(pacs, root / "cache", {"Modality": "MR"})
    store.get_image_uri(one), store.get_image_uri(two)
    return root, one, two


@functools.cache
def manual_seg(series: Path, mask: bytes, shape: tuple[int, ...], names: tuple[str, ...]) -> bytes:
    """A SEG that a person drew on a series; dcmqi takes a while, and many tests draw the same."""
    root = Path(tempfile.mkdtemp(prefix="mnseg-tests-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    nib.save(nib.Nifti1Image(np.frombuffer(mask, np.uint8).reshape(shape), open_volume(series).affine),
             root / "mask.nii.gz")
    write_dicom_seg(series, root / "mask.nii.gz", root / "seg.dcm", ["background", *names],
                    origin=Origin("MANUAL", ""))
    return (root / "seg.dcm").read_bytes()


class Bench:
    """An app on a fake server with the series of `template`.

    Args:
        root: an empty folder.
        is_fetched: whether the series have been asked for before.
    """

    def __init__(self, root: Path, is_fetched: bool = True) -> None:
        self.root = root
        made, self.one, self.two = template()
        for name in ("pacs", "cache")[: 1 + is_fetched]:
            shutil.copytree(made / name, root / name, copy_function=os.link)
        self.pacs = FolderPacs(root / "pacs")
        self.clock = SimpleNamespace(now=0.0)
        self.open()

    def open(self, **conf) -> None:
        """Start the server (again)."""
        self.store = DicomScans(self.pacs, self.root / "cache", {"Modality": "MR"}, clock=lambda: self.clock.now)
        workspace = self.root / "work"
        self.saved: list[str] = []
        self.app = app = SimpleNamespace(
            datastore=lambda: self.store,
            app_conf=AppConf(ROOT, "http://pacs", True, LABELS, workspace, ROOT / "bundles/mn_cotraining", **conf),
            provenance=Provenance(workspace, LABELS),
            training=SimpleNamespace(label_saved=self.saved.append),
            reservations=SimpleNamespace(release=lambda image: None),
            on_save_label=lambda image, label: {},
        )
        app.submissions = Submissions(app, Inbox(workspace / "inbox"))
        self.sync = PacsSync(app, 30)

    @property
    def states(self) -> dict[str, str]:
        """State and reason of all segmentations."""
        return {entry["uid"]: entry["state"] for entry in self.sync.journal.all()}

    def reason(self, uid: str) -> str:
        return self.sync.journal.get(uid)["reason"]

    def mask(self, image: str, shift: int = 0) -> np.ndarray:
        """Two structures on a scan's grid."""
        mask = np.zeros(nib.load(self.store.get_image_uri(image)).shape, np.uint8)
        mask[4 + shift : 9 + shift, 5:12, 6:10], mask[14:20, 3:8, 11:15] = 1, 2
        return mask

    def file(self, image: str, mask: np.ndarray) -> Path:
        """A mask as NIfTI."""
        path = self.root / "mask.nii.gz"
        nib.save(nib.Nifti1Image(mask, nib.load(self.store.get_image_uri(image)).affine), path)
        return path

    def seg(self, image: str, mask: np.ndarray, names=LABELS, edit=lambda dataset: None) -> Path:
        """A SEG as OHIF writes it: MANUAL, without author, "Unspecified"."""
        path = self.root / "viewer.dcm"
        series = template()[0] / "pacs" / image
        series = series if series.is_dir() else self.store.series_folder(image)
        path.write_bytes(manual_seg(series, mask.tobytes(), mask.shape, tuple(names)))
        dataset = pydicom.dcmread(path)
        dataset.Manufacturer = dataset.ManufacturerModelName = "Unspecified"
        dataset.SeriesInstanceUID = pydicom.uid.generate_uid()
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        dataset.pop("ContentCreatorName", None)
        edit(dataset)
        dataset.save_as(path)
        return path

    def draw(self, image: str, mask: np.ndarray, **options) -> str:
        """A viewer stores a SEG; its UID."""
        return self.pacs.send(self.seg(image, mask, **options))

    def label(self, image: str) -> np.ndarray:
        return np.asarray(nib.load(self.store.get_label_uri(image, "final")).dataobj)

    def submit(self, image: str, mask: np.ndarray, author: str = "anna") -> None:
        self.app.submissions.take(image, self.file(image, mask), "final", {}, author)
