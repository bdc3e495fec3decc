"""Small data sets in the layouts of their archives, written with SimpleITK, h5py and Pillow."""

from __future__ import annotations

import json
import locale
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image


def write_nrrd(path: Path, voxels: np.ndarray, origin=(10.0, -20.0, 30.0), spacing=(0.625, 0.625, 1.25)) -> None:
    """``voxels`` (x, y, z) with the identity direction of ITK, that is LPS."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def write_series(folder: Path, voxels: np.ndarray, origin=(-50.0, -60.0, -70.0), spacing=(2.0, 2.0, 3.0)) -> None:
    """A CT series of ``voxels`` (x, y, z) in LPS, one file a slice; file names run against the slices' positions."""
    folder.mkdir(parents=True)
    before = locale.setlocale(locale.LC_ALL)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for z in range(voxels.shape[2]):
        piece = sitk.GetImageFromArray(np.ascontiguousarray(voxels[:, :, z].T.astype(np.int16)))
        piece.SetSpacing(spacing[:2])
        position = [origin[0], origin[1], origin[2] + z * spacing[2]]
        tags = {
            "0008|0060": "CT",
            "0020|000d": "1.2.3.1",
            "0020|000e": "1.2.3.1.1",
            "0008|0018": f"1.2.3.1.1.{z + 1}",
            "0020|0013": str(voxels.shape[2] - z),
            "0020|0032": "\\".join(map(str, position)),
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0018|0050": str(spacing[2]),
            "0028|1052": "-1024",
            "0028|1053": "1",
        }
        for tag, value in tags.items():
            piece.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"1-{voxels.shape[2] - z:03d}.dcm"))
        writer.Execute(piece)
    locale.setlocale(locale.LC_ALL, before)  # GDCM's writer leaves the "C" locale, in which later tests read no UTF-8


def save_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)


def read(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(path)
    return np.asarray(image.dataobj), image.affine


def load(out: Path) -> dict:
    return json.loads((out / "datalist.json").read_text())


def write_pairs(images: Path, masks: Path, names: list[str], suffix: str = ".png") -> None:
    """``NAME.jpg`` images of 16x12 pixels and masks with the values 0 and 255."""
    rng = np.random.default_rng(list(str(images).encode()))  # no image twice in a set
    for folder in (images, masks):
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).save(images / f"{name}.jpg")
        mask = np.zeros((12, 16), np.uint8)
        mask[3:9, 4:12] = 255
        Image.fromarray(mask).save(masks / f"{name}{suffix}")


@pytest.fixture(scope="session")
def files() -> SimpleNamespace:
    return SimpleNamespace(write_nrrd=write_nrrd, write_series=write_series, save_nifti=save_nifti,
                           read=read, load=load, write_pairs=write_pairs)
