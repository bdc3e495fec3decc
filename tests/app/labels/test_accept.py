"""Labels that people send: brought to the scan's grid and classes, or refused in one sentence."""

from __future__ import annotations

import gzip
import os

import itk
import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lib.errors import RequestError
from lib.labels.accept import accept_label
from lib.labels.segments import class_values, classes_of

SHAPE = (9, 8, 7)
ROTATION = np.linalg.qr(np.array([[1.0, 0.2, -0.1], [-0.15, 1.0, 0.3], [0.1, -0.25, 1.0]]))[0]
LABELS = ["liver", "left kidney"]
LPS = np.diag([-1.0, -1.0, 1.0])


def affine_of(rotation=None):
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if rotation is None else rotation) @ np.diag([0.7, 0.8, 2.5])
    affine[:3, 3] = [-101.3, 55.7, -800.2]
    return affine


def truth():
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[2:5, 1:6, 2:4] = 1
    voxels[6, 6, 5] = 2
    return voxels


def write_itk(path, voxels, affine, compress=True):
    """As ITK's programs (3D Slicer) write: LPS, x fastest."""
    image = itk.image_view_from_array(np.ascontiguousarray(voxels.T))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing([float(value) for value in spacing])
    image.SetOrigin([float(value) for value in LPS @ affine[:3, 3]])
    image.SetDirection(itk.matrix_from_array(LPS @ affine[:3, :3] / spacing))
    itk.imwrite(image, str(path), compression=compress)
    return path


def write_nifti(path, voxels, affine):
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


@pytest.fixture(params=["upright", "oblique"])
def affine(request):
    return affine_of(None if request.param == "upright" else ROTATION)


@pytest.fixture
def scan(tmp_path, affine):
    return write_nifti(tmp_path / "scan.nii.gz", np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), affine)


def refused(status, sentence, *arguments, **rest):
    with pytest.raises(RequestError, match=sentence) as caught:
        accept_label(*arguments, **rest)
    assert caught.value.status == status, caught.value
    text = caught.value.sentence
    assert text[0].isupper() and text.endswith((".", "?")) and "/tmp" not in text and "\n" not in text
    return text


# ------------------------------------------------------------------------------------------------ what is accepted


@pytest.mark.parametrize("name", ["l.nii.gz", "l.nii", "l.nrrd", "l.seg.nrrd", "l.mha", "L.NRRD"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_every_format(tmp_path, scan, affine, name, dtype):
    path = tmp_path / name
    voxels = truth().astype(dtype)
    write = write_nifti if ".nii" in name else write_itk
    label = accept_label(write(path, voxels, affine), scan, LABELS)
    assert label.array.dtype == np.uint8 and np.array_equal(label.array, truth())
    assert np.array_equal(label.affine, nib.load(scan).affine)
    assert label.voxels == {"liver": 30, "left kidney": 1}
    assert not (label.reordered or label.cropped or label.remapped)


def test_written_labels_lie_on_the_scan_for_every_reader(tmp_path, scan, affine):
    label = accept_label(write_itk(tmp_path / "l.nrrd", truth(), affine), scan, LABELS)
    path = label.write(tmp_path / "out" / "label.nii.gz")
    again = nib.load(path)
    assert again.get_data_dtype() == np.uint8 and np.array_equal(np.asarray(again.dataobj), truth())
    assert np.allclose(again.affine, affine, atol=1e-4)
    image = itk.imread(str(path))
    assert np.array_equal(itk.array_view_from_image(image).T, truth())
    assert np.allclose(np.array(image.GetOrigin()), LPS @ affine[:3, 3], atol=1e-3)
    assert path.read_bytes() == label.write(tmp_path / "twice.nii.gz").read_bytes()
    assert accept_label(path, scan, LABELS).voxels == label.voxels


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
@pytest.mark.parametrize("name", ["l.nii.gz", "l.nrrd"])
def test_axes_in_another_order(tmp_path, scan, affine, axes, flips, name):
    turned = nib.Nifti1Image(truth(), affine).as_reoriented(np.array(list(zip(axes, flips, strict=True))))
    write = write_nifti if name == "l.nii.gz" else write_itk
    label = accept_label(write(tmp_path / name, np.asarray(turned.dataobj), turned.affine), scan, LABELS)
    assert np.array_equal(label.array, truth())
    assert label.reordered is (axes != (0, 1, 2) or flips != (1, 1, 1)) and not label.cropped


def test_a_crop_is_pasted(tmp_path, scan, affine):
    box = (slice(1, 7), slice(0, 7), slice(2, 6))
    cropped = affine.copy()
    cropped[:3, 3] = (affine @ [1, 0, 2, 1])[:3]
    label = accept_label(write_itk(tmp_path / "l.nrrd", truth()[box], cropped), scan, LABELS)
    assert np.array_equal(label.array, truth()) and label.cropped and not label.reordered
    mirrored = np.flip(truth()[box], (0, 1))
    turned = cropped @ np.array([[-1.0, 0, 0, 5], [0, -1, 0, 6], [0, 0, 1, 0], [0, 0, 0, 1]])
    label = accept_label(write_itk(tmp_path / "m.nrrd", mirrored, turned), scan, LABELS)
    assert np.array_equal(label.array, truth()) and label.cropped and label.reordered


def test_a_crop_from_the_first_voxel_must_end_where_the_label_does(tmp_path, scan, affine):
    """Slices that hold nothing are left out of a DICOM SEG; a label of another scan is merely shorter."""
    label = accept_label(write_nifti(tmp_path / "tight.nii.gz", truth()[:, :, :6], affine), scan, LABELS)
    assert np.array_equal(label.array, truth()) and label.cropped
    voxels = truth()
    voxels[6, 6, 5] = 0
    refused(409, "9x8x6 and 9x8x7 voxels", write_nifti(tmp_path / "a.nii.gz", voxels[:, :, :6], affine), scan, LABELS)
    flipped = affine @ np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 5], [0, 0, 0, 1]])
    path = write_nifti(tmp_path / "b.nii.gz", np.flip(voxels[:, :, :6], 2), flipped)
    refused(409, "9x8x6 and 9x8x7 voxels", path, scan, LABELS)


def test_a_fourth_axis_of_one(tmp_path, scan, affine):
    path = write_nifti(tmp_path / "l.nii.gz", truth()[..., None], affine)
    assert np.array_equal(accept_label(path, scan, LABELS).array, truth())


@pytest.mark.parametrize("name", ["scan.nrrd", "scan.mha"])
def test_the_scan_may_be_an_itk_file(tmp_path, affine, name):
    scan = write_itk(tmp_path / name, np.random.default_rng(0).normal(size=SHAPE).astype(np.float32), affine)
    label = accept_label(write_nifti(tmp_path / "l.nii.gz", truth(), affine), scan, LABELS)
    assert np.array_equal(label.array, truth())


def test_the_scan_may_be_a_dicom_series(tmp_path, write_series):
    stored = np.random.default_rng(0).integers(0, 2000, SHAPE[::-1])
    series = write_series(tmp_path / "series", stored)
    affine = np.diag([-0.7, -0.8, 2.0, 1.0])
    affine[:3, 3] = [-5, -6, 0]
    label = accept_label(write_itk(tmp_path / "l.nrrd", truth(), affine), series, LABELS)
    assert np.array_equal(label.array, truth()) and not label.reordered
    # The same voxels, as a NIfTI program that prefers RAS saves them.
    ras = nib.as_closest_canonical(nib.Nifti1Image(truth(), affine))
    nib.save(ras, tmp_path / "ras.nii.gz")
    label = accept_label(tmp_path / "ras.nii.gz", series, LABELS)
    assert np.array_equal(label.array, truth()) and label.reordered


def test_a_real_ct_and_a_mask_whose_rows_run_the_other_way(shared_dir):
    folder = shared_dir / "data" / "dicom"
    organs = np.asarray(nib.load(folder / "ct_abdomen_organs.nii.gz").dataobj)
    names = [f"organ {value}" for value in range(1, 118)]
    label = accept_label(folder / "ct_abdomen_organs.nii.gz", folder / "ct_abdomen", names)
    assert label.reordered and np.array_equal(label.array, organs[:, ::-1])
    assert label.voxels["organ 5"] == np.count_nonzero(organs == 5) > 100_000


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations([0, 1, 2]), flips=st.tuples(*[st.sampled_from([1, -1])] * 3),
       low=st.tuples(*[st.integers(0, 2)] * 3), high=st.tuples(*[st.integers(0, 2)] * 3), seed=st.integers(0, 99))
def test_whatever_was_reordered_and_cropped_comes_back(tmp_path, order, flips, low, high, seed):
    affine = affine_of(ROTATION)
    scan = tmp_path / "scan.nii"
    if not scan.exists():
        write_nifti(scan, np.zeros(SHAPE, np.float32), affine)
    box = tuple(slice(first, size - last) for first, last, size in zip(low, high, SHAPE, strict=True))
    whole = np.zeros(SHAPE, np.uint8)
    inner = np.random.default_rng(seed).integers(0, 3, whole[box].shape).astype(np.uint8)
    inner[[0, -1]] = inner[:, [0, -1]] = inner[:, :, [0, -1]] = 1  # as tight as programs crop
    whole[box] = inner
    shifted = affine.copy()
    shifted[:3, 3] = (affine @ [*low, 1])[:3]
    turned = nib.Nifti1Image(inner, shifted).as_reoriented(np.array(list(zip(order, flips, strict=True))))
    nib.save(turned, tmp_path / "label.nii")
    label = accept_label(tmp_path / "label.nii", scan, LABELS)
    assert np.array_equal(label.array, whole)
    assert label.cropped is (any(low) or any(high))


# ------------------------------------------------------------------------------------------------- segments by name


def test_slicers_segments_in_another_order(tmp_path, scan, affine):
    swapped = np.array([0, 2, 1], np.uint8)[truth()]
    info = [{"name": "left kidney", "idx": 1}, {"name": "liver", "idx": 2}]
    label = accept_label(write_itk(tmp_path / "l.nrrd", swapped, affine), scan, LABELS, info)
    assert np.array_equal(label.array, truth()) and label.remapped


@pytest.mark.parametrize(("values", "info", "expected"), [
    ([1], [("Liver", 1)], {1: 1}),
    ([7], [("left_kidney", 7)], {7: 2}),
    ([1, 2], [("left kidney", 1), ("liver", 2), ("tumor", 3)], {1: 2, 2: 1}),  # no voxel is tumor
    ([1, 2], [("liver", 1), ("liver", 2)], {1: 1, 2: 1}),
    ([1, 2], [("background", 1), ("liver", 2)], {1: 0, 2: 1}),
    ([1, 2], [("liver", 2), ("left kidney", 3)], {1: 1, 2: 2}),  # Slicer left a background out and counted it
    ([3, 2], [("liver", 2), ("left kidney", 3)], {2: 1, 3: 2}),
    ([1], [("liver", 1), ("left kidney", 3)], {1: 1}),
    ([2], [("liver", 1), ("left kidney", 3)], {2: 2}),
    ([2], [("liver", 2), ("Liver", 3)], {2: 1}),  # both ways the same
    ([1, 2], [], {1: 1, 2: 2}),
    ([1, 2], None, {1: 1, 2: 2}),
])
def test_what_numbers_mean(values, info, expected):
    info = info and [{"name": name, "idx": index} for name, index in info]
    assert classes_of(values, class_values(LABELS), None, info) == expected


@pytest.mark.parametrize(("values", "info", "sentence"), [
    ([3], None, r"value 3, which is no class of this server: it may have 1 \(liver\), 2 \(left kidney\)"),
    ([1], [("spleen", 1)], "segment 'spleen', which is none of this server's: rename it"),
    ([1, 2], [("liver", 1)], "value 2, but no segment name"),
    ([2], [("liver", 2), ("left kidney", 3)], "not certain which segment"),
    ([1], [("liver", 1), ("left kidney", 1)], "two names to one idx"),
    ([1], [("liver", "1")], "whole number"),
    ([1], [("liver", True)], "whole number"),
    ([1], [(None, 1)], "whole number"),
])
def test_numbers_without_a_meaning(values, info, sentence):
    info = info and [{"name": name, "idx": index} for name, index in info]
    with pytest.raises(RequestError, match=sentence) as caught:
        classes_of(values, class_values(LABELS), None, info)
    assert caught.value.status == 400


@pytest.mark.parametrize("info", [7, {"a": 1}, [1], [{"name": "liver"}], "liver", [None]])
def test_label_info_of_another_form(info):
    with pytest.raises(RequestError, match="label_info must be a list"):
        classes_of([1], class_values(LABELS), None, info)


def test_classes_by_number():
    assert class_values({"background": 0, "liver": 3}) == {"liver": 3}
    assert classes_of([3], {"liver": 3}, None, None) == {3: 3}


def write_seg_nrrd(path, voxels, affine, segments, layers=None):
    """As 3D Slicer writes segmentations: names and numbers of the segments in the header."""
    lps = LPS @ affine[:3]
    directions = " ".join("(" + ",".join(repr(float(value)) for value in lps[:, axis]) + ")" for axis in range(3))
    lines = ["NRRD0004", "# Complete NRRD file format specification at:", "type: unsigned char",
             f"dimension: {voxels.ndim}", "space: left-posterior-superior",
             f"sizes: {' '.join(map(str, voxels.shape))}",
             f"space directions: {'none ' if voxels.ndim == 4 else ''}{directions}",
             f"kinds: {'list ' if voxels.ndim == 4 else ''}domain domain domain", "encoding: gzip",
             "space origin: (" + ",".join(repr(float(value)) for value in lps[:, 3]) + ")"]
    for number, (name, value) in enumerate(segments):
        lines += [f"Segment{number}_Name:={name}", f"Segment{number}_LabelValue:={value}",
                  f"Segment{number}_Layer:={layers[number] if layers else 0}", f"Segment{number}_ID:=Segment_{number}"]
    packed = gzip.compress(voxels.tobytes(order="F"), mtime=0)
    path.write_bytes("\n".join([*lines, "", ""]).encode() + packed)
    return path


def test_a_segmentation_names_its_segments(tmp_path, scan, affine):
    voxels = np.array([0, 5, 3], np.uint8)[truth()]
    path = write_seg_nrrd(tmp_path / "l.seg.nrrd", voxels, affine, [("left kidney", 3), ("liver", 5), ("spleen", 9)])
    # What Slicer sends beside it counts segments, not numbers of the file: the file goes first.
    info = [{"name": "left kidney", "idx": 1}, {"name": "liver", "idx": 2}]
    label = accept_label(path, scan, LABELS, info)
    assert np.array_equal(label.array, truth()) and label.remapped


def test_overlapping_segments(tmp_path, scan, affine):
    layers = np.stack([truth() == 1, truth() == 2]).astype(np.uint8)
    segments = [("liver", 1), ("left kidney", 1)]
    path = write_seg_nrrd(tmp_path / "l.seg.nrrd", layers, affine, segments, layers=[0, 1])
    refused(400, "layers", path, scan, LABELS)
    flat = write_seg_nrrd(tmp_path / "f.seg.nrrd", truth(), affine, segments, layers=[0, 1])
    refused(400, "segments that overlap", flat, scan, LABELS)


# ------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("change", ["moved", "half a voxel", "spacing", "turned", "larger", "beyond", "other shape",
                                    "mirrored header"])
def test_another_grid(tmp_path, scan, affine, change):
    voxels, other = truth(), affine.copy()
    if change == "moved":
        other[0, 3] += 50
    elif change == "half a voxel":
        other[:3, 3] += 0.5 * affine[:3, 1]
    elif change == "spacing":
        other[:3, 2] *= 1.05
    elif change == "turned":
        other[:3, :3] = np.linalg.qr(np.eye(3) + 0.1 * np.tri(3))[0] @ affine[:3, :3]
    elif change == "larger":
        voxels = np.pad(voxels, ((0, 0), (0, 1), (0, 0)))
    elif change == "beyond":
        voxels, other[:3, 3] = voxels[:5], (affine @ [-1, 0, 0, 1])[:3]
    elif change == "other shape":
        voxels = voxels[:8, :7, :6]
        voxels[6:, 5:] = 0
    elif change == "mirrored header":
        other = other @ np.diag([-1.0, 1, 1, 1])
    text = refused(409, "does not lie on the voxels of its scan", write_nifti(tmp_path / "l.nii.gz", voxels, other),
                   scan, LABELS)
    assert "x".join(map(str, SHAPE)) in text


def test_rounding_of_headers_is_no_other_grid(tmp_path, scan, affine):
    """Six digits, as MetaImage and older programs write; float32 in between."""
    digits = np.vectorize(lambda value: float(f"{value:.6g}"))
    path = write_itk(tmp_path / "l.mha", truth(), digits(affine.astype(np.float32).astype(float)))
    assert np.array_equal(accept_label(path, scan, LABELS).array, truth())


@pytest.mark.parametrize(("value", "sentence"), [
    (0.5, "fractional values such as 0.5"), (np.nan, "NaN or infinite"), (np.inf, "NaN or infinite"),
    (3.0, "value 3, which is no class"), (-1.0, "value -1, which is no class"), (1e9, "value 1000000000"),
])
def test_wrong_values(tmp_path, scan, affine, value, sentence):
    voxels = truth().astype(np.float32)
    voxels[0, 0, 0] = value
    refused(400, sentence, write_nifti(tmp_path / "l.nii.gz", voxels, affine), scan, LABELS)


def test_scale_factors_round(tmp_path, scan, affine):
    stored = (truth().astype(int) * 127).astype(np.uint8)
    path = tmp_path / "l.nii"
    nib.save(nib.Nifti1Image(stored, affine), path)
    content = bytearray(path.read_bytes())
    content[112:116] = np.float32(1 / 127).tobytes()  # scl_slope
    path.write_bytes(bytes(content))
    assert np.array_equal(accept_label(path, scan, LABELS).array, truth())


def test_an_empty_mask(tmp_path, scan, affine):
    empty = write_nifti(tmp_path / "l.nii.gz", np.zeros(SHAPE, np.uint8), affine)
    refused(400, "The label is empty", empty, scan, LABELS)
    refused(400, "The label is empty", empty, scan, LABELS, [{"name": "liver", "idx": 1}])
    only = write_nifti(tmp_path / "b.nii.gz", (truth() > 0).astype(np.uint8), affine)
    refused(400, "all of it is background", only, scan, LABELS, [{"name": "background", "idx": 1}])


@pytest.mark.parametrize(("name", "content", "status", "sentence"), [
    ("l.nii.gz", b"this is no image", 415, "cannot be read as NIfTI"),
    ("l.nii.gz", gzip.compress(b"nor is this"), 415, "cannot be read as NIfTI"),
    ("l.nii", b"\0" * 400, 415, "The label cannot be used"),
    ("l.nrrd", b"this is no image", 415, "damaged or keeps its voxels"),
    ("l.nrrd", b"NRRD0004\ntype: uchar\n\n", 415, "cannot be used"),
    ("l.mha", b"ObjectType = Image\nElementDataFile = LOCAL\n", 415, "cannot be used"),
    ("l.nii.gz", b"", 400, "empty .0 bytes."),
    ("l.png", b"\x89PNG\r\n", 415, "no file of a kind"),
    ("l", b"NRRD0004", 415, "no file of a kind"),
    ("l.dcm", b"\0" * 128 + b"DICM", 415, "no file of a kind"),
    ("l.mhd", b"ObjectType = Image", 415, "no file of a kind"),
])
def test_an_upload_that_is_no_image(tmp_path, scan, name, content, status, sentence):
    path = tmp_path / name
    path.write_bytes(content)
    refused(status, sentence, path, scan, LABELS)


def test_no_upload_and_no_scan(tmp_path, scan, affine):
    refused(400, "without a label file", tmp_path / "none.nii.gz", scan, LABELS)
    label = write_nifti(tmp_path / "l.nii.gz", truth(), affine)
    refused(404, "scan gone.nii.gz of this label is not there", label, tmp_path / "gone.nii.gz", LABELS)
    (tmp_path / "bad.nii.gz").write_bytes(b"no scan")
    refused(422, "The scan of this label cannot be used", label, tmp_path / "bad.nii.gz", LABELS)


def test_a_truncated_upload(tmp_path, scan, affine):
    for name in ("l.nii.gz", "l.nrrd", "l.mha"):
        path = (write_nifti if ".nii" in name else write_itk)(tmp_path / name, truth(), affine)
        path.write_bytes(path.read_bytes()[:-12])
        refused(415, "The label cannot be used", path, scan, LABELS)


def test_too_large(tmp_path, scan, affine):
    path = write_nifti(tmp_path / "l.nii", truth(), affine)
    refused(413, "The label file has 856 bytes, more than the 100 bytes", path, scan, LABELS, max_bytes=100)
    assert accept_label(path, scan, LABELS, max_bytes=path.stat().st_size).voxels["liver"] == 30


def test_a_header_that_claims_more_than_memory_holds(tmp_path, scan, affine):
    """1.6 TB of voxels in a compressed file of a few kB: refused from the header."""
    header = nib.Nifti1Header()
    header.set_data_shape((12000, 12000, 11000))
    header.set_data_dtype(np.uint8)
    header.set_sform(affine, code=1)
    header.set_zooms(nib.affines.voxel_sizes(affine))
    path = tmp_path / "l.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + b"\0" * 1_000_000))
    refused(415, "damaged: its header claims", path, scan, LABELS)
    # A bomb that does unpack to what it claims is refused for its grid, unread.
    shape = (300, 300, 300)
    header.set_data_shape(shape)
    path.write_bytes(gzip.compress(header.binaryblock + b"\0" * 4 + b"\0" * int(np.prod(shape))))
    assert path.stat().st_size < 100_000
    refused(409, "300x300x300 and 9x8x7", path, scan, LABELS)


@pytest.mark.parametrize("text", ["data file: {secret}", "DATA FILE: {secret}", "datafile: {secret}",
                                  "  data file: {secret}", "data file: LIST\n{secret}"])
def test_a_nrrd_may_not_name_a_file_of_the_server(tmp_path, scan, text):
    secret = tmp_path / "secret.raw"
    secret.write_bytes(truth().tobytes(order="F"))
    path = tmp_path / "l.nrrd"
    path.write_text("NRRD0004\ntype: unsigned char\ndimension: 3\nsizes: 9 8 7\nencoding: raw\n"
                    + text.format(secret=secret) + "\n\n")
    refused(415, "keeps its voxels in another file", path, scan, LABELS)


@pytest.mark.parametrize("line", ["ElementDataFile = {secret}", "ElementDataFile={secret}",
                                  "ElementDataFile : {secret}", "elementdatafile = {secret}",
                                  "ElementDataFile = LIST\n{secret}", ""])
def test_a_metaimage_may_not_either(tmp_path, scan, line):
    secret = tmp_path / "secret.raw"
    secret.write_bytes(truth().tobytes(order="F"))
    path = tmp_path / "l.mha"
    path.write_text("ObjectType = Image\nNDims = 3\nDimSize = 9 8 7\nElementType = MET_UCHAR\n"
                    + line.format(secret=secret) + "\n")
    refused(415, "keeps its voxels in another file", path, scan, LABELS)


def test_a_pipe_is_not_waited_for(tmp_path, scan):
    os.mkfifo(tmp_path / "l.nii.gz")
    refused(400, "without a label file", tmp_path / "l.nii.gz", scan, LABELS)
