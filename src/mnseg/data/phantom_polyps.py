"""Artificial endoscopy images with exact masks: RGB pictures for the bundle sam_mining, with nothing downloaded.

A picture is a lit, folded wall with one to three polyps: lumpy ellipses, redder or paler than the wall and shaded
like a dome. What misleads: folds (bright bands without a mask), flat red patches (same color, no dome), specular spots,
uneven light and noise. Colors of wall and polyps are drawn per picture, so that few labels do not tell them all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from mnseg.data.datalist import SPLITS, write_datalist
from mnseg.errors import UserError
from mnseg.files import atomic_write

__all__ = ["CLASS_NAMES", "make_polyps", "write_polyp_dataset"]

CLASS_NAMES = ("background", "polyp")
SMALLEST_SIZE = 32
SPLIT_SEED = {split: number for number, split in enumerate(SPLITS)}


def make_polyps(seed: int | Sequence[int], size: int | Sequence[int] = 96) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture.

    Args:
        seed: equal seeds give equal pixels.
        size: rows and columns, or one number for both.

    Returns:
        image (H, W, 3) uint8 and label (H, W) uint8, 1 in polyps; at least one is there.

    Raises:
        UserError: a side below 32 pixels.
    """
    rows, columns = _checked_size(size)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:columns] / np.array([rows, columns]).reshape(2, 1, 1) * 2 - 1
    noise = [_smooth_noise(rng, (rows, columns), scale) for scale in (0.05, 0.12, 0.3)]
    color = np.array([0.72, 0.40, 0.34]) + rng.normal(0, 0.05, 3)
    height = 0.06 * noise[1] + _folds(rng, x, y)
    image = color + 0.04 * noise[0][..., None]
    image = image + _patches(rng, x, y, noise[1])[..., None] * (_polyp_color(rng, color) - color)
    label = np.zeros((rows, columns), np.uint8)
    for _ in range(rng.integers(1, 4) if rng.random() < 0.5 else 1):
        inside, dome = _polyp(rng, x, y, noise[1])
        label[inside > 0.5] = 1
        surface = _polyp_color(rng, color) + 0.03 * noise[0][..., None]
        image = image + inside[..., None] * (surface - image)
        height = height + dome
    image = image * _light(rng, x, y, height)[..., None]
    image = np.maximum(image, _specular(rng, (rows, columns))[..., None])
    image = image + rng.normal(0, 0.025, image.shape)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8), label


def write_polyp_dataset(
    out_dir: str | os.PathLike,
    num_labeled: int = 8,
    num_unlabeled: int = 40,
    num_validation: int = 8,
    num_testing: int = 16,
    size: int | Sequence[int] = 96,
    seed: int = 0,
) -> Path:
    """Write ``images/``, ``labels/``, ``hidden_labels/`` (PNG) and ``datalist.json`` below ``out_dir``; its path.

    Picture i of a split depends on ``seed``, the split and i alone. The datalist is written last.

    Raises:
        UserError: a negative count, no case at all, or a size below 32.
    """
    counts = dict(zip(SPLITS, (num_labeled, num_unlabeled, num_validation, num_testing), strict=True))
    if min(counts.values()) < 0 or not any(counts.values()):
        raise UserError(f"{counts} are no numbers of cases: give 0 or more, and at least one case.")
    _checked_size(size)
    out = Path(out_dir)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a folder for the phantom data")
    datalist: dict = {"class_names": list(CLASS_NAMES)}
    for split, count in counts.items():
        key = "hidden_label" if split == "unlabeled" else "label"
        datalist[split] = []
        for index in range(count):
            image, label = make_polyps([seed, SPLIT_SEED[split], index], size)
            name = f"{split}_{index:03d}.png"
            _save(image, out / "images" / name)
            _save(label * 255, out / f"{key}s" / name)
            datalist[split].append({"image": str(out / "images" / name), key: str(out / f"{key}s" / name)})
    return write_datalist(datalist, out / "datalist.json")


def _save(values: np.ndarray, path: Path) -> None:
    atomic_write(path, lambda temporary: Image.fromarray(values).save(temporary, format="PNG"))


def _checked_size(size: int | Sequence[int]) -> tuple[int, int]:
    rows, columns = (size, size) if isinstance(size, int) else size
    if min(rows, columns) < SMALLEST_SIZE:
        raise UserError(f"size {rows}x{columns} is too small for polyps: give at least {SMALLEST_SIZE} pixels a side")
    return rows, columns


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    noise = gaussian_filter(rng.normal(size=shape), scale * min(shape), mode="wrap")
    return noise / noise.std()


def _folds(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bands that run through the picture."""
    height = np.zeros_like(x)
    for _ in range(rng.integers(1, 4)):
        angle, offset, bend = rng.uniform(0, np.pi), rng.uniform(-0.8, 0.8), rng.normal(0, 0.3)
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        height += 0.25 * np.exp(-(((across - offset - bend * along**2) / 0.1) ** 2))
    return height


def _patches(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Flat patches in a polyp's color, softly bounded: no structures."""
    strength = np.zeros_like(x)
    for _ in range(rng.integers(0, 3)):
        cx, cy, radius = rng.uniform(-0.9, 0.9), rng.uniform(-0.9, 0.9), rng.uniform(0.15, 0.4)
        distance = np.hypot(x - cx, y - cy) / radius + 0.2 * noise
        strength = np.maximum(strength, 0.7 * np.clip(1.5 - distance, 0, 1))
    return strength


def _polyp(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How far a pixel belongs to a polyp (0..1), and the height of its dome."""
    cx, cy, angle = rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6), rng.uniform(0, np.pi)
    a = rng.uniform(0.18, 0.42)
    b = a * rng.uniform(0.6, 1)
    u, v = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle), (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
    distance = np.sqrt((u / a) ** 2 + (v / b) ** 2) + 0.07 * noise
    sharpness = rng.uniform(8, 25)
    return 1 / (1 + np.exp(np.clip(sharpness * (distance - 1), -50, 50))), a * np.sqrt(np.clip(1 - distance**2, 0, 1))


def _polyp_color(rng: np.random.Generator, wall: np.ndarray) -> np.ndarray:
    redder_or_paler = np.array([0.10, -0.10, -0.07]) if rng.random() < 0.6 else np.array([0.10, 0.16, 0.13])
    return wall + redder_or_paler * rng.uniform(0.7, 1.3) + rng.normal(0, 0.02, 3)


def _light(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Shading by the slope toward the lamp, and less light toward the picture's edge."""
    angle = rng.uniform(0, 2 * np.pi)
    dy, dx = np.gradient(height, 2 / x.shape[0], 2 / x.shape[1])
    shading = 1 + 0.16 * np.tanh(dx * np.cos(angle) + dy * np.sin(angle))
    return shading * (1.1 - 0.35 * np.hypot(x - rng.normal(0, 0.2), y - rng.normal(0, 0.2)) ** 2)


def _specular(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    spots = np.zeros(shape)
    for _ in range(rng.integers(2, 7)):
        spots[rng.integers(shape[0]), rng.integers(shape[1])] = rng.uniform(20, 60)
    return np.clip(gaussian_filter(spots, 0.015 * min(shape)), 0, 1) * 0.95
