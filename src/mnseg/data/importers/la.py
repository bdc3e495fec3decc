"""Left atrium: the 2018 Atrial Segmentation Challenge, as NRRD, as UA-MT's HDF5 files, or as NIfTI.

Xiong et al., Medical Image Analysis 2021; the 80/20 split is that of Yu et al., UA-MT, MICCAI 2019, which later
papers share: its list files where they lie beside the data, else the same 20 test cases by name.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mnseg.data.importers.common import Case, Source, ordered_by, write_volume, wrong_layout
from mnseg.data.splits import named
from mnseg.data.volume_io import list_volumes, open_volume, read_voxels
from mnseg.errors import UserError

__all__ = ["UA_MT_TEST", "find"]

UA_MT_TEST = [
    "UPT6DX9IQY9JAZ7HJKA7", "UTBUJIWZMKP64E3N73YC", "ULHWPWKKLTE921LQLH1P", "V0MZOWJ6MU3RMRCV9EXR",
    "VDOF02M8ZHEAADFMS6NP", "VG4C826RAAKVMV9BQLVD", "VIXBEFTNVHZWKAKURJBN", "VQ2L3WM8KEVF6L44E6G9",
    "WBG9WYZ1B25WDT5WAT8T", "WMDG2EFA6L2SNDZXIRU0", "WNPKE0W404QE9AELX1LR", "WSJB9P4JCXUVHBOYFVWL",
    "WW8F5CO4S4K5IM5Z7EXX", "X18LU5AOBNNDMLTA0JZL", "XYDLYJ5CS19FDBVLJIPI", "Y7ZU0B2APPF54WG6PDMF",
    "YDKD1HVHSME6NVMA8I39", "Z9GMG63CJLL0VW893BB1", "ZIJLJAVQV3FJ6JSQOH1E", "ZQPMJ4XEC5A4BISD45P1",
]  # fmt: skip
UA_MT_SPACING = np.diag([0.625, 0.625, 0.625, 1.0])  # mm; its files keep neither position nor orientation
LAYOUTS = "CASE/mri_norm2.h5, CASE/lgemri.nrrd with CASE/laendo.nrrd, or images/CASE.nii.gz with labels/CASE.nii.gz"


def find(src: Path) -> Source:
    """Describe what lies in ``src``; cases may lie up to two folders deeper, as in the challenge's archive."""
    hdf5, nrrd = _case_folders(src, "mri_norm2.h5"), _case_folders(src, "lgemri.nrrd")
    notes = []
    if hdf5:
        cases = {case: Case(case, path, path) for case, path in hdf5.items()}
        convert = _convert_hdf5
        notes.append("UA-MT's files are cropped around the labeled atrium: compare results with tables made from them, "
                     "not with whole scans. They keep no orientation: axes are taken as stored.")
        if nrrd:
            notes.append("the folders hold mri_norm2.h5 and lgemri.nrrd: the former, UA-MT's crops, were taken.")
    elif nrrd:
        cases = {case: Case(case, path, _mask_of(path)) for case, path in nrrd.items()}
        convert = _convert_nrrd
    elif (src / "images").is_dir() and (images := list_volumes(src / "images")):
        labels = list_volumes(src / "labels") if (src / "labels").is_dir() else {}
        cases = {case: Case(case, path, labels.get(case)) for case, path in images.items()}
        convert = None
    else:
        raise wrong_layout(src, "the left-atrium challenge", LAYOUTS)
    source = Source(["background", "left atrium"], list(cases.values()), {}, convert=convert,
                    notes=notes, overlays=["configs/datasets/la.json"])
    folders = [src, *({path.parents[1] for path in (hdf5 or nrrd).values()}), src.parent]
    _choose_split(source, cases, folders)
    source.notes.append("the release does not say which scans are of one patient (154 of 60): scans of one patient may "
                        "be in training and test, as in all published splits.")
    return source


def _case_folders(src: Path, file_name: str) -> dict[str, Path]:
    """``{folder name: file}`` of the files with that name one to three folders below ``src``."""
    found: dict[str, Path] = {}
    paths = sorted(path for depth in ("*", "*/*", "*/*/*") for path in src.glob(f"{depth}/{file_name}"))
    for path in (path for path in paths if path.is_file()):
        if (case := path.parent.name) in found:
            raise UserError(f"case {case} is there twice: {found[case]} and {path}; name one of the folders.")
        found[case] = path
    return dict(sorted(found.items()))


def _mask_of(image: Path) -> Path | None:
    mask = image.with_name("laendo.nrrd")
    return mask if mask.is_file() else None


def _choose_split(source: Source, cases: dict[str, Case], folders: list[Path]) -> None:
    """UA-MT's lists, else UA-MT's test cases, else what `docs/benchmarks.md` does with the 80 alone, else a draw."""
    lists = {name: next((folder / name for folder in folders if (folder / name).is_file()), None)
             for name in ("train.list", "test.list")}
    train = ordered_by(lists["train.list"], cases) if lists["train.list"] else None
    test = ordered_by(lists["test.list"], cases) if lists["test.list"] else None
    if test is None and cases.keys() >= set(UA_MT_TEST):
        test = [cases[case] for case in UA_MT_TEST]
        source.notes.append("no test.list: the 20 test cases are UA-MT's, known by name.")
    if train is None and test is not None:
        held_out = {case.case for case in test}
        # The challenge's own test scans lie in another folder and belong to neither part of the split.
        folders_of_test = {_collection(case) for case in test}
        train = [case for case in source.cases if case.case not in held_out and _collection(case) in folders_of_test]
        if len(train) != 80:
            source.notes.append(f"UA-MT's training part has 80 cases, this one {len(train)}: results do not compare "
                                "with tables.")
    if train is None:
        count = len(source.cases)
        source.splits = {"labeled": "8", "validation": str(count // 10), "testing": str(count // 5)}
        source.notes.append("no train.list and not UA-MT's 100 cases: the split is drawn, a fifth for testing and a "
                            "tenth for validation; it is not the field's.")
        return
    source.published = True
    source.cases = train + test if test else train[:-20] + train[-10:] + train[-20:-10]  # test cases last
    if left_out := [case for case in cases if case not in {chosen.case for chosen in source.cases}]:
        source.notes.append(f"{named(left_out)} not in the lists left out.")
    if test:
        source.splits = {"labeled": "8", "validation": None, "testing": str(len(test))}
    else:
        source.splits = {"labeled": "8", "validation": "10", "testing": "10"}
        source.notes.append("no test.list and not all of UA-MT's test cases: the last 10 of train.list are for "
                            "validation, the 10 before them for testing; results do not compare with tables.")


def _collection(case: Case) -> Path:
    """The folder that holds the case's folder, or the case's file."""
    return case.image.parent.parent if case.image.name in ("lgemri.nrrd", "mri_norm2.h5") else case.image.parent


def _convert_nrrd(case: Case, image: Path, label: Path) -> None:
    if case.label is None:
        raise UserError(f"{case.image.parent} has no laendo.nrrd beside lgemri.nrrd; is the download complete?")
    mask, mask_affine = _read_nrrd(case.label)
    if others := sorted(set(np.unique(mask).tolist()) - {0, 1, 255}):
        raise UserError(f"{case.label} has the values {others[:5]}; a mask of the challenge has 0 and 255.")
    voxels, affine = _read_nrrd(case.image)
    write_volume(image, voxels, affine)
    write_volume(label, (mask > 0).astype(np.uint8), mask_affine)


def _read_nrrd(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = open_volume(path)
    return read_voxels(image, path), image.affine


def _convert_hdf5(case: Case, image: Path, label: Path) -> None:
    try:
        import h5py
    except ImportError as error:
        raise UserError("UA-MT's files are HDF5: install h5py, for example by pip install 'mnseg[import]'.") from error
    try:
        with h5py.File(case.image) as file:
            voxels, mask = (np.asarray(file[key]) for key in ("image", "label"))
    except Exception as error:  # h5py raises many unrelated types for a damaged file
        raise UserError(f"{case.image} cannot be read as HDF5 with the data sets image and label "
                        f"({_last_line(error)}).") from error
    if voxels.ndim != 3 or mask.shape != voxels.shape or not {voxels.dtype.kind, mask.dtype.kind} <= set("biuf"):
        raise UserError(f"{case.image} holds an image {voxels.shape} of {voxels.dtype} and a label {mask.shape} of "
                        f"{mask.dtype}; two volumes of numbers of one size are expected.")
    write_volume(image, voxels.astype(np.float32), UA_MT_SPACING)
    write_volume(label, (mask > 0).astype(np.uint8), UA_MT_SPACING)


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip()[:160] if lines else type(error).__name__
