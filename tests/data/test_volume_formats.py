"""One scan in several formats: found, read like LoadImage and SimpleITK, with one digest."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from monai.transforms import LoadImage

from mnseg.data.build_datalist import build_datalist
from mnseg.data.integrity import check_datalist
from mnseg.data.volume_formats import case_id, list_volumes, volume_kind
from mnseg.data.volume_io import content_digest, open_volume, read_voxels, through_plane_axis
from mnseg.errors import UserError

SUFFIXES = [".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"]
ROTATION = np.linalg.qr(np.array([[1.0, 0.2, -0.1], [-0.15, 1.0, 0.3], [0.1, -0.25, 1.0]]))[0]


def write(path, array, spacing=(0.7, 0.8, 2.5), direction=(1, 0, 0, 0, -1, 0, 0, 0, 1), **options):
    image = sitk.GetImageFromArray(array, **options)
    image.SetSpacing(spacing)
    image.SetOrigin((-5, 6.5, 7))
    image.SetDirection(np.ravel(direction).astype(float))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return image


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
@pytest.mark.parametrize(
    "direction", [np.diag([1, -1, 1]), np.eye(3)[[2, 0, 1]], ROTATION], ids=["flip", "axes", "turn"]
)
def test_geometry_and_voxels_are_those_of_simpleitk_and_of_loadimage(tmp_path, suffix, direction):
    path = tmp_path / f"a{suffix}"
    image = write(path, np.random.default_rng(0).integers(-900, 900, (6, 5, 4)).astype(np.int16), direction=direction)
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    volume = open_volume(path)
    assert volume.shape == (4, 5, 6)
    np.testing.assert_allclose(volume.affine, np.diag([-1, -1, 1, 1]) @ affine, atol=1e-4)
    np.testing.assert_array_equal(read_voxels(volume, path), sitk.GetArrayFromImage(image).T)
    loaded = LoadImage()(str(path))
    np.testing.assert_allclose(loaded.affine, volume.affine, atol=1e-6)
    np.testing.assert_array_equal(loaded, sitk.GetArrayFromImage(image).T)


def test_the_format_does_not_change_the_digest(tmp_path, write_series):
    stored = np.random.default_rng(0).integers(0, 2000, (6, 5, 4)).astype(np.int16)
    for suffix in SUFFIXES:
        write(tmp_path / f"a{suffix}", stored - 1000)
    write_series(tmp_path / "series", stored[:, ::-1])  # the rows of `write` run from back to front
    digests = {content_digest(path) for path in [*(tmp_path / f"a{s}" for s in SUFFIXES), tmp_path / "series"]}
    assert len(digests) == 1
    write(tmp_path / "b.mha", stored - 999)
    assert content_digest(tmp_path / "b.mha") not in digests


def test_channels_are_the_last_axis(tmp_path):
    array = np.random.default_rng(0).random((6, 5, 4, 2)).astype(np.float32)
    write(tmp_path / "a.nrrd", array, isVector=True)
    assert open_volume(tmp_path / "a.nrrd").shape == (4, 5, 6, 2)
    np.testing.assert_array_equal(read_voxels(open_volume(tmp_path / "a.nrrd"), "a"), array.transpose(2, 1, 0, 3))


def test_broken_files_are_one_sentence(tmp_path):
    (tmp_path / "text.nrrd").write_text("no header")
    with pytest.raises(UserError, match="text.nrrd cannot be read"):
        open_volume(tmp_path / "text.nrrd")
    write(tmp_path / "cut.mha", np.ones((6, 5, 4), np.float32))
    (tmp_path / "cut.mha").write_bytes((tmp_path / "cut.mha").read_bytes()[:-50])
    with pytest.raises(UserError, match="voxels of .*cut.mha cannot be read"):
        read_voxels(open_volume(tmp_path / "cut.mha"), tmp_path / "cut.mha")
    with pytest.raises(UserError, match="absent.mha does not exist"):
        open_volume(tmp_path / "absent.mha")


def test_a_folder_lists_every_kind_of_scan(tmp_path, write_series):
    stored = np.random.default_rng(0).integers(0, 2000, (6, 5, 4)).astype(np.int16)
    for name in ("a.nii.gz", "b.nrrd", "c.mhd"):
        write(tmp_path / "scans" / name, stored)
    write_series(tmp_path / "scans" / "1.2.840.1", stored)
    write_series(tmp_path / "scans" / "1.2.840.2", stored + 1)
    (tmp_path / "scans" / "notes").mkdir()
    (tmp_path / "scans" / "notes" / "a.txt").write_text("nothing")
    assert list(list_volumes(tmp_path / "scans")) == ["1.2.840.1", "1.2.840.2", "a", "b", "c"]
    assert list(list_volumes(tmp_path / "scans" / "1.2.840.1")) == ["1.2.840.1"]  # the folder is the scan
    kinds = {case: volume_kind(path) for case, path in list_volumes(tmp_path / "scans").items()}
    assert kinds == {"1.2.840.1": "dicom", "1.2.840.2": "dicom", "a": "nifti", "b": "itk", "c": "itk"}
    assert volume_kind(tmp_path / "scans" / "1.2.840.1" / "IM001") == "dicom"
    assert case_id("scans/x.1.nrrd") == "x.1"
    write(tmp_path / "scans" / "1.2.840.1.nii", stored)
    with pytest.raises(UserError, match="two files for case 1.2.840.1"):
        list_volumes(tmp_path / "scans")


def test_a_datalist_of_mixed_formats_is_checked_like_any_other(tmp_path, write_series):
    stored = np.random.default_rng(0).integers(0, 2000, (6, 5, 4)).astype(np.int16)
    write(tmp_path / "scans" / "b.nrrd", stored, direction=np.eye(3))
    label = np.zeros(stored.shape, np.uint8)
    label[2:4, 2:4, 1:3] = 1
    write(tmp_path / "labels" / "b.mha", label, direction=np.eye(3))
    write_series(tmp_path / "scans" / "series", stored + 5)
    write_series(tmp_path / "scans" / "tilted", stored + 6, lambda k: (5, 6 + k, 2.0 * k))
    built = build_datalist(tmp_path / "scans", tmp_path / "labels").datalist
    assert [item["image"][-6:] for item in built["unlabeled"]] == ["series", "tilted"]
    report = check_datalist(built, num_classes=2)
    assert [finding.case for finding in report.errors] == ["tilted"]
    assert "tilted gantry" in report.errors[0].message
    assert through_plane_axis([built["labeled"][0], built["unlabeled"][0]]) == 2
    write(tmp_path / "labels" / "b.mha", label, direction=np.diag([1, -1, 1]))
    assert any("label" in finding.message and finding.case == "b" for finding in
               check_datalist(built, num_classes=2).errors)
    write_series(tmp_path / "labels" / "tilted", stored)
    with pytest.raises(UserError, match="are DICOM: make NIfTI labels of them with `mnseg seg-to-nifti`"):
        build_datalist(tmp_path / "scans", tmp_path / "labels")
