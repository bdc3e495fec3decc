"""Small valid inputs of every format, as bytes: what the mutations start from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset

__all__ = ["Seed", "real_seeds", "written_seeds"]

STORED = np.random.default_rng(7).integers(0, 2000, (6, 9, 8)).astype(np.int16)  # slices, rows, columns
TURN = np.linalg.qr(np.array([[1.0, 0.2, -0.1], [-0.15, 1.0, 0.3], [0.1, -0.25, 1.0]]))[0]


@dataclass(frozen=True)
class Seed:
    """An input as files: their bytes by name, the name of the one to open ("" for the folder), and its format."""

    name: str
    format: str
    files: dict[str, bytes]
    main: str

    def write(self, folder: Path) -> Path:
        for name, content in self.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return folder / self.main


def written_seeds() -> list[Seed]:
    """Seeds that need no data."""
    seeds = [*_nifti(), *_itk(STORED, "made")]
    seeds.append(Seed("series", "dicom", {f"s/{name}": data for name, data in _series().items()}, "s"))
    seeds.append(Seed("enhanced", "dicom", {"enhanced.dcm": _enhanced()}, "enhanced.dcm"))
    files = {f"scans/s/{name}": data for name, data in _series().items()} | {"segs/s.dcm": _segmentation()}
    seeds.append(Seed("segmentation", "seg", files, ""))
    return seeds


def real_seeds(data: Path) -> list[Seed]:
    """Seeds cut from real files: Decathlon hippocampus, left atrium, two DICOM series."""
    scan = next((data / "hippocampus" / "images").glob("*.nii.gz"))
    label = data / "hippocampus" / "labels" / scan.name
    seeds = [Seed(f"real {kind}", "nifti", {"real.nii.gz": path.read_bytes()}, "real.nii.gz")
             for kind, path in (("scan", scan), ("label", label))]
    atrium = sitk.ReadImage(str(next((data / "la" / "images").glob("*.nii.gz"))))
    seeds += _itk(sitk.GetArrayFromImage(atrium)[20:26, 60:75, 60:72], "la", ("a.nrrd", "a.mha"))
    for series in ("ct_abdomen", "mr_hippocampus_crop"):
        files = {f"s/{k:03d}.dcm": _thinned(path) for k, path in enumerate(_neighbors(data / "dicom" / series))}
        seeds.append(Seed(f"real {series}", "dicom", files, "s"))
    return seeds


def _nifti() -> list[Seed]:
    affine = np.diag([0.7, 0.8, 2.5, 1.0])
    affine[:3, :3] = TURN @ affine[:3, :3]
    affine[:3, 3] = 5, -6.5, 7
    voxels = STORED.T
    seeds = []
    for name, kind, dtype, codes in [
        ("a.nii", nib.Nifti1Image, np.int16, (1, 1)), ("a.nii.gz", nib.Nifti1Image, np.float32, (1, 0)),
        ("q.nii", nib.Nifti1Image, np.uint8, (0, 1)), ("b.nii.gz", nib.Nifti2Image, np.int16, (2, 1)),
    ]:  # fmt: skip
        image = kind((voxels % 256).astype(dtype), affine)
        image.set_sform(affine, codes[0])
        image.set_qform(affine, codes[1])
        seeds.append(Seed(f"{kind.__name__} {name}", "nifti", {name: _saved(name, lambda p, i=image: nib.save(i, p))},
                          name))
    return seeds


def _itk(voxels: np.ndarray, origin: str, names: tuple[str, ...] = ("a.nrrd", "z.nrrd", "a.mha", "z.mha", "a.mhd",
                                                                    "a.nhdr")) -> list[Seed]:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-5, 6.5, 7))
    image.SetDirection(TURN.ravel())
    seeds = []
    for name in names:
        with TemporaryDirectory() as folder:
            sitk.WriteImage(image, f"{folder}/{name}", name.startswith("z") or name == "a.nhdr")
            seeds.append(Seed(f"{origin} {name}", "itk", {p.name: p.read_bytes() for p in Path(folder).iterdir()},
                              name))
    return seeds


def _saved(name: str, save) -> bytes:
    with TemporaryDirectory() as folder:
        save(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


def _group(**elements) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def _slice(pixels: np.ndarray, uid: str) -> Dataset:
    dataset = _group(
        SOPClassUID=pydicom.uid.CTImageStorage, SOPInstanceUID=uid, StudyInstanceUID="1.2.3", Modality="CT",
        SeriesInstanceUID="1.2.3.4", FrameOfReferenceUID="1.2.3.5", PatientID="made-up", PatientName="",
        SeriesNumber=1, SliceThickness=2.0, PixelSpacing=[0.8, 0.7], Rows=pixels.shape[-2], Columns=pixels.shape[-1],
        SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", BitsAllocated=16, BitsStored=16, HighBit=15,
        PixelRepresentation=1, RescaleSlope=1, RescaleIntercept=-1000, PixelData=pixels.astype("<i2").tobytes(),
    )  # fmt: skip
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, uid
    return dataset


def _dicom_bytes(dataset: Dataset) -> bytes:
    return _saved("a.dcm", lambda path: pydicom.dcmwrite(path, dataset, enforce_file_format=True))


def _series() -> dict[str, bytes]:
    files = {}
    for k, pixels in enumerate(STORED):
        dataset = _slice(pixels, f"1.2.3.4.{k + 1}")
        dataset.InstanceNumber = k + 1
        dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [5, 6, 2.0 * k], [1, 0, 0, 0, 1, 0]
        files[f"IM{9 - k:03d}.dcm"] = _dicom_bytes(dataset)
    return files


def _place(k: int) -> list[Dataset]:
    return [_group(ImagePositionPatient=[5, 6, 2.0 * k])]


def _shared() -> Dataset:
    return _group(PixelMeasuresSequence=[_group(PixelSpacing=[0.8, 0.7], SliceThickness=2.0)],
                  PlaneOrientationSequence=[_group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])])


def _enhanced() -> bytes:
    dataset = _slice(STORED, "1.2.3.6.1")
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.EnhancedCTImageStorage
    for keyword in ("PixelSpacing", "SliceThickness", "RescaleSlope", "RescaleIntercept"):
        delattr(dataset, keyword)
    dataset.NumberOfFrames = len(STORED)
    shared = _shared()
    values = _group(RescaleSlope="2", RescaleIntercept="-10", RescaleType="US")
    shared.PixelValueTransformationSequence = [values]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = [_group(PlanePositionSequence=_place(k)) for k in range(len(STORED))]
    return _dicom_bytes(dataset)


def _segmentation() -> bytes:
    frames = np.zeros((4, *STORED.shape[1:]), np.uint8)
    frames[:2, 2:5, 2:4], frames[2:, 6:8, 1:6] = 1, 1
    dataset = _slice(frames, "1.2.3.7.1")
    for keyword in ("PixelSpacing", "SliceThickness", "RescaleSlope", "RescaleIntercept"):
        delattr(dataset, keyword)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.SegmentationStorage
    dataset.SeriesInstanceUID, dataset.Modality, dataset.SegmentationType = "1.2.3.8", "SEG", "BINARY"
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit, dataset.PixelRepresentation, dataset.NumberOfFrames = 0, 0, len(frames)
    dataset.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()
    dataset.SegmentSequence = [_group(SegmentNumber=n, SegmentLabel=name) for n, name in ((1, "liver"), (2, "spleen"))]
    dataset.ReferencedSeriesSequence = [_group(SeriesInstanceUID="1.2.3.4")]
    dataset.SharedFunctionalGroupsSequence = [_shared()]
    dataset.PerFrameFunctionalGroupsSequence = [
        _group(PlanePositionSequence=_place(k),
               SegmentIdentificationSequence=[_group(ReferencedSegmentNumber=1 if i < 2 else 2)])
        for i, k in enumerate((1, 2, 2, 3))
    ]  # fmt: skip
    return _dicom_bytes(dataset)


def _neighbors(folder: Path, count: int = 5) -> list[Path]:
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    place = {path: float(pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2]) for path in paths}
    return sorted(paths, key=place.__getitem__)[:count]


def _thinned(path: Path) -> bytes:
    """A slice with every 16th row and column, the rest of its header kept."""
    dataset = pydicom.dcmread(path)
    pixels = np.ascontiguousarray(dataset.pixel_array[::16, ::16])
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelSpacing = [16 * float(value) for value in dataset.PixelSpacing]
    dataset.PixelData = pixels.tobytes()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    return _dicom_bytes(dataset)
