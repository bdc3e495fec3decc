"""Damaged files that were once taken, or ended in a traceback or a hang: each is refused in one sentence."""

from __future__ import annotations

import gzip
import json
import os

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from monai.transforms import LoadImage

from mnseg.cli import main
from mnseg.data.datalist import load_datalist
from mnseg.data.dicom_seg_read import convert_segmentations
from mnseg.data.volume_io import open_volume, read_voxels
from mnseg.errors import UserError

VOXELS = np.random.default_rng(0).integers(0, 2000, (8, 9, 6)).astype(np.int16)


def nifti(path, **fields):
    """A NIfTI file whose header fields were changed afterwards: a value, or (index, value)."""
    header = nib.Nifti1Image(VOXELS, np.diag([1, 1, 2, 1.0])).header.copy()
    image = nib.Nifti1Image(VOXELS, np.diag([1, 1, 2, 1.0]), header)
    data = bytearray(image.to_bytes())
    raw = np.frombuffer(data, nib.Nifti1Header.template_dtype, 1)[0:1]
    for name, value in fields.items():
        if isinstance(value, tuple):
            raw[name][0][value[0]] = value[1]
        else:
            raw[name] = value
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def refused(path, match):
    with pytest.raises(UserError, match=match) as caught:
        read_voxels(open_volume(path), path)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(("fields", "match"), [
    ({"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]}, "claims .* bytes"),
    ({"dim": (1, 0)}, "has no voxels"),
    ({"dim": (0, 0)}, "has no voxels"),
    ({"dim": (3, 4)}, "holds more voxels than its header says"),
    ({"datatype": 2, "bitpix": 8}, "holds more voxels than its header says"),
    ({"sform_code": 11}, "sform_code 11"),
    ({"sform_code": 1, "srow_x": (0, np.inf)}, "affine that is singular or not finite"),
    ({"sform_code": 1, "srow_x": [0, 0, 0, 0]}, "affine that is singular or not finite"),
])  # fmt: skip
def test_nifti_headers(tmp_path, name, fields, match):
    refused(nifti(tmp_path / name, **fields), match)


@pytest.mark.parametrize("channels", [(), (2,)], ids=["3D", "4D"])
def test_two_geometries_in_one_nifti(tmp_path, channels):
    """nibabel and viewers go by the sform; MONAI by the qform, if the sform's voxels have another size than pixdim."""
    turned = np.array([[0, -1.0, 0, 50], [1.0, 0, 0, 60], [0, 0, 2.0, 70], [0, 0, 0, 1]])
    voxels = np.resize(VOXELS, (*VOXELS.shape, *channels))

    def write(name, sform, pixdim):
        image = nib.Nifti1Image(voxels, np.diag([1, 1, 2, 1.0]))
        image.set_sform(sform, 1)
        image.set_qform(None, 0)
        image.header["quatern_b"], image.header["pixdim"][1:4] = 0, pixdim
        path = tmp_path / name
        path.write_bytes(image.to_bytes())
        np.testing.assert_allclose(nib.load(path).affine, sform)
        return path

    refused(write("scaled.nii", turned * [0.5, 1, 1, 1], (1, 1, 2)), r"contradicts itself.*pixdim")
    for name, sform in (("turned.nii", turned), ("rounded.nii", np.diag([1.0001, 1, 2, 1]))):
        path = write(name, sform, (1, 1, 2))
        seen = LoadImage()(str(path)).affine
        if np.allclose(seen, sform, atol=0.01):
            assert open_volume(path).shape == voxels.shape
        else:  # MONAI counts the shift of a 4D file as a voxel size
            refused(path, "contradicts itself")


def test_a_wrong_checksum_is_found_though_all_voxels_could_be_read(tmp_path):
    path = nifti(tmp_path / "a.nii.gz")
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    np.testing.assert_array_equal(nib.load(path).dataobj, VOXELS)  # nibabel does not look
    refused(path, "CRC check failed")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name, "no regular file")


def meta(path, *changes, compressed=False):
    image = sitk.GetImageFromArray(VOXELS.T)
    sitk.WriteImage(image, str(path), compressed)
    data = path.read_bytes()
    for old, new in changes:
        assert old in data
        data = data.replace(old, new, 1)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("changes", "match"), [
    ([(b"DimSize = 8 9 6", b"DimSize = 30000 30000 30000")], "claims .* bytes"),
    ([(b"DimSize = 8 9 6", b"DimSize = 8 9 7")], "cannot be read"),
    ([(b"DimSize = 8 9 6", b"DimSize = 8 9 5")], "864 bytes of voxels, its header says 720"),
    ([(b"DimSize = 8 9 6", b"DimSize = 8 0 6")], "no voxels|cannot be read"),
    ([(b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 1 nan")], "singular or not finite|cannot be read"),
    ([(b"TransformMatrix = 1 0 0", b"TransformMatrix = 0 0 0")], "singular or not finite|cannot be read"),
    ([(b"ElementType = MET_SHORT", b"ElementType = MET_OTHER")], "cannot be read"),
])  # fmt: skip
@pytest.mark.parametrize("compressed", [False, True])
def test_metaimage_headers(tmp_path, changes, match, compressed):
    refused(meta(tmp_path / "a.mha", *changes, compressed=compressed), match)


@pytest.mark.parametrize("size", [b"0", b"99999999999"])
def test_metaimage_with_a_wrong_compressed_size(tmp_path, size):
    path = meta(tmp_path / "a.mha", (b"CompressedDataSize = ", b"CompressedDataSize = "), compressed=True)
    head, _, rest = path.read_bytes().partition(b"CompressedDataSize = ")
    path.write_bytes(head + b"CompressedDataSize = " + size + b"\n" + rest.partition(b"\n")[2])
    refused(path, "compressed bytes")


def test_the_data_file_of_a_header_must_be_a_file(tmp_path):
    path = meta(tmp_path / "a.mhd")
    (tmp_path / "a.raw").unlink()
    refused(path, "data file .* is missing")
    os.mkfifo(tmp_path / "a.raw")
    refused(path, "no regular file")


def set_raw(dataset, keyword, value):
    dataset[keyword] = pydicom.dataelem.RawDataElement(
        pydicom.tag.Tag(keyword), "DS", len(value), value, 0, False, True)


@pytest.mark.parametrize(("edit", "match"), [
    (lambda d: set_raw(d, "PixelSpacing", b"0.8\\nan "), "no possible one"),
    (lambda d: set_raw(d, "PixelSpacing", b"abc\\1 "), "damaged"),
    (lambda d: set_raw(d, "RescaleSlope", b"0 "), "no possible one"),
    (lambda d: set_raw(d, "ImagePositionPatient", b"1e400\\0\\0 "), "no possible one|damaged"),
    (lambda d: setattr(d, "Rows", 11), "bytes of pixels instead of"),
    (lambda d: setattr(d, "BitsAllocated", 8), "bytes of pixels instead of"),
    (lambda d: delattr(d, "Rows"), "damaged"),
    (lambda d: delattr(d, "SeriesInstanceUID"), "damaged"),
])  # fmt: skip
def test_dicom_values(tmp_path, write_series, edit, match):
    refused(write_series(tmp_path / "s", np.array(VOXELS.T), edit=lambda dataset, k: edit(dataset)), match)


def test_bytes_behind_the_pixels(tmp_path, write_series):
    series = write_series(tmp_path / "s", np.array(VOXELS.T))
    with (series / "IM003").open("ab") as file:
        file.write(b"\x01\x02\x03\x04" * 25)
    refused(series, "IM003 does not end with its pixels|IM003 cannot be read")


@pytest.mark.parametrize("make", [lambda path: os.symlink("nowhere", path), os.mkfifo])
def test_a_slice_that_cannot_be_there_is_not_left_out(tmp_path, write_series, make):
    series = write_series(tmp_path / "s", np.array(VOXELS.T))
    make(series / "IM999")
    refused(series, "IM999 in it is a link to nothing, or no regular file")


def test_a_damaged_segmentation_is_named(tmp_path, write_series):
    write_series(tmp_path / "scans" / "s", np.array(VOXELS.T))
    (tmp_path / "segs").mkdir()
    (tmp_path / "segs" / "s.dcm").write_bytes(bytes(128) + b"DICM" + b"\x02\x00\x00\x00??" + bytes(50))
    with pytest.raises(UserError, match="s.dcm cannot be read as DICOM|holds no DICOM SEG"):
        convert_segmentations(tmp_path / "scans", tmp_path / "segs", tmp_path / "out")


@pytest.mark.parametrize(("text", "match"), [
    ('{"labeled": ' + "[" * 100_000, "nested too deeply"),
    ('{"labeled": [], "x": ' + "9" * 5000 + "}", "not valid JSON"),
    ('{"labeled": [{"image": "a"}], "labeled": []}', '"labeled" twice'),
    ('{"class_names": 3}', "class_names"),
    ('{"class_names": ["a", 1]}', "class_names"),
    ('{"labeled": [{"image": "a", "case": ["b"]}]}', '"case" must be a name'),
    ('{"labeled": [{"image": "a", "case": "../b"}]}', '"case" must be a name'),
    ('{"labeled": [{"image": "a", "patient": {}}]}', '"patient" must be'),
    ('{"labeled": [{"image": "a", "modality": [1]}]}', '"modality" must be'),
    ('{"labeled": [{"image": "a", "modality": []}]}', '"modality" must be'),
    ('{"labeled": [{"image": "a\\u0000b"}]}', "must be one file name"),
])  # fmt: skip
def test_datalists(tmp_path, capsys, text, match):
    path = tmp_path / "datalist.json"
    path.write_text(text)
    with pytest.raises(UserError, match=match) as caught:
        load_datalist(path)
    assert "datalist.json" in str(caught.value)
    assert main(["check", str(path)]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_home_that_does_not_exist_is_only_a_missing_file(tmp_path):
    (tmp_path / "datalist.json").write_text(json.dumps({"labeled": [{"image": "~nobody-at-all/a.nii"}]}))
    assert load_datalist(tmp_path / "datalist.json")["labeled"][0]["image"].endswith("a.nii")
