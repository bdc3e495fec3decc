"""Small data sets in the layouts that `mnseg import` takes, as bytes, and damaged copies of them."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import SimpleITK as sitk
from PIL import Image

from fuzz.json_edits import damaged_json
from fuzz.mutations import Mutation, _byte_mutations, _rounds
from fuzz.seeds import STORED, Seed, _saved, _series

__all__ = ["import_mutations", "import_seeds"]

CASES = ("a", "b", "c", "d")
MASK = np.zeros(STORED.T.shape, np.uint8)
MASK[2:5, 3:6, 1:4] = 1


def import_seeds() -> list[Seed]:
    """One for each layout; the format is "import NAME"."""
    found = {
        "la nrrd": _la_nrrd(), "la hdf5": _la_hdf5(), "la nifti": _la_nifti(), "pancreas_ct": _pancreas(),
        "decathlon": _decathlon(), "kvasir": _kvasir(), "covid_qu_ex": _covid(),
    }  # fmt: skip
    return [Seed(name, f"import {name.split()[0]}", files, "") for name, files in found.items()]


def import_mutations(seeds: Sequence[Seed], count: int) -> list[Mutation]:
    """``count`` mutations, spread evenly over the seeds: half of them bytes, the rest whole files and JSON values."""
    return list(islice(_rounds([_of_seed(seed) for seed in seeds]), count))


def _of_seed(seed: Seed) -> Iterator[Mutation]:
    rng = random.Random(seed.name)
    wholes = [(name, kind) for name in seed.files for kind in ("empty", "folder", "pipe", "missing", "other", "loop")]
    rng.shuffle(wholes)
    edits = []
    if "dataset.json" in seed.files:
        for text, data in damaged_json(json.loads(seed.files["dataset.json"]), 400):
            edits.append(Mutation(f"{seed.name}: {text}", seed.format,
                                  replace(seed, files=seed.files | {"dataset.json": data}).write))
    rest = [Mutation(f"{seed.name}: {kind} {name}", seed.format,
                     lambda folder, name=name, kind=kind: _whole(seed, name, kind, folder)) for name, kind in wholes]
    yield from _rounds([_byte_mutations(seed), iter(edits), iter(rest)])


def _whole(seed: Seed, name: str, kind: str, folder: Path) -> Path:
    path = seed.write(folder)
    (folder / name).unlink()
    if kind == "empty":
        (folder / name).touch()
    elif kind == "folder":
        (folder / name).mkdir()
    elif kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "loop":
        os.symlink(Path(name).name, folder / name)
    elif kind == "other":
        (folder / name).write_bytes(next(data for other, data in seed.files.items() if other != name))
    return path


def _nifti_bytes(voxels: np.ndarray) -> bytes:
    affine = np.diag([-0.7, -0.8, 2.0, 1.0])
    return gzip.compress(nib.Nifti1Image(voxels, affine).to_bytes(), mtime=0)


def _scan(number: int) -> np.ndarray:
    return STORED.T + number


def _la_nrrd() -> dict[str, bytes]:
    files = {}
    for number, case in enumerate(CASES):
        for name, voxels in (("lgemri", _scan(number)), ("laendo", MASK * 255)):
            image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
            image.SetSpacing((0.625, 0.625, 1.25))
            files[f"Training/{case}/{name}.nrrd"] = _saved("x.nrrd", lambda p, i=image: sitk.WriteImage(i, str(p)))
    return files | {"train.list": b"a\nb\nc\n", "test.list": b"d\n"}


def _la_hdf5() -> dict[str, bytes]:
    def save(path: Path, number: int) -> None:
        with h5py.File(path, "w") as file:
            file["image"], file["label"] = _scan(number).astype(np.float32), MASK

    return {f"data/{case}/mri_norm2.h5": _saved("x.h5", lambda path, n=n: save(path, n)) for n, case in
            enumerate(CASES)}


def _la_nifti() -> dict[str, bytes]:
    files = {f"images/{case}.nii.gz": _nifti_bytes(_scan(n)) for n, case in enumerate(CASES)}
    return files | {f"labels/{case}.nii.gz": _nifti_bytes(MASK) for case in CASES}


def _pancreas() -> dict[str, bytes]:
    files = {}
    for number in (57, 18, 50, 59):
        mask = np.roll(MASK, number % 3, axis=0)
        for name, data in _series().items():
            files[f"Pancreas-CT/PANCREAS_{number:04d}/x/y/{name}"] = data[:-2] + bytes((number, 0))
        files[f"labels/label{number:04d}.nii.gz"] = _nifti_bytes(mask)
    return files


def _decathlon() -> dict[str, bytes]:
    content = {
        "name": "Task", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ"},
        "training": [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in CASES],
        "test": ["./imagesTs/t.nii.gz"],
    }  # fmt: skip
    files = {f"imagesTr/{case}.nii.gz": _nifti_bytes(_scan(n)) for n, case in enumerate(CASES)}
    files |= {f"labelsTr/{case}.nii.gz": _nifti_bytes(MASK) for case in CASES}
    return files | {"imagesTs/t.nii.gz": _nifti_bytes(_scan(9)), "dataset.json": json.dumps(content).encode()}


def _picture(values: np.ndarray, suffix: str) -> bytes:
    return _saved(f"x{suffix}", lambda path: Image.fromarray(values).save(path))


def _kvasir() -> dict[str, bytes]:
    rng = np.random.default_rng(1)
    mask = np.pad(np.full((6, 6), 255, np.uint8), 3)
    files = {f"images/{case}.jpg": _picture(rng.integers(0, 255, (12, 12, 3), np.uint8), ".jpg") for case in CASES}
    files |= {f"masks/{case}.jpg": _picture(mask, ".jpg") for case in CASES}
    return files | {"train.txt": b"a\nb\nc\n", "val.txt": b"d\n"}


def _covid() -> dict[str, bytes]:
    rng = np.random.default_rng(2)
    mask = np.pad(np.full((6, 6), 255, np.uint8), 3)
    files = {}
    for split, count in (("Train", 2), ("Val", 1), ("Test", 1)):
        for n in range(count):
            base = f"Lung Segmentation Data/{split}/Normal"
            files[f"{base}/images/{n}.png"] = _picture(rng.integers(0, 255, (12, 12), np.uint8), ".png")
            files[f"{base}/lung masks/{n}.png"] = _picture(mask, ".png")
    return files
