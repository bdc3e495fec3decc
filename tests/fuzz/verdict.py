"""Whether mnseg took an input right, refused it with a sentence, or failed."""

from __future__ import annotations

import contextlib
import io
import runpy
import shutil
import traceback
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from monai.transforms import LoadImage

from fuzz.readers import LPS_TO_RAS, read_independently
from mnseg.cli import main
from mnseg.data.case_check import check_case
from mnseg.data.dicom_seg_read import convert_segmentations
from mnseg.data.volume_formats import case_id
from mnseg.data.volume_io import open_volume, read_voxels
from mnseg.errors import UserError

__all__ = ["ACCEPTED", "DEFECT", "REFUSED", "judge"]

SCANS = runpy.run_path(str(Path(__file__).resolve().parents[2] / "bundles/mn_cotraining/scripts/scans.py"))
SPLIT = ("--labeled", "1", "--validation", "1", "--test", "1")
# A sentence about the split names its cases.
CASES_OF_IMPORTS = ("labeled/", "validation/", "testing/", "case (", "cases than there are")

ACCEPTED, REFUSED, DEFECT = "accepted", "refused", "defect"


def judge(path: Path, form: str, root: Path) -> tuple[str, str]:
    """The verdict on one input, and the message or what is wrong."""
    try:
        if form.startswith("import "):
            return _judge_import(path, form.split()[1], root)
        verdict = _judge_segmentation(root) if form == "seg" else _judge_volume(path, form)
    except Exception:
        return DEFECT, traceback.format_exc()
    return verdict


def _refusal(text: str, names: list[str]) -> tuple[str, str]:
    if not any(name in text for name in names):
        return DEFECT, f"names no file: {text}"
    if len(text) > 900 or "fit in memory" in text:
        return DEFECT, f"no plain sentence for a small file: {text}"
    return REFUSED, text


def _judge_volume(path: Path, form: str) -> tuple[str, str]:
    found = check_case("testing", {"image": str(path), "case": case_id(path)}, None, False)
    errors = [str(finding) for finding in found.findings if finding.level == "error"]
    try:
        image = open_volume(path)
        shape, affine = image.shape, image.affine
        voxels = read_voxels(image, path)
    except UserError as error:
        if SCANS["is_scan"](str(path)) and not SCANS["find_faults"]([str(path)], 1):
            return DEFECT, f"refused by the check, but not by inference.json: {error}"
        return _refusal(str(error), [path.name]) if errors else (DEFECT, f"refused, but its check is content: {error}")
    if not np.isfinite(affine).all() or not abs(np.linalg.det(affine[:3, :3])) > 0 or min(shape, default=0) < 1:
        return DEFECT, f"opened with shape {shape} and affine {affine.tolist()}"
    if errors:
        return _refusal("; ".join(errors), [path.name])
    try:
        other, place = read_independently(path, _form_now(path, form))
    except Exception as error:
        return DEFECT, f"accepted, but not by another reader ({type(error).__name__}: {error})"
    if voxels.shape != tuple(shape) or other.shape != tuple(shape):
        return DEFECT, f"shape {shape}, voxels {voxels.shape}, by another reader {other.shape}"
    if place is not None and not np.allclose(affine, place, rtol=1e-4, atol=1e-4 * np.abs(place[:3, :3]).max()):
        return DEFECT, f"affine {affine.tolist()}, by another reader {place.tolist()}"
    seen = np.asarray(LoadImage()(str(path)).affine)
    if not np.allclose(affine, seen, rtol=1e-4, atol=0.05 * np.abs(affine[:3, :3]).max()):
        return DEFECT, f"affine {affine.tolist()}, where training sees {seen.tolist()}"
    if not np.allclose(voxels, other, rtol=1e-5, atol=1e-6):
        return DEFECT, "voxels differ from those of another reader"
    return ACCEPTED, ""


def _form_now(path: Path, form: str) -> str:
    return "nifti" if path.name.lower().endswith((".nii", ".nii.gz")) else "itk" if form == "nifti" else form


def _judge_segmentation(root: Path) -> tuple[str, str]:
    try:
        made = convert_segmentations(root / "scans", root / "segs", root / "out")
    except UserError as error:
        if (root / "out").is_dir() and any((root / "out").iterdir()):
            return DEFECT, f"left files after: {error}"
        return _refusal(str(error), ["s.dcm", str(root / "scans"), str(root / "segs")])
    wrong = [name for case in made.files.values() for name in _misplaced(case, root, made.class_names)]
    return (DEFECT, f"misplaced: {wrong}") if wrong else (ACCEPTED, "")


def _misplaced(file: Path, root: Path, names: list[str]) -> list[str]:
    """Segments of the SEG that lie elsewhere in the label, by the positions of their frames alone."""
    label, dataset = nib.load(file), pydicom.dcmread(root / "segs" / "s.dcm")
    expected = np.zeros(label.shape, int)
    labels = {int(one.SegmentNumber): str(one.SegmentLabel).strip() for one in dataset.SegmentSequence}
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for frame, own in zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        get = lambda name, own=own: (own.get(name) or shared.get(name))[0]  # noqa: E731
        orientation = np.array(get("PlaneOrientationSequence").ImageOrientationPatient, float)
        spacing = np.array(get("PixelMeasuresSequence").PixelSpacing, float)
        rows, columns = np.nonzero(frame)
        points = np.ones((4, len(rows)))
        points[:3] = (np.array(get("PlanePositionSequence").ImagePositionPatient, float)[:, None]
                      + np.outer(orientation[:3] * spacing[1], columns) + np.outer(orientation[3:] * spacing[0], rows))
        index = np.rint(np.linalg.solve(label.affine, LPS_TO_RAS @ points))[:3].astype(int)
        expected[tuple(index)] = names.index(labels[int(get("SegmentIdentificationSequence").ReferencedSegmentNumber)])
    return [] if np.array_equal(expected, label.dataobj) else [str(file)]


def _judge_import(source: Path, name: str, root: Path) -> tuple[str, str]:
    out, said = root.with_name(f"{root.name}-out"), io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = main(["import", name, str(source), str(out), *SPLIT])
        text = said.getvalue()
        if code not in (0, 1):
            return DEFECT, f"exit {code}: {text}"
        if code == 1 and (out / "datalist.json").exists():
            return DEFECT, f"left a datalist after: {text}"
        return _refusal(text, [str(source), str(out), *CASES_OF_IMPORTS]) if code else _judge_converted(source, out)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _judge_converted(source: Path, out: Path) -> tuple[str, str]:
    """What was converted must be what SimpleITK reads at its source."""
    for image in sorted((out / "images").glob("*")):
        case = image.name.removesuffix(".nii.gz")
        folder = next((path for path in sorted(source.glob(f"*/{case}")) if path.is_dir()), None)
        if folder is None or (folder / "mri_norm2.h5").exists():  # without geometry
            continue
        series = next(folder.glob("*/*"), None)
        other, place = read_independently(series if series else folder / "lgemri.nrrd", "itk")
        made = nib.load(image)
        if made.shape != other.shape or not np.allclose(made.affine, place, atol=1e-3):
            return DEFECT, f"{image.name}: {made.shape}, {made.affine.tolist()}; by SimpleITK {other.shape}, {place}"
        if not np.allclose(np.asarray(made.dataobj), other):
            return DEFECT, f"{image.name}: voxels differ from SimpleITK's"
    return ACCEPTED, ""
