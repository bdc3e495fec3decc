"""A small sound data set on disk, which tests break."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from mnseg.data.datalist import write_datalist
from mnseg.data.integrity import check_datalist

SHAPE = (6, 5, 4)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return str(path)


class Dataset:
    """Two labeled, two unlabeled, one validation and one testing case, all sound until a test breaks one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rng = np.random.default_rng(0)
        self.content = {"labeled": [self.pair("l0"), self.pair("l1")], "unlabeled": [self.scan("u0"), self.scan("u1")],
                        "validation": [self.pair("v0")], "testing": [self.pair("t0")]}

    def voxels(self) -> np.ndarray:
        return self.rng.normal(size=SHAPE).astype(np.float32)

    def scan(self, case: str) -> dict[str, str]:
        return {"image": save(self.folder / f"{case}.nii.gz", self.voxels())}

    def pair(self, case: str) -> dict[str, str]:
        label = np.zeros(SHAPE, np.uint8)
        label[1:3, 1:3, 1:3], label[3:5, 3:5, 1:3] = 1, 2
        return {**self.scan(case), "label": save(self.folder / f"{case}_label.nii.gz", label)}

    def check(self, **options):
        return check_datalist(self.content, **{"num_classes": 3, "jobs": 1, **options})

    def write(self) -> Path:
        return write_datalist(self.content, self.folder / "datalist.json")


def only(report, level: str):
    """The one finding of a report, which must be of ``level``."""
    assert len(report.findings) == 1, [str(finding) for finding in report.findings]
    assert report.findings[0].level == level
    return report.findings[0]
