"""Synthetic abdominal scans with exact masks, so that everything runs with nothing downloaded.

A phantom is a body with three labeled structures and several that look like them but are not labeled:

- ``lobe``: a large, lumpy organ on one side (liver-like),
- ``bean``: a middle-sized organ with a hollow on the other side (kidney-like),
- ``tube``: a thin winding vessel along the through-plane axis (aorta-like),
- decoys: a bean on the lobe's side, a second tube and blobs with the intensity of a labeled structure, a spine.

What makes it hard for a network that has seen four of them: pose, size and outline are drawn per case, and so is
every tissue's intensity (the bean of one case can be as bright as the lobe of another); a bias field, partial volume
and Rician noise (Gudbjartsson and Patz, MRM 1995) lie on top. Position, shape and the
neighbors tell a structure from its decoys, as in a real scan.

Everything is drawn from one seed: equal arguments give equal voxels.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy.ndimage import gaussian_filter, zoom

from mnseg.errors import UserError
from mnseg.files import atomic_write

__all__ = ["CLASS_NAMES", "DEFAULT_SIZE", "Difficulty", "make_phantom", "write_phantom_dataset"]

CLASS_NAMES = ("background", "lobe", "bean", "tube")
DEFAULT_SIZE = (40, 40, 32)
SMALLEST_SIZE = 16
# The field of view stays the same when the grid changes, so a bigger `size` means finer voxels (in mm, x y z).
FIELD_OF_VIEW = (120.0, 120.0, 128.0)
SUPERSAMPLING = 2
FEWEST_VOXELS = 12
# Scanners do not agree on how they store an axis; the canonical orientation of each file is the same.
STORED_ORIENTATIONS = ("RAS", "LPS", "LAS")

Shape = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Difficulty:
    """How far cases differ from each other; the defaults are calibrated (a small UNet, four labels), not anatomical.

    contrast: spread of a structure's intensity around its usual one, as a fraction of the body's intensity.
    pose: spread of position and size, in units of half the field of view.
    lumps: amplitude of the smooth noise that deforms each outline.
    bias: largest logarithm of the bias field.
    noise: standard deviation of the noise in each of the two channels, as a fraction of the body's intensity.
    """

    contrast: float = 0.13
    pose: float = 0.07
    lumps: float = 0.30
    bias: float = 0.30
    noise: float = 0.08


def make_phantom(
    seed: int | Sequence[int] | np.random.Generator,
    size: int | Sequence[int] = DEFAULT_SIZE,
    difficulty: Difficulty | None = None,
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Draw one scan in RAS orientation.

    Args:
        seed: an integer, a sequence of integers, or a generator (which is advanced).
        size: voxels per axis (H, W, D), or one integer for a cube.
        difficulty: spread between cases; None takes the calibrated default.

    Returns:
        image (H, W, D) float32 with whole numbers of at least 0; label (H, W, D) uint8 with values that index
        `CLASS_NAMES`, each present; spacing (x, y, z) in mm, coarser through-plane than in-plane by default.

    Raises:
        UserError: if an axis is shorter than 16 voxels.
    """
    shape = _checked_size(size)
    difficulty = difficulty or Difficulty()
    rng = np.random.default_rng(seed)
    for _ in range(20):
        tissue = _draw_anatomy(rng, shape, difficulty)
        label = _majority(tissue)
        if np.bincount(label.ravel(), minlength=len(CLASS_NAMES)).min() >= FEWEST_VOXELS:
            break
    else:  # far outside of what the spreads above can produce
        raise UserError(f"size {shape} leaves a class without voxels: use a larger size or a smaller difficulty")
    image = _draw_image(rng, tissue, difficulty)
    spacing = tuple(float(f / n) for f, n in zip(FIELD_OF_VIEW, shape, strict=True))
    return image, label, spacing


def write_phantom_dataset(
    out_dir: str | os.PathLike,
    num_labeled: int = 4,
    num_unlabeled: int = 24,
    num_validation: int = 6,
    num_testing: int = 8,
    size: int | Sequence[int] = DEFAULT_SIZE,
    seed: int = 0,
    difficulty: Difficulty | None = None,
) -> Path:
    """Write scans, masks and ``datalist.json`` below `out_dir`.

    Case number i of a split depends on `seed`, the split and i alone: another number of labeled cases changes
    neither the other labeled ones nor the test set. Masks of unlabeled scans lie in ``hidden_labels/``; their
    "hidden_label" serves to log how good pseudo-labels are and is never trained on.

    Returns:
        Path of the datalist, which is written last: if it is there, so is everything that it names.

    Raises:
        UserError: for a negative count, no case at all, a size below 16 voxels, or an `out_dir` that is a file.
    """
    counts = {
        "labeled": num_labeled,
        "unlabeled": num_unlabeled,
        "validation": num_validation,
        "testing": num_testing,
    }
    for split, count in counts.items():
        if count < 0:
            raise UserError(f"num_{split} is {count}: give 0 or more")
    if not any(counts.values()):
        raise UserError("all counts are 0: ask for at least one phantom case")
    shape = _checked_size(size)
    out_dir = Path(out_dir)
    if out_dir.exists() and not out_dir.is_dir():
        raise UserError(f"{out_dir} is a file: name a folder for the phantom data")
    datalist: dict[str, list] = {"class_names": list(CLASS_NAMES)}
    for stream, (split, count) in enumerate(counts.items()):
        datalist[split] = [
            _write_case(out_dir, split, i, np.random.default_rng([seed, stream, i]), shape, difficulty)
            for i in range(count)
        ]
    path = out_dir / "datalist.json"
    text = json.dumps(datalist, indent=1) + "\n"
    return atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _checked_size(size: int | Sequence[int]) -> tuple[int, int, int]:
    shape = (size,) * 3 if np.isscalar(size) else tuple(size)
    if len(shape) != 3 or min(shape) < SMALLEST_SIZE:
        raise UserError(f"size {size} of a phantom: give three numbers of at least {SMALLEST_SIZE} voxels")
    return tuple(int(n) for n in shape)


# ---------------------------------------------------------------- anatomy
# Coordinates run from -1 to 1 over the field of view: x to the right, y to the front, z to the head.

# Values of the tissue map. The first ones are the labels; the rest are structures without a label.
AIR, BODY, SPINE, DECOY_BLOB, DECOY_BEAN, DECOY_TUBE = 0, 4, 5, 6, 7, 8


def _draw_anatomy(rng: np.random.Generator, shape: tuple[int, int, int], difficulty: Difficulty) -> np.ndarray:
    """Tissue numbers on the supersampled grid, (H*s, W*s, D*s) uint8; later structures cover earlier ones."""
    fine = tuple(n * SUPERSAMPLING for n in shape)
    axes = [(np.arange(n, dtype=np.float32) + 0.5) / n * 2 - 1 for n in fine]
    points = _pose(rng, np.stack(np.meshgrid(*axes, indexing="ij")), difficulty.pose)
    tissue = np.zeros(fine, np.uint8)
    for value, shape_function, lumps in _structures(rng, difficulty):
        level = shape_function(points) + lumps * difficulty.lumps * _smooth_noise(rng, fine, 5)
        inside_body = (tissue != AIR) | (value == BODY)
        tissue[(level < 1) & inside_body] = value
    return tissue


def _structures(rng: np.random.Generator, difficulty: Difficulty) -> Iterator[tuple[int, Shape, float]]:
    """(tissue, shape, how lumpy) of everything in a body, in the order of painting: the labeled ones last."""

    def near(*center: float) -> np.ndarray:
        return np.array(center) + rng.normal(0, difficulty.pose, 3)

    yield BODY, _ellipsoid((0, 0, 0), (0.90, 0.74, 9.0), power=2.5), 0.25
    yield SPINE, _tube(rng, (0.0, -0.50), 0.13, wander=0.03), 0.5
    for _ in range(int(rng.integers(3, 6))):
        center = rng.uniform((-0.6, -0.45, -0.9), (0.6, 0.55, 0.9))
        yield DECOY_BLOB, _ellipsoid(center, rng.uniform(0.10, 0.26, 3)), 1.0
    yield DECOY_TUBE, _tube(rng, (0.22, -0.24), rng.uniform(0.10, 0.15), wander=0.08), 1.0
    yield DECOY_BEAN, _bean(near(0.48, -0.30, -0.25), rng.uniform(0.6, 0.95), hollow=-1), 1.0
    center, radii = near(0.42, 0.14, 0.20), rng.uniform((0.34, 0.36, 0.45), (0.48, 0.52, 0.70))
    yield 1, _ellipsoid(center, radii, power=rng.uniform(1.8, 3.2)), 1.3
    yield 2, _bean(near(-0.48, -0.10, -0.10), rng.uniform(1.2, 1.6), hollow=1), 1.0
    yield 3, _tube(rng, (-0.08, -0.20), rng.uniform(0.16, 0.22), wander=0.10), 1.0


def _pose(rng: np.random.Generator, points: np.ndarray, spread: float) -> np.ndarray:
    """Rotate by a few degrees, scale, shift and bend the coordinates (3, ...) of the whole patient."""
    angles = rng.normal(0, 1.2 * spread, 3)
    a, b, c = angles
    rotation = np.eye(3) + np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])  # small angles
    rotation /= np.exp(rng.normal(0, spread, (3, 1)))
    moved = np.tensordot(rotation, points, axes=1) + rng.normal(0, 0.6 * spread, 3).reshape(3, 1, 1, 1)
    bend = np.stack([_smooth_noise(rng, points.shape[1:], 4) for _ in range(3)])
    return (moved + spread * bend).astype(np.float32)


def _smooth_noise(rng: np.random.Generator, shape: Sequence[int], knots: int) -> np.ndarray:
    """Standard normal values on knots**3 control points, interpolated by cubic splines to `shape`, float32."""
    field = rng.standard_normal((knots,) * 3).astype(np.float32)
    for n in shape:  # splines are separable: contract the first axis, append its fine version at the end
        field = np.tensordot(field, _spline_weights(n, knots), axes=(0, 1))
    return field


@lru_cache(maxsize=32)
def _spline_weights(n: int, knots: int) -> np.ndarray:
    """(n, knots): what each control point contributes to each of n samples."""
    return zoom(np.eye(knots, dtype=np.float32), (n / knots, 1), order=3, mode="nearest", grid_mode=True)


def _ellipsoid(center: Sequence[float], radii: Sequence[float], power: float = 2.0) -> Shape:
    """Superquadric: sum(|x - center| / radius)^power < 1."""
    center, radii = (np.asarray(v, np.float32).reshape(3, 1, 1, 1) for v in (center, radii))
    return lambda points: (np.abs((points - center) / radii) ** np.float32(power)).sum(0)


def _bean(center: Sequence[float], scale: float, hollow: int) -> Shape:
    """An ellipsoid bent around a hollow that faces +x (hollow=1) or -x (hollow=-1)."""
    body = _ellipsoid(center, np.array((0.21, 0.26, 0.40)) * scale)
    dent = _ellipsoid(np.asarray(center) + np.array((0.20 * hollow, 0, 0)) * scale, np.array((0.16, 0.2, 0.22)) * scale)
    return lambda points: body(points) + np.maximum(0, 2 * (1 - dent(points)))


def _tube(rng: np.random.Generator, center: Sequence[float], radius: float, wander: float) -> Shape:
    """A vessel along z whose center line wanders sideways by two sine waves and a slope."""
    phase = rng.uniform(0, 2 * np.pi, (2, 1, 1, 1))
    waves = rng.uniform(1.0, 2.6, (2, 1, 1, 1))
    slope = rng.normal(0, 0.5 * wander, (2, 1, 1, 1))
    start = np.asarray(center, np.float32).reshape(2, 1, 1, 1) + rng.normal(0, 0.5 * wander, (2, 1, 1, 1))

    def level(points: np.ndarray) -> np.ndarray:
        line = start + slope * points[2] + wander * np.sin(waves * points[2] + phase)
        return (((points[:2] - line) / radius) ** 2).sum(0)

    return level


# ---------------------------------------------------------------- appearance


def _draw_image(rng: np.random.Generator, tissue: np.ndarray, difficulty: Difficulty) -> np.ndarray:
    """Intensities of a tissue map: contrast, texture, partial volume, point spread, bias field, Rician noise."""
    clean = _draw_contrast(rng, difficulty)[tissue]
    clean += (tissue != AIR) * 0.03 * _smooth_noise(rng, tissue.shape, 12)
    clean = _mean_of_blocks(clean)
    clean = gaussian_filter(clean, (0.5, 0.5, 0.35))
    bias = _smooth_noise(rng, clean.shape, 3)
    clean = clean * np.exp(difficulty.bias * bias / np.abs(bias).max())
    real, imaginary = rng.normal(0, difficulty.noise, (2, *clean.shape))
    gain = rng.uniform(300, 600)  # MR intensities have no unit
    return np.rint(gain * np.hypot(clean + real, imaginary)).astype(np.float32)


def _draw_contrast(rng: np.random.Generator, difficulty: Difficulty) -> np.ndarray:
    """Intensity of every tissue as a multiple of the body's, float32 (9,); decoys borrow a labeled structure's."""
    level = np.zeros(9, np.float32)
    level[[1, 2, 3]] = np.array((1.35, 1.75, 0.40)) + rng.normal(0, difficulty.contrast, 3)
    for value in (1, 2, 3):  # a structure that nobody could see has no fair outline
        if abs(level[value] - 1) < 0.15:
            level[value] = 1 + np.copysign(0.15, level[value] - 1)
    level[BODY] = 1.0
    level[SPINE] = rng.uniform(0.5, 0.9)
    level[DECOY_BLOB] = level[rng.integers(1, 4)]
    level[DECOY_BEAN] = level[2]
    level[DECOY_TUBE] = level[3]
    return level + np.where(level > 0, rng.normal(0, 0.02, 9), 0).astype(np.float32)


def _blocks(fine: np.ndarray) -> np.ndarray:
    """View (H*s, W*s, D*s) as (H, W, D, s**3)."""
    s = SUPERSAMPLING
    h, w, d = (n // s for n in fine.shape)
    return fine.reshape(h, s, w, s, d, s).transpose(0, 2, 4, 1, 3, 5).reshape(h, w, d, s**3)


def _mean_of_blocks(fine: np.ndarray) -> np.ndarray:
    return _blocks(fine).mean(-1)


def _majority(tissue: np.ndarray) -> np.ndarray:
    """Label of a voxel: the class that fills most of it (ties go to the lower number)."""
    blocks = _blocks(np.where(tissue < len(CLASS_NAMES), tissue, 0))
    votes = np.stack([(blocks == k).sum(-1) for k in range(len(CLASS_NAMES))])
    return votes.argmax(0).astype(np.uint8)


# ---------------------------------------------------------------- files


def _write_case(
    out_dir: Path,
    split: str,
    index: int,
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    difficulty: Difficulty | None,
) -> dict[str, str]:
    """Write one case and return its datalist item with paths relative to `out_dir`."""
    image, label, spacing = make_phantom(rng, shape, difficulty)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -0.5 * np.array(FIELD_OF_VIEW) + rng.normal(0, 10, 3)  # where the table stood, in mm
    codes = STORED_ORIENTATIONS[rng.integers(len(STORED_ORIENTATIONS))]
    name = f"{split}_{index:03d}.nii.gz"
    key, folder = ("hidden_label", "hidden_labels") if split == "unlabeled" else ("label", "labels")
    item = {"image": f"images/{name}", key: f"{folder}/{name}"}
    _write_nifti(out_dir / item["image"], image.astype(np.int16), affine, codes)
    _write_nifti(out_dir / item[key], label, affine, codes)
    return item


def _write_nifti(path: Path, ras: np.ndarray, affine: np.ndarray, codes: str) -> None:
    """Store an array given in RAS with the axis directions `codes`."""
    change = ornt_transform(io_orientation(affine), axcodes2ornt(codes))
    scan = nib.Nifti1Image(ras, affine).as_reoriented(change)
    scan.header.set_xyzt_units("mm")
    packed = gzip.compress(scan.to_bytes(), mtime=0)  # no time stamp: equal seeds give equal files
    atomic_write(path, lambda temporary: temporary.write_bytes(packed))
