"""Pancreas-CT of The Cancer Imaging Archive: DICOM series and NIfTI labels.

Roth et al., 2016, doi:10.7937/K9/TCIA.2016.tNB1kqBU. The split of 62 and 20 cases is that of MC-Net+ (Wu et al.,
Medical Image Analysis 2022), whose lists later papers share. Cases 25 and 70 of the first release are other crops of
the scan of case 2 and were taken back in 2020: they are left out, which leaves 61 and 19.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from mnseg.data.importers.common import Case, Source, write_volume, wrong_layout
from mnseg.data.importers.label_alignment import align_label, reoriented
from mnseg.data.splits import named
from mnseg.data.volume_io import open_volume, read_voxels
from mnseg.errors import UserError

__all__ = ["DUPLICATES", "MC_NET_TEST", "MC_NET_TRAIN", "find"]

MC_NET_TRAIN = [
    57, 18, 62, 31, 20, 17, 32, 79, 61, 64, 70, 19, 48, 76, 41, 52, 49, 71, 72, 34, 10, 15, 77, 80, 27, 47, 22, 14, 68,
    58, 7, 11, 24, 42, 82, 35, 12, 55, 75, 78, 16, 13, 53, 23, 56, 33, 38, 30, 81, 29, 36, 44, 2, 45, 26, 65, 66, 43,
    28, 63, 69, 3,
]  # fmt: skip
MC_NET_TEST = [50, 59, 37, 60, 40, 74, 4, 46, 8, 54, 5, 73, 1, 39, 6, 67, 25, 51, 21, 9]
DUPLICATES = (25, 70)
LABELED = 6
SERIES = re.compile(r"PANCREAS_(\d{4})", re.IGNORECASE)
LABEL = re.compile(r"label(\d{4})\.nii(\.gz)?", re.IGNORECASE)
LAYOUT = "folders PANCREAS_0001, PANCREAS_0002, … with DICOM files and label files label0001.nii.gz, …, at any depth"


def find(src: Path) -> Source:
    """Describe the DICOM folders and labels at any depth below ``src``; what is in them is read when converting."""
    series, labels = _walk(src)
    if not series or not labels:
        raise wrong_layout(src, "Pancreas-CT", LAYOUT)
    if lonely := [f"PANCREAS_{number:04d}" for number in series if number not in labels]:
        raise UserError(f"{src} has no label file for {named(lonely)}; is the download complete?")
    notes = []
    if double := [number for number in DUPLICATES if series.pop(number, None)]:
        which = " and ".join(f"PANCREAS_{number:04d}" for number in double)
        notes.append(f"{which} left out: another crop of the scan of PANCREAS_0002, taken back by the archive in 2020.")
    train, test = ([number for number in order if number in series] for order in (MC_NET_TRAIN, MC_NET_TEST))
    missing = [f"PANCREAS_{n:04d}" for n in sorted({*MC_NET_TRAIN, *MC_NET_TEST} - {*series, *DUPLICATES})]
    if missing:
        notes.append(f"{named(missing)} of the published split not there: results do not compare with tables.")
    if unknown := [f"PANCREAS_{number:04d}" for number in series if number not in {*train, *test}]:
        notes.append(f"{named(unknown)} not in the published split left out.")
    cases = [Case(f"PANCREAS_{n:04d}", series[n], labels[n], f"PANCREAS_{n:04d}") for n in train + test]
    splits = {"labeled": str(LABELED), "validation": None, "testing": str(len(test))}
    return Source(["background", "pancreas"], cases, splits, published=True, notes=notes, convert=_convert,
                  overlays=["configs/datasets/pancreas_ct.json"])


def _walk(src: Path) -> tuple[dict[int, Path], dict[int, Path]]:
    """Folders with a series and label files, by case number. Series are not entered: they are thousands of files."""
    series: dict[int, Path] = {}
    labels: dict[int, Path] = {}
    for folder, subfolders, files in os.walk(src):
        for kind, pattern, names in ((series, SERIES, list(subfolders)), (labels, LABEL, files)):
            for name in sorted(names):
                if not (match := pattern.fullmatch(name)):
                    continue
                if name in subfolders:
                    subfolders.remove(name)
                    if not any(files for _, _, files in os.walk(Path(folder) / name)):
                        continue  # the archive's tools leave empty folders for the cases taken back
                if (number := int(match[1])) in kind:
                    raise UserError(f"{kind[number]} and {Path(folder) / name} are the same case; keep one.")
                kind[number] = Path(folder) / name
    return dict(sorted(series.items())), dict(sorted(labels.items()))


def _convert(case: Case, image: Path, label: Path) -> str | None:
    """Write the series as NIfTI in Hounsfield units, and the label on its grid."""
    voxels, affine = _read_series(case.image)
    stored = open_volume(case.label)
    mask = reoriented(read_voxels(stored, case.label), stored.affine, affine)
    if mask.shape != voxels.shape:
        raise UserError(f"{case.label} has {_shape(mask)} voxels, the DICOM series in {case.image} {_shape(voxels)}; "
                        "is the download complete?")
    mask, note = align_label(voxels, (mask > 0).astype(np.uint8))
    write_volume(image, voxels, affine)
    write_volume(label, np.ascontiguousarray(mask), affine)
    return f"{case.case}: {note}" if note else None


def _read_series(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (H, W, D) and affine (RAS+, mm) of the one series below ``folder``."""
    folders = [Path(path) for path, _, files in os.walk(folder) if any(name.lower().endswith(".dcm") for name in files)]
    if len(folders) != 1:
        raise UserError(f"{folder} holds {len(folders)} folders with .dcm files; it must be one, the CT series.")
    image = open_volume(folders[0])  # refuses what ITK would misread: missing slices, several series, gantry tilt
    if len(image.shape) != 3:
        raise UserError(f"the DICOM series in {folders[0]} is not a volume (shape {image.shape}).")
    return read_voxels(image, folders[0]), image.affine


def _shape(voxels: np.ndarray) -> str:
    return "x".join(str(size) for size in voxels.shape)
