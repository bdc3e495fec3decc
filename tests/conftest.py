"""What all tests share: few threads, fixed seeds, and the place of the real data."""

from __future__ import annotations

import logging
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch


def _keep_absl_from_pytests_streams() -> None:
    """absl (TensorBoard's logger) keeps the sys.stderr that it finds on import, pytest's capture file. A bundle's
    logging.conf closes all handlers, and absl's closes its stream unless it is sys.stderr at that moment, which it is
    not in a test with ``capsys``: every later test would fail with "I/O operation on closed file".
    """
    try:
        from absl import logging as absl_logging
    except ImportError:
        return
    absl_logging.get_absl_handler().python_handler.setStream(sys.__stderr__)


_keep_absl_from_pytests_streams()


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """Every test starts from the same seeds, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _loggers_speak() -> None:
    """A bundle's logging.conf silences ignite, and the loggers that exist when it is read."""
    logging.getLogger("ignite").setLevel(logging.NOTSET)
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            logger.disabled = False


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with real data and weights: ``MNSEG_SHARED``, or ``shared`` beside the repository."""
    folder = Path(os.environ.get("MNSEG_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data in {folder}; set MNSEG_SHARED to the folder that holds data/ and weights/")
    return folder


@pytest.fixture
def write_series():
    """Writes a small DICOM series: ``write_series(folder, stored values (slices, rows, columns), …)``.

    ``position(k)`` places slice k (mm, LPS; default 2 mm apart along z); ``edit(dataset, k)`` spoils it before it is
    written; ``order`` gives the file names, so that they need not follow the slices. Values are stored - 1000.
    """
    return _write_series


def _write_series(folder, stored, position=lambda k: (5, 6, 2.0 * k), orientation=(1, 0, 0, 0, 1, 0),
                  edit=lambda dataset, k: None, keep=None):
    import pydicom

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    uids = {name: pydicom.uid.generate_uid() for name in ("Study", "Series", "FrameOfReference")}
    for k in range(len(stored)) if keep is None else keep:
        dataset = dicom_slice(stored[k], uids)
        dataset.InstanceNumber = k + 1
        dataset.ImagePositionPatient = [float(value) for value in position(k)]
        dataset.ImageOrientationPatient = [float(value) for value in orientation]
        edit(dataset, k)
        pydicom.dcmwrite(folder / f"IM{len(stored) - k:03d}", dataset, write_like_original=False)
    return folder


def dicom_slice(pixels, uids):
    """A CT slice without a place: 0.7 x 0.8 mm pixels of 16 bits, 2 mm thick."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta, dataset.is_little_endian, dataset.is_implicit_VR = meta, True, False
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    for keyword in ("PatientName", "PatientBirthDate", "PatientSex", "StudyID", "AccessionNumber", "StudyDate",
                    "StudyTime", "ReferringPhysicianName"):  # fmt: skip
        setattr(dataset, keyword, "")
    for name, uid in uids.items():
        setattr(dataset, f"{name}InstanceUID" if name != "FrameOfReference" else "FrameOfReferenceUID", uid)
    dataset.PatientID, dataset.Modality, dataset.SeriesNumber, dataset.SliceThickness = "made-up", "CT", 1, 2.0
    dataset.PixelSpacing = [0.8, 0.7]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1000
    dataset.PixelData = pixels.astype("<i2").tobytes()
    return dataset


@pytest.fixture
def write_enhanced():
    """Writes an enhanced multi-frame CT: ``write_enhanced(file, stored (frames, rows, columns), heights, …)``.

    ``rescale`` is one (slope, intercept) for all frames, or a list with one for each.
    """
    return _write_enhanced


def _write_enhanced(file, stored, heights, sideways=0.0, rescale=(2, -10)):
    import pydicom
    from pydicom.dataset import Dataset

    def group(**elements):
        item = Dataset()
        for keyword, value in elements.items():
            setattr(item, keyword, value)
        return item

    def values(slope, intercept):
        return [group(RescaleSlope=str(slope), RescaleIntercept=str(intercept), RescaleType="US")]

    uids = {name: pydicom.uid.generate_uid() for name in ("Study", "Series", "FrameOfReference")}
    dataset = dicom_slice(stored[0], uids)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.EnhancedCTImageStorage
    for keyword in ("PixelSpacing", "SliceThickness", "RescaleSlope", "RescaleIntercept"):
        delattr(dataset, keyword)
    dataset.NumberOfFrames, dataset.PixelData = len(stored), stored.astype("<i2").tobytes()
    shared = group(PixelMeasuresSequence=[group(PixelSpacing=[0.8, 0.7], SliceThickness=2.0)],
                   PlaneOrientationSequence=[group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])])
    frames = [group(PlanePositionSequence=[group(ImagePositionPatient=[5.0, 6.0 + sideways * k, float(height)])])
              for k, height in enumerate(heights)]
    if isinstance(rescale, tuple):
        shared.PixelValueTransformationSequence = values(*rescale)
    else:
        for frame, pair in zip(frames, rescale, strict=True):
            frame.PixelValueTransformationSequence = values(*pair)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], frames
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(file, dataset, write_like_original=False)
    return file
