"""2D images as a person sees them: against Pillow, SimpleITK and hand-made files."""

from __future__ import annotations

import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from mnseg.data import picture_memory, pictures
from mnseg.data.picture_memory import memory_fault
from mnseg.data.pictures import (
    LoadPictured,
    PictureError,
    as_channels,
    picture_size,
    read_mask,
    read_picture,
    write_mask,
)

GRAY = np.arange(20, dtype=np.uint8).reshape(4, 5)


def save(path, values, mode=None, **options):
    Image.fromarray(values, mode).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif"])
@pytest.mark.parametrize("values", [GRAY, np.dstack([GRAY, GRAY + 50, GRAY + 100])], ids=["gray", "color"])
def test_rows_and_columns_are_those_of_the_file(tmp_path, name, values):
    path = save(tmp_path / name, values)
    np.testing.assert_array_equal(read_picture(path), values)
    assert picture_size(path) == (4, 5, 1 if values.ndim == 2 else 3)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_what_simpleitk_writes_as_nifti_and_reads_back(tmp_path, name):
    sitk.WriteImage(sitk.GetImageFromArray(GRAY), str(tmp_path / name))
    np.testing.assert_array_equal(read_picture(tmp_path / name), GRAY)
    written = write_mask(GRAY % 3, tmp_path / name, tmp_path / "mask", 3)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(written))), GRAY % 3)
    np.testing.assert_array_equal(read_mask(written, 3), GRAY % 3)


@pytest.mark.parametrize(("shape", "index", "seen"), [
    ((5, 4, 1), (4, 3, 0), (0, 0)),  # right and front of an axial slice: above, on the left
    ((5, 1, 4), (0, 0, 3), (0, 4)),  # left and head of a coronal slice: above, on the right
    ((1, 5, 4), (0, 4, 3), (0, 0)),  # front and head of a sagittal slice: above, on the left
])  # fmt: skip
def test_a_slice_is_turned_as_readers_see_it(tmp_path, shape, index, seen):
    """The affine is RAS: the first index grows to the patient's right, the second to the front, the third upward."""
    values = np.zeros(shape, np.float32)
    values[index] = 9
    affine = np.diag([0.5, 0.7, 2, 1])
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "s.nii")
    picture = read_picture(tmp_path / "s.nii")
    assert picture_size(tmp_path / "s.nii") == (*picture.shape, 1)
    assert [tuple(at) for at in np.argwhere(picture == 9)] == [seen]
    back = nib.load(write_mask((picture > 0).astype(np.uint8), tmp_path / "s.nii", tmp_path / "m", 2))
    np.testing.assert_array_equal(np.asarray(back.dataobj), values > 0)
    np.testing.assert_allclose(back.affine, affine, rtol=1e-6)


def test_dicom_of_one_frame_is_rescaled_and_bright_where_it_is_white(tmp_path, write_series):
    stored = GRAY.astype(np.int16)[None] + 1000
    write_series(tmp_path / "plain", stored)
    path = next((tmp_path / "plain").iterdir())
    np.testing.assert_array_equal(read_picture(path), GRAY)
    assert picture_size(path) == (4, 5, 1) and pictures.is_picture(path)
    write_series(tmp_path / "inverted", stored, edit=lambda dataset, _: setattr(
        dataset, "PhotometricInterpretation", "MONOCHROME1"))
    inverted = read_picture(next((tmp_path / "inverted").iterdir()))
    np.testing.assert_array_equal(inverted - inverted.min(), 19 - GRAY)


def test_palettes_are_colors_of_images_and_classes_of_masks(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "p.png"), [[[0, 0, 0], [255, 0, 0], [0, 255, 0]]])
    np.testing.assert_array_equal(read_mask(tmp_path / "p.png", 3), [[0, 1, 2]])


def test_a_mask_whose_palette_begins_with_white_is_refused(tmp_path):
    """Black on white: either the structure is 1, or what is seen as white."""
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(tmp_path / "p.png")
    with pytest.raises(PictureError, match="palette that begins with white"):
        read_mask(tmp_path / "p.png", 2)


@pytest.mark.parametrize("values", [[[0, 1]], [[0, 255]], [[False, True]]])
def test_masks_of_two_classes(tmp_path, values):
    path = save(tmp_path / "m.png", np.array(values, bool if values[0][0] is False else np.uint8))
    np.testing.assert_array_equal(read_mask(path, 2), [[0, 1]])


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_mask_drawn_into_the_alpha_channel_is_refused(tmp_path, mode):
    """White everywhere, it would be all foreground."""
    white = np.full((4, 5, len(mode)), 255, np.uint8)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "m.png", white), 2), np.ones((4, 5)))
    drawn = white.copy()
    drawn[:2] = 0  # as transparent as it is black: nothing is ambiguous
    drawn[3, 0, -1] = 254
    np.testing.assert_array_equal(read_mask(save(tmp_path / "m.png", drawn), 2)[:, 0], [0, 0, 1, 1])
    white[:2, :, -1] = 0
    with pytest.raises(PictureError, match="color where it is transparent: save the mask without an alpha channel"):
        read_mask(save(tmp_path / "m.png", white), 2)


def test_a_blurred_jpeg_mask_is_taken_and_a_photograph_is_not(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 10:50] = 255
    path = save(tmp_path / "m.jpg", np.dstack([mask] * 3), quality=90)
    assert len(np.unique(np.asarray(Image.open(path)))) > 2, "JPEG blurs"
    np.testing.assert_array_equal(read_mask(path, 2), mask > 0)
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    with pytest.raises(PictureError, match="48% of its pixels far from 0 and 255"):
        read_mask(save(tmp_path / "r.jpg", ramp, quality=95), 2)
    with pytest.raises(PictureError, match="JPEG with the values 0 and 1"):
        read_mask(save(tmp_path / "one.jpg", (mask > 0).astype(np.uint8), quality=60), 2)


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1)])
def test_nifti_with_a_record_a_pixel_is_a_color_image(tmp_path, shape):
    values = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    records = values.view([("R", "u1"), ("G", "u1"), ("B", "u1")]).reshape(shape)
    nib.save(nib.Nifti1Image(records, np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / "x.nii")
    np.testing.assert_array_equal(read_picture(tmp_path / "x.nii"), values.reshape(5, 4, 3).swapaxes(0, 1))
    assert picture_size(tmp_path / "x.nii") == (4, 5, 3)
    with pytest.raises(PictureError, match="is in color"):
        read_mask(tmp_path / "x.nii", 2)


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_16_bit_images_keep_their_values_in_either_byte_order(tmp_path, mode):
    values = np.arange(20, dtype=np.uint16).reshape(4, 5) * 2000
    image = Image.frombytes(mode, (5, 4), values.astype("<u2" if mode == "I;16" else ">u2").tobytes())
    image.save(tmp_path / "x.tif")
    read = read_picture(tmp_path / "x.tif")
    np.testing.assert_array_equal(read, values)
    assert read.dtype.isnative


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colors_of_16_bits_are_not_read_with_8(tmp_path, name, channels):
    """Values of 12 bits would become 16 levels."""
    values = np.arange(20 * channels, dtype=np.uint16).reshape(4, 5, channels) * 50
    sitk.WriteImage(sitk.GetImageFromArray(values, isVector=True), str(tmp_path / name))
    for read in (read_picture, picture_size, lambda path: read_mask(path, 2)):
        with pytest.raises(PictureError, match="channels of 16 bits, .*: save it with 8 bits a channel"):
            read(tmp_path / name)
    sitk.WriteImage(sitk.GetImageFromArray(values[..., 0]), str(tmp_path / name))
    np.testing.assert_array_equal(read_picture(tmp_path / name), values[..., 0])


def test_tiff_of_16_bits_whose_lowest_value_is_white_is_inverted(tmp_path):
    """With 8 bits Pillow does it, when it writes as well."""
    values = np.array([[0, 7, 100]], np.uint16)
    Image.fromarray(values).save(tmp_path / "x.tif", tiffinfo={262: 0})
    assert Image.open(tmp_path / "x.tif").tag_v2[262] == 0
    read = read_picture(tmp_path / "x.tif").astype(int)
    np.testing.assert_array_equal(np.diff(read), [[-7, -93]])


@pytest.mark.parametrize(("values", "classes", "words"), [
    ([[0, 1, 255]], 2, "has the values 0, 1, 255 .*0 and 1, or 0 and 255"),
    ([[0, 2]], 2, "has the values 0, 2 "),
    ([[0, 1, 255]], 3, "has the values 0, 1, 255 .*0..2"),
    ([[[0, 1, 0]]], 2, "is in color"),
])  # fmt: skip
def test_wrong_masks_are_told_by_their_values(tmp_path, values, classes, words):
    path = save(tmp_path / "m.png", np.array(values, np.uint8))
    with pytest.raises(PictureError, match=words):
        read_mask(path, classes)


def test_damaged_and_strange_files_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for name in ("a.png", "a.jpg"):
        path = save(tmp_path / name, noise)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(PictureError, match="cannot be read .*truncated"):
            read_picture(path)
    (tmp_path / "b.png").write_bytes(b"no image")
    exif = Image.Exif()
    exif[pictures.ORIENTATION_TAG] = 6
    cases = {
        tmp_path / "b.png": "cannot be read",
        save(tmp_path / "turned.jpg", noise, exif=exif): "EXIF orientation 6",
        save(tmp_path / "two.tif", noise, save_all=True, append_images=[Image.fromarray(noise)]): "holds 2 images",
    }
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "volume.nii")
    nib.save(nib.Nifti1Image(np.full((4, 4, 1), np.nan, np.float32), np.eye(4)), tmp_path / "nan.nii")
    cases |= {tmp_path / "volume.nii": "is a volume", tmp_path / "nan.nii": "NaN"}
    for path, words in cases.items():
        with pytest.raises(PictureError, match=words):
            read_picture(path)


def test_channels():
    color = np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)
    np.testing.assert_allclose(as_channels(color, 1), [[[76.245, 149.685]]], rtol=1e-6)
    np.testing.assert_array_equal(as_channels(color, 3), [[[255, 0]], [[0, 255]], [[0, 0]]])
    np.testing.assert_array_equal(as_channels(GRAY, 3), np.stack([GRAY] * 3))


def test_an_image_larger_than_memory_is_told_from_its_header(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", np.zeros((100, 200), np.uint8))
    size = picture_size(path)
    assert memory_fault(size, 3, 2) == ""
    monkeypatch.setattr(picture_memory, "_free_memory", lambda: 1_000_000)
    # 2 * 4 (1 + 2 * 3 + 3 * 2) bytes a pixel
    assert "100x200 pixels and would need 0.00208 GB" in memory_fault(size, 3, 2)
    monkeypatch.setattr(picture_memory, "MOST_PIXELS", 19_999)
    assert "has 100x200 pixels, more than 0 million: every reading would take minutes" in memory_fault(size, 3, 2)
    monkeypatch.setattr(picture_memory, "_free_memory", lambda: None)
    monkeypatch.setattr(picture_memory, "MOST_PIXELS", 20_000)
    assert memory_fault(size, 3, 2) == ""


def test_loading_an_item(tmp_path):
    image, mask = save(tmp_path / "x.png", GRAY), save(tmp_path / "m.png", GRAY % 2)
    item = LoadPictured(3, 2)({"image": str(image), "label": str(mask), "case": "one"})
    assert item["image"].shape == (3, 4, 5) and item["label"].shape == (1, 4, 5)
    assert item["image"].meta["case"] == "one" and item["image"].meta["filename_or_obj"] == str(image)
    assert LoadPictured(1, 2)({"image": str(image)})["image"].meta["case"] == "x"
    with pytest.raises(PictureError, match="nothing.png cannot be read"):
        LoadPictured(1, 2)({"image": str(tmp_path / "nothing.png")})


WITHOUT_PILLOW = """
import builtins, sys
real = builtins.__import__
def hide(name, *args, **kwargs):
    if name.partition(".")[0] == "PIL":
        raise ModuleNotFoundError(name)
    return real(name, *args, **kwargs)
builtins.__import__ = hide
import numpy as np
from mnseg.data import picture_memory, pictures
from mnseg.data.picture_memory import memory_fault
assert not pictures.has_pillow
folder = sys.argv[1]
np.savez(folder + "/read.npz", gray=pictures.read_picture(folder + "/gray.png"),
    color=pictures.read_picture(folder + "/color.png"), mask=pictures.read_mask(folder + "/p.png", 3),
    photo=pictures.read_picture(folder + "/photo.jpg"), size=pictures.picture_size(folder + "/photo.jpg"))
pictures.write_mask(np.array([[0, 1]], np.uint8), folder + "/gray.png", folder + "/out", 2)
try:
    pictures.read_picture(folder + "/cut.jpg")
except pictures.PictureError as error:
    print(error)
"""


@pytest.mark.slow
def test_itk_reads_the_same_where_pillow_is_missing(tmp_path):
    color = np.dstack([GRAY, GRAY + 50, GRAY + 100])
    save(tmp_path / "gray.png", GRAY)
    save(tmp_path / "color.png", color)
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "p.png")
    photo = save(tmp_path / "photo.jpg", np.kron(color, np.ones((8, 8, 1), np.uint8)), quality=95)
    (tmp_path / "cut.jpg").write_bytes(photo.read_bytes()[:-40])
    done = subprocess.run([sys.executable, "-c", WITHOUT_PILLOW, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "cut off" in done.stdout
    read = np.load(tmp_path / "read.npz")
    np.testing.assert_array_equal(read["gray"], GRAY)
    np.testing.assert_array_equal(read["color"], color)
    np.testing.assert_array_equal(read["mask"], [[0, 1, 2]])
    assert read["size"].tolist() == [32, 40, 3]
    # Their JPEG decoders round differently.
    np.testing.assert_allclose(read["photo"].astype(int), read_picture(photo), atol=12)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), [[0, 255]])
