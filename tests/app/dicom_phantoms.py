"""DICOM series of phantoms: a bright ball in noise, of which a tiny network learns in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

SIZE = 24
THRESHOLD = 0.53
SPACING = (1.0, 1.0, 2.0)
# Rows run obliquely, as in many MR series: what mixes up axes does not stay unnoticed.
OBLIQUE = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def ball(name: str, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (columns, rows, slices) and mask; the center lies off the middle on every axis."""
    rng = np.random.default_rng(sum(map(ord, name)) * 7919)
    center, radius = rng.uniform(0.36, 0.46, 3) * size, rng.uniform(0.21, 0.27) * size
    grid = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), -1)
    mask = (np.linalg.norm(grid - center, axis=-1) < radius).astype(np.uint8)
    return np.clip(300 * mask + rng.normal(150, 30, mask.shape), 0, None).astype(np.int16), mask


def abdomen(seed: int, size: tuple[int, int, int] = (96, 96, 40)) -> tuple[np.ndarray, np.ndarray]:
    """Something that looks like a scan: the phantom's large organ, made the brightest thing in it."""
    from mnseg.data.phantom import make_phantom

    image, label, _ = make_phantom(seed, size)
    organ = (np.asarray(label) == 1).astype(np.uint8)
    image = np.asarray(image, np.float64)
    image = (image - image.min()) / (np.quantile(image, 0.995) - image.min())
    image = np.clip(image, 0, 1) * 200 + 300 * organ
    # From the phantom's RAS to the columns and rows of an axial series, which run to the left and to the back.
    return np.ascontiguousarray(image[::-1, ::-1]).astype(np.int16), np.ascontiguousarray(organ[::-1, ::-1])


def threshold_model(folder: Path, label: str = "organ") -> Path:
    """A packed model of one 1x1x1 convolution that finds what is brighter than the middle of the scan's range."""
    import json

    import torch

    (folder / "models").mkdir(parents=True)
    network = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}
    torch.save({"weight": torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1), "bias": torch.tensor([0.0, -THRESHOLD])},
               folder / "models" / "model.pt")
    scaling = {"_target_": "ScaleIntensityRangePercentilesd", "keys": "image", "lower": 0.0, "upper": 100.0,
               "b_min": 0.0, "b_max": 1.0}
    overlay = {"class_names": ["background", label], "patch_size": [32, 32, 32], "network_def": network,
               "intensity": {"_target_": "Compose", "transforms": [scaling]}}
    (folder / "model.json").write_text(json.dumps(overlay))
    return folder


def write_series(folder: Path, voxels: np.ndarray, patient: str, modality: str = "MR", orientation=AXIAL,
                 spacing=SPACING, downwards: bool = False) -> str:  # fmt: skip
    """One file for each slice of voxels (columns, rows, slices), numbered up or down; returns the SeriesInstanceUID."""
    folder.mkdir(parents=True)
    uids = {name: generate_uid() for name in ("Study", "Series", "Frame")}
    normal = np.cross(orientation[:3], orientation[3:])
    for k in range(voxels.shape[2]):
        dataset = _slice(voxels[..., k].T, patient, modality, uids)
        dataset.InstanceNumber = voxels.shape[2] - k if downwards else k + 1
        dataset.ImageOrientationPatient = list(orientation)
        position = np.array([-20.0, -30.0, 40.0]) + k * spacing[2] * normal
        dataset.ImagePositionPatient = [round(float(value), 6) for value in position]
        dataset.PixelSpacing, dataset.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        pydicom.dcmwrite(folder / f"{k}.dcm", dataset, write_like_original=False)
    return uids["Series"]


def _slice(pixels: np.ndarray, patient: str, modality: str, uids: dict[str, str]) -> Dataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta, dataset.is_little_endian, dataset.is_implicit_VR = meta, True, False
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID = MRImageStorage if modality == "MR" else CTImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uids["Study"], uids["Series"]
    dataset.FrameOfReferenceUID = uids["Frame"]
    dataset.PatientID, dataset.PatientName, dataset.PatientBirthDate, dataset.PatientSex = patient, patient, "", ""
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20260101", "120000", "1", ""
    dataset.ReferringPhysicianName, dataset.Manufacturer = "", "phantom"
    dataset.Modality, dataset.SeriesNumber, dataset.SeriesDescription = modality, 1, "phantom"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.WindowCenter, dataset.WindowWidth = 300, 600
    dataset.PixelData = np.ascontiguousarray(pixels, "<i2").tobytes()
    return dataset
