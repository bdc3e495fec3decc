"""DICOM series: what ITK reads right is read as SimpleITK reads it; what it would misread is refused by name."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from monai.transforms import LoadImage

from mnseg.data.dicom_series import inspect_series, series_fault
from mnseg.data.volume_io import open_volume, read_voxels
from mnseg.errors import UserError

STORED = np.random.default_rng(0).integers(0, 2000, (8, 12, 10))
ROTATION = np.linalg.qr(np.array([[1.0, 0.2, -0.1], [-0.15, 1.0, 0.3], [0.1, -0.25, 1.0]]))[0]


def by_simpleitk(series) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (X, Y, Z) and RAS affine, by an independent program."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series)))
    return voxels_and_affine(reader.Execute())


def voxels_and_affine(image: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ affine


def assert_read_as(path, voxels, affine) -> None:
    image = open_volume(path)
    assert image.shape == voxels.shape
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)
    np.testing.assert_array_equal(read_voxels(image, path), voxels)
    loaded = LoadImage()(str(path))  # what training sees
    np.testing.assert_allclose(loaded.affine, affine, atol=1e-4)
    np.testing.assert_array_equal(loaded, np.asarray(voxels, np.float32))


@pytest.mark.parametrize("way", ["up", "down", "sagittal", "oblique"])
def test_a_series_is_read_as_simpleitk_reads_it(tmp_path, write_series, way):
    axes = {"sagittal": np.array([[0, 1, 0], [0, 0, -1]]).T, "oblique": ROTATION[:, :2]}.get(way, np.eye(3)[:, :2])
    normal = np.cross(*axes.T) * (-1 if way == "down" else 1)
    write_series(tmp_path / "s", STORED, lambda k: np.array([5, 6, 7]) + 2.5 * k * normal, axes.T.ravel())
    voxels, affine = by_simpleitk(tmp_path / "s")
    assert_read_as(tmp_path / "s", voxels, affine)
    order = STORED[::-1] if way == "down" else STORED
    np.testing.assert_array_equal(voxels, order.transpose(2, 1, 0) - 1000)


@pytest.mark.parametrize("name", ["mr_hippocampus_crop", "ct_abdomen"])
def test_real_series_are_read_as_simpleitk_reads_them(shared_dir, name):
    series = shared_dir / "data" / "dicom" / name
    assert series_fault(series) == ""
    assert_read_as(series, *by_simpleitk(series))


def test_file_names_tell_nothing(tmp_path, write_series):
    write_series(tmp_path / "s", STORED)
    (tmp_path / "s" / "notes.txt").write_text("no slice")
    (tmp_path / "s" / ".DS_Store").write_bytes(b"x")
    series = inspect_series(tmp_path / "s")
    assert series.shape == (10, 12, 8)
    assert [name[-5:] for name in series.files] == [f"IM{8 - k:03d}" for k in range(8)]


def remove_pixels(dataset, k):
    if k == 2:
        del dataset.PixelData


def in_color(dataset, k):
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.PixelData = dataset.PixelData * 3


def at(condition, **elements):
    def edit(dataset, k):
        if condition(k):
            for keyword, value in elements.items():
                setattr(dataset, keyword, value)

    return edit


FAULTS = {
    "tilt": ({"position": lambda k: (5, 6 + 0.4 * k, 2.0 * k)}, r"sheared by 11\.3 degrees, as by a tilted gantry"),
    "slight tilt": ({"position": lambda k: (5, 6 + 0.02 * k, 2.0 * k)}, r"sheared by 0\.573 degrees"),
    "missing": ({"keep": [0, 1, 2, 4, 5, 6, 7]}, r"slices are missing \(4 mm between slices 3 and 4, 2 mm elsewhere"),
    "irregular": ({"position": lambda k: (5, 6, 2.0 * k + 0.5 * (k == 3))}, "irregularly spaced .2.5 mm between sl"),
    "orientations": ({"edit": at(lambda k: k == 4, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])},
                     "different orientations"),
    "sizes": ({"edit": at(lambda k: k == 4, Rows=6, Columns=20)}, r"different sizes \(7 with 10x12, 1 with 20x6\)"),
    "spacings": ({"edit": at(lambda k: k == 4, PixelSpacing=[0.8, 0.8])}, "different pixel spacings"),
    "thicknesses": ({"edit": at(lambda k: k > 4, SliceThickness=2.5)}, r"SliceThickness \(5 with 2.0, 3 with 2.5\)"),
    "two series": ({"edit": at(lambda k: k > 4, SeriesInstanceUID="1.2.3", SeriesDescription="scout")},
                   r"holds 2 series: .*1\.2\.3 \(scout\).*a folder of its own"),
    "copies": ({"position": lambda k: (5, 6, 2.0 * min(k, 6))}, "1 of its 8 slices lie at the position of another"),
    "times": ({"position": lambda k: (5, 6, 2.0 * (k // 2))}, "4 of its 8 slices lie at the position of another"),
    "one place": ({"position": lambda k: (5, 6, 2.0)}, "7 of its 8 slices lie at the position"),
    "color": ({"edit": in_color}, r"is in color \(RGB\)"),
    "palette": ({"edit": at(lambda k: True, PhotometricInterpretation="PALETTE COLOR")}, "is in color .PALETTE"),
    "single": ({"keep": [0]}, "it is a single slice"),
    "no pixels": ({"edit": remove_pixels}, "IM006 has no pixel data"),
    "no place": ({"edit": lambda d, k: delattr(d, "ImagePositionPatient")}, "has no ImagePositionPatient"),
    "scaling": ({"edit": at(lambda k: k % 2, RescaleSlope=0.5)}, "rescale slope or intercept differ"),
    "table": ({"edit": at(lambda k: k == 7, ModalityLUTSequence=[pydicom.Dataset()])}, "modality lookup table"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_series_that_itk_would_misread_is_refused_with_the_reason(tmp_path, write_series, fault):
    options, reason = FAULTS[fault]
    series = write_series(tmp_path / "s", STORED, **options)
    with pytest.raises(UserError, match=f"^DICOM series {series} cannot be used: .*{reason}"):
        open_volume(series)
    assert series_fault(series) in str(pytest.raises(UserError, inspect_series, series).value)


def test_folders_without_a_series(tmp_path, write_series):
    (tmp_path / "empty").mkdir()
    assert "holds no DICOM files" in series_fault(tmp_path / "empty")
    assert "does not exist" in series_fault(tmp_path / "absent")
    write_series(tmp_path / "s", STORED)
    assert "name its folder" in series_fault(tmp_path / "s" / "IM001")
    (tmp_path / "s" / "9.dcm").write_bytes(b"")  # the last slice, lost in a copy: nothing else would show it
    assert "9.dcm is no DICOM file in spite of its name" in series_fault(tmp_path / "s")


def test_truncated_pixels_are_one_sentence(tmp_path, write_series):
    series = write_series(tmp_path / "s", STORED)
    whole = (series / "IM003").read_bytes()
    (series / "IM003").write_bytes(whole[:-200])
    with pytest.raises(UserError, match=str(series)):
        read_voxels(open_volume(series), series)


def test_scaling_per_slice_is_accepted_where_it_is_read_right(tmp_path, write_series):
    slopes = 0.5 + 0.25 * np.arange(8)

    def scale(dataset, k):
        dataset.RescaleSlope, dataset.RescaleIntercept = slopes[k], 0

    series = write_series(tmp_path / "pet", STORED, edit=scale)
    truth = (STORED * slopes[:, None, None]).transpose(2, 1, 0)
    np.testing.assert_array_equal(by_simpleitk(series)[0], truth)
    assert_read_as(series, truth, by_simpleitk(series)[1])
    # The first slice decides ITK's number type: with a whole slope there, halves would be cut off.
    slopes[0] = 1
    assert np.abs(by_simpleitk(write_series(tmp_path / "cut", STORED, edit=scale))[0] - truth).max() > 0
    assert "rescale" in series_fault(tmp_path / "cut")


@pytest.mark.parametrize("heights", [2.5 * np.arange(8), -2.5 * np.arange(8)], ids=["up", "down"])
@pytest.mark.parametrize("rescale", [(2, -10), [(2, -10)] * 8], ids=["shared", "each"])
def test_enhanced_multi_frame_is_read_by_its_functional_groups(tmp_path, write_enhanced, heights, rescale):
    file = write_enhanced(tmp_path / "s" / "IM", STORED, heights, rescale=rescale)
    affine = np.diag([-0.7, -0.8, heights[1], 1])
    affine[:3, 3] = -5, -6, 0
    truth = (STORED * 2 - 10).transpose(2, 1, 0)
    assert_read_as(tmp_path / "s", truth, affine)
    assert_read_as(file, truth, affine)
    np.testing.assert_array_equal(voxels_and_affine(sitk.ReadImage(str(file)))[0], truth)


@pytest.mark.parametrize(("options", "reason"), [
    ({"heights": [0, 5, 2.5, 7.5, 10, 12.5, 15, 17.5]}, "not stored in the order of their positions"),
    ({"heights": [0, 2.5, 5, 7.5, 11, 12.5, 15, 17.5]}, "irregularly spaced"),
    ({"heights": 2.5 * np.arange(8), "sideways": 0.3}, "sheared by"),
    ({"heights": 2.5 * np.arange(8), "rescale": [(1 + k % 2, 0) for k in range(8)]}, "rescale slope"),
])  # fmt: skip
def test_enhanced_multi_frame_that_itk_misreads_is_refused(tmp_path, write_enhanced, options, reason):
    write_enhanced(tmp_path / "s" / "IM", STORED, **options)
    assert reason in series_fault(tmp_path / "s")


def test_dicom_under_the_suffix_of_another_reader_is_refused(tmp_path, write_enhanced):
    file = write_enhanced(tmp_path / "a.png", STORED, 2.5 * np.arange(8))
    with pytest.raises(UserError, match=r"a\.png is DICOM with the suffix of another format.*rename it to \.dcm"):
        open_volume(file)


def test_multi_frame_files_need_a_folder_each(tmp_path, write_enhanced):
    file = write_enhanced(tmp_path / "s" / "a", STORED, 2.5 * np.arange(8))
    copy = pydicom.dcmread(file)
    copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    copy.save_as(tmp_path / "s" / "b")
    assert "2 multi-frame files" in series_fault(tmp_path / "s")
