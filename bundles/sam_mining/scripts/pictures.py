"""2D images and masks as arrays of rows and columns, as a person sees them, and the way back to a file.

Read are PNG, JPEG, BMP and TIFF (with Pillow, or itk where it is missing), NIfTI of one slice (nibabel) and DICOM of
one frame (itk). The bundle `sam_mining` carries a copy of this file, which therefore needs no other of mnseg.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import optional_import
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

__all__ = [
    "LoadPictured",
    "PictureError",
    "SUFFIXES",
    "as_channels",
    "is_picture",
    "picture_id",
    "picture_size",
    "read_mask",
    "read_picture",
    "write_mask",
]

RASTER = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
NIFTI = (".nii.gz", ".nii")
SUFFIXES = (*RASTER, *NIFTI, ".dcm")
LOSSY = (".jpg", ".jpeg")
# Axes of a slice as it is shown: columns toward the patient's left or back, rows toward the back or the feet.
SEEN = axcodes2ornt("LPI")
ORIENTATION_TAG = 0x0112  # of EXIF; 1 is upright
PHOTOMETRIC_TAG = 262  # of TIFF; 0: the lowest value is white
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
BLUR = 64  # how far JPEG may move a mask's 0 and 255
MASK_VALUE = 255  # the structure of a mask of two classes, so that a person sees it

pil_image, has_pillow = optional_import("PIL.Image")
itk = optional_import("itk")[0]


class PictureError(ValueError):
    """What is wrong with a file; the text goes on behind the file's name."""


def is_picture(path: str | os.PathLike) -> bool:
    """By its name, even where it is a link to nothing; or as DICOM by its content: such files often have no suffix."""
    path = Path(path)
    if path.name.startswith(".") or path.is_dir():
        return False
    return path.name.lower().endswith(SUFFIXES) or path.is_file() and _is_dicom(path)


def picture_id(path: str | os.PathLike) -> str:
    """File name without suffix."""
    name = Path(path).name
    suffix = next((s for s in SUFFIXES if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)] if suffix else name


def picture_size(path: str | os.PathLike) -> tuple[int, int, int]:
    """Rows, columns and channels, from the header.

    Raises:
        PictureError: the file is none that can be used.
    """
    kind = _kind(path)
    with _errors_in_words(path):
        if kind == "nifti":
            return _seen_size(nib.load(path))
        if kind == "raster" and has_pillow:
            with _opened(path) as image:
                return image.height, image.width, len(image.getbands())
        header = _itk_header(path, kind)
        return header.GetDimensions(1), header.GetDimensions(0), header.GetNumberOfComponents()


def read_picture(path: str | os.PathLike) -> np.ndarray:
    """An image (H, W) or (H, W, 3), rows from top to bottom, with the values that the file holds.

    A palette becomes colors, transparency is dropped, DICOM's rescaling is applied. MONOCHROME1, in which the lowest
    value is white, is inverted by itk; its values then have another origin.

    Raises:
        PictureError: the file cannot be read, or is no single upright image of one or three channels.
    """
    return _as_image(_values(path, as_indices=False))


def read_mask(path: str | os.PathLike, num_classes: int) -> np.ndarray:
    """A mask (H, W) uint8 of class indices 0..K-1.

    Two classes may be 0 and 1, or 0 and 255; in JPEG, which blurs them, nearly 0 and nearly 255.

    Raises:
        PictureError: other values, which it names, or an alpha channel that may hold the mask.
    """
    values = _values(path, as_indices=True)
    lossy = Path(path).suffix.lower() in LOSSY
    if values.ndim == 3:
        if values.shape[2] in (2, 4) and ((values[..., -1] == 0) & values[..., :-1].any(axis=-1)).any():
            raise PictureError("has a structure's color where it is transparent: save the mask without an alpha "
                               "channel, 0 for the background")
        values = _as_image(values)
    if values.ndim == 3:
        if not lossy and (values[..., :1] != values).any():
            raise PictureError("is in color: a mask has one number a pixel")
        values = values[..., 0]
    found = np.unique(values)
    if num_classes == 2 and lossy and found.max() == 1:
        raise PictureError("is a JPEG with the values 0 and 1, which JPEG blurs: save it as PNG, or with 0 and 255")
    if num_classes == 2 and lossy and np.minimum(values, 255 - values).max(initial=0) > 1:
        between = np.mean((values > BLUR) & (values < 255 - BLUR))
        if between > 0.01:
            raise PictureError(f"has {between:.0%} of its pixels far from 0 and 255: it is no mask")
        return (values >= 128).astype(np.uint8)
    if num_classes == 2 and set(found.tolist()) <= {0, MASK_VALUE}:
        return (values > 0).astype(np.uint8)
    if wrong := [value for value in found.tolist() if value not in range(num_classes)]:
        listed = ", ".join(f"{value:g}" for value in found[:8]) + (", …" if len(found) > 8 else "")
        wanted = "0 and 1, or 0 and 255" if num_classes == 2 else f"0..{num_classes - 1}"
        raise PictureError(f"has the values {listed} ({len(wrong)} of them wrong): a mask of {num_classes} classes has "
                           f"{wanted}")
    return values.astype(np.uint8)


def write_mask(mask: np.ndarray, image: str | os.PathLike, path: str | os.PathLike, num_classes: int) -> Path:
    """Write a mask (H, W) of class indices on the grid of its ``image``, whole or not at all; returns the file.

    NIfTI beside NIfTI (class indices, the image's affine), else PNG: class indices, or 0 and 255 where there are two
    classes.

    Args:
        path: without suffix.
    """
    is_nifti = _kind(image) == "nifti"
    path = Path(f"{path}{'.nii.gz' if is_nifti else '.png'}")
    temporary = path.with_name(f".partial_{path.name}")
    try:
        if is_nifti:
            nib.save(_on_grid_of(nib.load(image), mask), temporary)
        else:
            values = np.ascontiguousarray(mask * np.uint8(MASK_VALUE if num_classes == 2 else 1))
            if has_pillow:
                pil_image.fromarray(values).save(temporary, format="PNG")
            else:
                itk.imwrite(itk.image_from_array(values), str(temporary))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def as_channels(picture: np.ndarray, channels: int) -> np.ndarray:
    """(channels, H, W) float32: gray is repeated, color becomes luminance (ITU-R BT.601) where one is wanted."""
    picture = picture.astype(np.float32)
    if channels == 1:
        return (picture if picture.ndim == 2 else picture @ np.asarray(LUMINANCE, np.float32))[None]
    return np.repeat(picture[None], channels, axis=0) if picture.ndim == 2 else np.moveaxis(picture, -1, 0)


class LoadPictured(MapTransform):
    """Read "image" to (C, H, W) float32 and "label", where there is one, to (1, H, W) uint8 class indices.

    Both become ``MetaTensor``; ``meta`` has "filename_or_obj" and "case", the item's or the file's name.

    Args:
        channels: C; see ``as_channels``.
        num_classes: K; see ``read_mask``.

    Raises:
        PictureError: naming the file.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(["image", "label"], allow_missing_keys=True)
        self.channels = channels
        self.num_classes = num_classes

    def __call__(self, data: dict) -> dict:
        item = dict(data)
        case = item.get("case") or picture_id(item["image"])
        for key in self.key_iterator(item):
            path = str(item[key])
            try:
                values = self._read(key, path)
            except PictureError as error:
                raise PictureError(f"{path} {error}") from error
            meta = {"filename_or_obj": path, "case": case, "spatial_shape": values.shape[1:]}
            item[key] = MetaTensor(torch.from_numpy(np.ascontiguousarray(values)), affine=torch.eye(4), meta=meta)
        return item

    def _read(self, key: str, path: str) -> np.ndarray:
        if key == "image":
            return as_channels(read_picture(path), self.channels)
        return read_mask(path, self.num_classes)[None]


def _kind(path: str | os.PathLike) -> str:
    name = str(path).lower()
    if name.endswith(NIFTI):
        return "nifti"
    return "raster" if name.endswith(RASTER) else "dicom"


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return path.name != "DICOMDIR" and file.read(132)[128:] == b"DICM"


def _values(path: str | os.PathLike, as_indices: bool) -> np.ndarray:
    kind = _kind(path)
    with _errors_in_words(path):
        if kind == "nifti":
            values = _seen(nib.load(path))
        elif kind == "raster" and has_pillow:
            with _opened(path) as image:
                if as_indices:
                    _refuse_white_background(image)
                is_plain = as_indices or image.mode in ("L", "I", "F") or image.mode.startswith("I;16")
                values = np.asarray(image if is_plain else _plain(image))
                if _is_white_zero(image):
                    values = np.iinfo(np.uint16).max - values
            values = values.astype(values.dtype.newbyteorder("="), copy=False)  # torch knows no other byte order
        else:
            values = _read_itk(path, kind, as_indices)
    if values.size == 0:
        raise PictureError("has no pixels")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise PictureError("has NaN or infinite pixels")
    return values.astype(np.uint8) if values.dtype == bool else values


@contextmanager
def _errors_in_words(path: str | os.PathLike) -> Iterator[None]:
    """Readers raise errors of many kinds."""
    if not Path(path).is_file():  # a pipe would be waited for without end
        raise PictureError("cannot be read (it is missing, a link to nothing, or no regular file)")
    try:
        yield
    except PictureError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise PictureError(f"cannot be read ({lines[-1][:200]})") from error


def _as_image(values: np.ndarray) -> np.ndarray:
    if values.ndim == 3:
        values = values[..., 0] if values.shape[2] in (1, 2) else values[..., :3]
    return values


def _opened(path: str | os.PathLike):
    """Pillow's image, its header read."""
    try:
        image = pil_image.open(path)
    except pil_image.DecompressionBombError as error:
        raise PictureError(f"has too many pixels ({error}): make it smaller") from error
    if image.format in ("PNG", "TIFF") and len(image.getbands()) > 1 and ";16" in str(image.tile):
        raise PictureError("has several channels of 16 bits, of which Pillow reads 8: save it with 8 bits a channel, "
                           "or an image as gray with 16 bits")
    if getattr(image, "n_frames", 1) > 1:
        raise PictureError(f"holds {image.n_frames} images: save each in a file of its own")
    if (turned := image.getexif().get(ORIENTATION_TAG, 1)) != 1:
        raise PictureError(f"is stored turned (EXIF orientation {turned}): save it upright, and its mask with it")
    return image


def _refuse_white_background(image) -> None:
    """A palette numbers its colors; black on white could be meant as numbers or as what is seen."""
    if image.mode == "P" and len(colors := image.getpalette()) >= 6 and min(colors[:3]) > 127 > max(colors[3:6]):
        raise PictureError("has a palette that begins with white: save it as gray, 0 for the background")


def _is_white_zero(image) -> bool:
    """TIFF with 16 bits of which the lowest is white; Pillow inverts those with 8 bits only."""
    return image.format == "TIFF" and image.mode.startswith("I;16") and image.tag_v2.get(PHOTOMETRIC_TAG) == 0


def _plain(image):
    """Gray or RGB of whatever Pillow knows: palettes, transparency, two levels, CMYK."""
    return image.convert("L" if image.mode in ("1", "LA", "La") else "RGB")


def _itk_header(path: str | os.PathLike, kind: str):
    if kind == "dicom":
        header = itk.GDCMImageIO.New()
        known = header.CanReadFile(str(path))
    else:
        header = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
        known = header is not None
    if not known:
        raise PictureError("is none of PNG, JPEG, BMP, TIFF, NIfTI or DICOM")
    header.SetFileName(str(path))
    header.ReadImageInformation()
    if header.GetNumberOfDimensions() > 2 and header.GetDimensions(2) > 1:
        raise PictureError(f"holds {header.GetDimensions(2)} frames: one image is expected")
    return header


def _read_itk(path: str | os.PathLike, kind: str, as_indices: bool) -> np.ndarray:
    header = _itk_header(path, kind)
    options = {}
    if as_indices and str(path).lower().endswith(".png"):
        options["imageio"] = itk.PNGImageIO.New()
        options["imageio"].ExpandRGBPaletteOff()
    if kind == "raster" and Path(path).suffix.lower() in LOSSY and b"\xff\xd9" not in Path(path).read_bytes()[-64:]:
        raise PictureError("cannot be read (it is cut off)")  # itk fills the rest with gray
    values = np.asarray(itk.array_from_image(itk.imread(str(path), **options)))
    if values.ndim > 2 and header.GetNumberOfDimensions() > 2:
        values = values[0]
    return values


def _seen(image: nib.Nifti1Image) -> np.ndarray:
    """(H, W) or (H, W, C) of a NIfTI file."""
    turn, _, axis = _turn(image)
    values = np.asanyarray(image.dataobj)
    if names := values.dtype.names:  # RGB24: a pixel is a record
        values = np.stack([values[name] for name in names[:3]], axis=-1)
    values = values.reshape(*(*image.shape, 1)[:3], *values.shape[3:] if len(image.shape) > 2 else values.shape[2:])
    return np.swapaxes(apply_orientation(values, turn).squeeze(axis), 0, 1)


def _seen_size(image: nib.Nifti1Image) -> tuple[int, int, int]:
    _, sizes, axis = _turn(image)
    columns, rows = np.delete(sizes, axis).tolist()
    is_color = bool(image.get_data_dtype().names)
    return rows, columns, 3 if is_color else image.shape[3] if len(image.shape) > 3 else 1


def _on_grid_of(image: nib.Nifti1Image, mask: np.ndarray) -> nib.Nifti1Image:
    """The way back of ``_seen``."""
    axis = _turn(image)[2]
    back = ornt_transform(SEEN, io_orientation(image.affine))
    values = apply_orientation(np.expand_dims(mask.T, axis), back).reshape(image.shape[:3])
    return nib.Nifti1Image(values.astype(np.uint8), image.affine)


def _turn(image: nib.Nifti1Image) -> tuple[np.ndarray, np.ndarray, int]:
    """How a slice is turned to be seen, the sizes of its three axes then, and which of them has one pixel only."""
    if len(image.shape) not in (2, 3, 4) or image.shape[3:] not in ((), (1,), (3,)):
        raise PictureError(f"has shape {image.shape}: one slice of one or three channels is expected")
    turn = ornt_transform(io_orientation(image.affine), SEEN)
    sizes = np.empty(3, int)
    sizes[turn[:, 0].astype(int)] = (*image.shape, 1)[:3]
    if not (sizes == 1).any():
        raise PictureError(f"is a volume of shape {image.shape}, not one slice")
    return turn, sizes, int(np.flatnonzero(sizes == 1)[-1])
