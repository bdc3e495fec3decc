"""Pictures of a few cases: scan, truth, and every run's mask, as outlines on one slice."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from mnseg.data.volume_io import open_volume, read_voxels
from mnseg.errors import UserError

__all__ = [
    "Picture",
    "Volume",
    "class_color",
    "overlay_figure",
    "pick_slice",
    "read_canonical",
    "spread_cases",
    "thumbnail_figure",
]

# Okabe and Ito's colors that stand out on gray and differ for color-blind readers.
COLORS = ("#E69F00", "#56B4E9", "#F05FB0", "#F0E442", "#00C08B", "#FF6A3D", "#B9A6FF", "#FFFFFF")
AXIS_NAMES = ("sagittal", "coronal", "axial")


@dataclass
class Volume:
    """Voxels (X, Y, Z) in the closest axes to RAS, and their size in mm."""

    voxels: np.ndarray
    spacing: tuple[float, float, float]


@dataclass
class Picture:
    """One row of the figure.

    title: text over the scan.
    scan, truth: volumes on one grid.
    masks: (heading, volume) per run; None where the run has no mask of this case.
    """

    title: str
    scan: Volume
    truth: Volume
    masks: list[tuple[str, Volume | None]]


def class_color(number: int) -> str:
    """Outline color of class 1, 2, …"""
    return COLORS[(number - 1) % len(COLORS)]


def read_canonical(path: str | os.PathLike) -> Volume:
    """Read a NIfTI file with its axes in the order right, anterior, superior; of several channels the first.

    Raises:
        UserError: if the file is missing, broken, or has fewer than three axes.
    """
    image = open_volume(path)
    voxels = read_voxels(image, path)
    if voxels.ndim < 3:
        raise UserError(f"{path} has {voxels.ndim} axes: a volume is needed")
    image = nib.as_closest_canonical(nib.Nifti1Image(np.asarray(voxels, np.float32), image.affine))
    voxels = np.asanyarray(image.dataobj)
    voxels = voxels.reshape(*voxels.shape[:3], -1)[..., 0]
    return Volume(voxels, tuple(float(s) for s in image.header.get_zooms()[:3]))


def pick_slice(truth: np.ndarray, axis: int) -> int:
    """Slice in which the classes together are largest, each relative to its own largest slice.

    A small structure thus counts as much as a big one. An empty mask gives the middle.
    """
    others = tuple(a for a in range(3) if a != axis)
    score = np.zeros(truth.shape[axis])
    for number in np.unique(truth):
        if number > 0:
            area = (truth == number).sum(others)
            score += area / area.max()
    return int(score.argmax()) if score.any() else truth.shape[axis] // 2


def spread_cases(values: dict[str, float], count: int) -> list[str]:
    """Up to `count` cases from the highest to the lowest value, evenly by rank: three are best, median, worst.

    Cases without a finite value are left out; equal values are ordered by name.
    """
    ranked = sorted((case for case in values if np.isfinite(values[case])), key=lambda case: (-values[case], case))
    count = max(0, min(count, len(ranked)))
    ranks = np.linspace(0, len(ranked) - 1, count) if count > 1 else [(len(ranked) - 1) // 2] * count
    return [ranked[round(rank)] for rank in ranks]


def overlay_figure(pictures: Sequence[Picture], axis: int, class_names: dict[int, str]) -> Figure:
    """One row per case: scan, truth, and one panel per run.

    Args:
        pictures: what to draw, at least one.
        axis: 0, 1 or 2; slices are taken across it.
        class_names: number and name of the foreground classes, for the legend.
    """
    columns = 2 + len(pictures[0].masks)
    heights = [_extent(picture.scan, axis)[1] / _extent(picture.scan, axis)[0] for picture in pictures]
    width = min(3.0, 11.0 / columns)
    figure = Figure(figsize=(width * columns, sum(width * h + 0.57 for h in heights) + 0.45), layout="constrained")
    panels = figure.subplots(len(pictures), columns, squeeze=False)
    for row, picture in zip(panels, pictures, strict=True):
        index = pick_slice(picture.truth.voxels, axis)
        plane = f"{AXIS_NAMES[axis]} slice {index + 1} of {picture.scan.voxels.shape[axis]}"
        contents = [(f"{picture.title}\n{plane}", None), ("truth\n", picture.truth), *picture.masks]
        for panel, (heading, mask) in zip(row, contents, strict=True):
            _draw_panel(panel, picture.scan, mask, axis, index, class_names)
            panel.set_title(heading, fontsize=9, loc="left")
            if mask is None and panel is not row[0]:
                panel.text(0.5, 0.5, "no mask for this case", transform=panel.transAxes, ha="center", va="center",
                           color="white", backgroundcolor="#8a1c1c", fontsize=9)
    handles = [Line2D([], [], color=class_color(k), linewidth=4, label=name) for k, name in class_names.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=max(1, min(len(handles), 6)),
                  facecolor="#3a3f47", framealpha=1, edgecolor="none", labelcolor="white", fontsize=9)
    return figure


def thumbnail_figure(
    scan: Volume, mask: Volume | None, axis: int, class_names: dict[int, str], width: float = 2.4
) -> Figure:
    """One panel without margins: the slice in which the mask is largest, the middle one without a mask.

    Args:
        scan, mask: volumes on one grid.
        axis: 0, 1 or 2; the slice is taken across it.
        class_names: number and name of the foreground classes.
        width: in inches, at matplotlib's dots per inch.
    """
    across, up = _extent(scan, axis)
    figure = Figure(figsize=(width, width * up / across))
    panel = figure.add_axes((0, 0, 1, 1), frameon=False)
    index = scan.voxels.shape[axis] // 2 if mask is None else pick_slice(mask.voxels, axis)
    _draw_panel(panel, scan, mask, axis, index, class_names)
    return figure


def _draw_panel(
    panel: Axes, scan: Volume, mask: Volume | None, axis: int, index: int, class_names: dict[int, str]
) -> None:
    gray = _plane(scan.voxels, axis, index)
    finite = scan.voxels[np.isfinite(scan.voxels)]
    low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0, 1)
    width, height = _extent(scan, axis)
    # Row 0 of the plane is drawn at the bottom; contours speak of voxel centers, hence the half voxel.
    box = (0, width, 0, height)
    panel.imshow(gray, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), extent=box, origin="lower")
    if mask is not None:
        values = _plane(mask.voxels, axis, index)
        rows, columns = values.shape
        x, y = (np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows
        for number in class_names:
            inside = (values == number).astype(float)
            if inside.any() and min(inside.shape) > 1:
                panel.contourf(x, y, inside, [0.5, 1.5], colors=[class_color(number)], alpha=0.22)
                panel.contour(x, y, inside, [0.5], colors=[class_color(number)], linewidths=1.6)
    if axis != 0:
        mark = panel.text(0.02, 0.5, "R", transform=panel.transAxes, color="white", fontsize=9, va="center")
        mark.set_path_effects([withStroke(linewidth=2.5, foreground="black")])
    panel.set_xticks([])
    panel.set_yticks([])


def _plane(voxels: np.ndarray, axis: int, index: int) -> np.ndarray:
    """(rows, columns) of a slice as radiologists look at it: the patient's right on the left side."""
    plane = np.take(voxels, index, axis=axis).T
    return plane if axis == 0 else plane[:, ::-1]


def _extent(volume: Volume, axis: int) -> tuple[float, float]:
    """Width and height of a slice in mm."""
    first, second = (a for a in range(3) if a != axis)
    sizes = [n * s for n, s in zip(volume.voxels.shape, volume.spacing, strict=True)]
    return sizes[first], sizes[second]
