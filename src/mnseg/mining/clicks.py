"""A few clicks become the mask of a structure in a scan: a promptable 2D model goes through it slice by slice.

The slices that were clicked on come first. Each slice after that is prompted by the mask of its neighbor, away from the
clicked one, until the structure ends. For the first scans, before there is a network to propose masks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from scipy import ndimage

from mnseg.errors import UserError
from mnseg.mining.embedding_cache import EmbeddingCache
from mnseg.mining.promptable import Prompt, PromptableModel
from mnseg.mining.prompts import EIGHT_NEIGHBORS, PromptSettings, make_prompt
from mnseg.mining.quality import best_mask
from mnseg.mining.slices import to_gray

MAX_GROWN = 0.35  # share of the slice

__all__ = ["Clicks", "Limits", "segment_clicks"]


@dataclass(frozen=True)
class Clicks:
    """What a person showed of one structure, in voxel indices of the scan's file.

    Attributes:
        foreground: (N, 3), inside.
        background: (M, 3), outside.
        box: (3, 2) first and last voxel along each axis, which the structure does not leave; None: the whole scan.
    """

    foreground: np.ndarray
    background: np.ndarray = field(default_factory=lambda: np.empty((0, 3), int))
    box: np.ndarray | None = None


@dataclass(frozen=True)
class Limits:
    """Where a structure ends: a slice whose mask falls short of one of these, and all behind it, get none.

    Attributes:
        min_predicted_iou: what the model says of its own mask.
        min_overlap: IoU with the mask of the slice before.
        max_shift: by how many standard deviations of the clicked slice's gray values inside the mean may change.
        min_size: share of the clicked slice's pixels.
    """

    min_predicted_iou: float = 0.5
    min_overlap: float = 0.3
    max_shift: float = 1.0
    min_size: float = 0.05


def segment_clicks(
    model: PromptableModel,
    voxels: np.ndarray,
    affine: np.ndarray,
    clicks: Clicks,
    cache: EmbeddingCache | None = None,
    window: tuple[float, float] | None = None,
    limits: Limits | None = None,
) -> np.ndarray:
    """Mask of one structure.

    Args:
        model: the promptable model.
        voxels: (X, Y, Z) intensities, in the axis order of the scan's file.
        affine: (4, 4), voxel indices to mm (RAS). Slices lie where voxels are thickest, of equals along the last axis.
        clicks: at least one in the foreground, or a box.
        cache: image embeddings on disk; None computes them anew each time.
        window: see ``to_gray``.
        limits: None: the defaults.

    Returns:
        (X, Y, Z) bool.

    Raises:
        UserError: no click and no box, one outside the scan, or a click that is both inside and outside.
    """
    _require_sound(clicks, voxels.shape)
    view = _view(affine)
    images = np.ascontiguousarray(apply_orientation(to_gray(voxels, window), view))
    points = _seen(np.concatenate([clicks.foreground, clicks.background]), view, voxels.shape)
    labels = np.repeat([1, 0], [len(clicks.foreground), len(clicks.background)])
    box = None if clicks.box is None else np.sort(_seen(np.asarray(clicks.box).T, view, voxels.shape), axis=0)
    masks = _Pass(model, images, points, labels, box, cache, limits or Limits()).run()
    return np.ascontiguousarray(apply_orientation(masks, ornt_transform(axcodes2ornt("RAS"), view)))


def _require_sound(clicks: Clicks, shape: tuple[int, ...]) -> None:
    if not len(clicks.foreground) and clicks.box is None:
        raise UserError("set at least one point inside the structure, or a box around it.")
    corners = np.empty((0, 3), int) if clicks.box is None else np.asarray(clicks.box).T
    size = "x".join(str(length) for length in shape)
    for point in (*clicks.foreground, *clicks.background, *corners):
        if (np.asarray(point) < 0).any() or (np.asarray(point) >= shape).any():
            raise UserError(f"the point {[int(value) for value in point]} lies outside the scan of {size} voxels.")
    inside, outside = ({tuple(point) for point in points} for points in (clicks.foreground, clicks.background))
    if both := inside & outside:
        point = [int(value) for value in next(iter(both))]
        raise UserError(f"the point {point} is both inside and outside the structure.")
    for point in clicks.foreground if len(corners) else ():
        if (point < corners.min(0)).any() or (point > corners.max(0)).any():
            raise UserError(f"the point {[int(value) for value in point]} inside the structure lies outside the box "
                            "around it.")


def _view(affine: np.ndarray) -> np.ndarray:
    """nibabel's orientation (3, 2) from the file's axes to slice, row, column as a radiologist sees them."""
    to_ras = io_orientation(affine)
    spacing = np.round(np.linalg.norm(np.asarray(affine)[:3, :3], axis=0), 3)
    thickest = 2 - int(np.argmax(spacing[::-1]))
    across = int(to_ras[thickest, 0])
    column, row = (axis for axis in range(3) if axis != across)
    place = {across: (0, 1), row: (1, -1), column: (2, -1)}  # see ``mnseg.mining.slices.as_image``
    return np.array([[place[int(axis)][0], flip * place[int(axis)][1]] for axis, flip in to_ras])


def _seen(points: np.ndarray, view: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(N, 3) indices of the file as indices of slice, row and column."""
    seen = np.empty((len(points), 3), int)
    for axis, (target, flip) in enumerate(view):
        seen[:, int(target)] = points[:, axis] if flip > 0 else shape[axis] - 1 - points[:, axis]
    return seen


class _Pass:
    """One structure, through the slices (S, H, W)."""

    def __init__(
        self, model: PromptableModel, images: np.ndarray, points: np.ndarray, labels: np.ndarray,
        box: np.ndarray | None, cache: EmbeddingCache | None, limits: Limits,
    ) -> None:  # fmt: skip
        self.model, self.images, self.points, self.labels = model, images, points, labels
        self.box, self.cache, self.limits = box, cache, limits
        self.masks = np.zeros(images.shape, bool)
        self.allowed = np.ones(images.shape, bool)
        if box is not None:
            self.allowed[:] = False
            self.allowed[tuple(slice(low, high + 1) for low, high in box.T)] = True

    def run(self) -> np.ndarray:
        starts = sorted({int(place) for place in self.points[self.labels == 1][:, 0]})
        starts = starts or [int(self.box[:, 0].mean())]
        first = {start: self._first(start) for start in starts}
        for index, mask in first.items():
            self.masks[index] = mask
            for step in (-1, 1):
                self._spread(index, step, starts)
        return self.masks

    def _spread(self, start: int, step: int, starts: list[int]) -> None:
        """Away from a clicked slice, up to the middle between it and the next one."""
        clicked = previous = self.masks[start]
        index = start + step
        while previous.any() and 0 <= index < len(self.images) and self.allowed[index].any():
            if min(starts, key=lambda other: abs(index - other)) != start:
                return
            mask = self._next(index, previous)
            if mask is None or not self._is_the_same(index, mask, start, clicked):
                return
            self.masks[index] = previous = mask
            index += step

    def _first(self, index: int) -> np.ndarray:
        points, labels = self._clicked(index)
        box = None
        if self.box is not None:
            (row0, column0), (row1, column1) = self.box[:, 1:]
            box = (float(row0), float(column0), float(row1 + 1), float(column1 + 1))
            if not (labels == 1).any():  # for the models that want to start from somewhere
                free = self.allowed[index] & ~_marked(self.allowed[index].shape, points[labels == 0])
                points = np.concatenate([points, _nearest(free, ((row0 + row1) / 2, (column0 + column1) / 2))])
                labels = np.concatenate([labels, np.ones(len(points) - len(labels), int)])
        if not (labels == 1).any():  # a box of one voxel, and somebody says that it is not inside
            return np.zeros(self.allowed[index].shape, bool)
        guess = _grown(self.images[index], points, labels) & self.allowed[index]
        masks, predicted = self._ask(index, Prompt(1, guess, box, points.astype(float), labels))
        mask = masks[int(np.argmax(predicted))] & self.allowed[index]
        return _pieces(mask, _marked(mask.shape, points[labels == 1]))

    def _next(self, index: int, previous: np.ndarray) -> np.ndarray | None:
        prompt = make_prompt(1, previous, previous, previous.astype(np.float32), PromptSettings())
        points, labels = self._clicked(index)
        prompt = Prompt(1, previous, prompt.box, np.concatenate([prompt.points, points]),
                        np.concatenate([prompt.point_labels, labels]))  # fmt: skip
        mask, predicted, overlap = best_mask(*self._ask(index, prompt), previous)
        if predicted < self.limits.min_predicted_iou or overlap < self.limits.min_overlap:
            return None
        return _pieces(mask & self.allowed[index], previous)

    def _is_the_same(self, index: int, mask: np.ndarray, start: int, clicked: np.ndarray) -> bool:
        if not mask.any() or mask.sum() < self.limits.min_size * clicked.sum():
            return False
        inside = self.images[start][clicked].astype(float)
        shift = abs(self.images[index][mask].mean() - inside.mean())
        return shift <= self.limits.max_shift * max(inside.std(), 1.0)

    def _clicked(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        here = self.points[:, 0] == index
        return self.points[here][:, 1:], self.labels[here]

    def _ask(self, index: int, prompt: Prompt) -> tuple[np.ndarray, np.ndarray]:
        image = self.images[index]
        embedding = self.cache.get(self.model, image) if self.cache else self.model.embed(image)
        return self.model.segment(image, embedding, [prompt])[0]


def _grown(image: np.ndarray, points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels as bright as those around the clicks inside, and connected with them.

    A guess for models that start from one. Thin bridges are cut, the tolerance is halved while the region leaks over
    much of the slice, and where nothing else is left the clicks themselves are.
    """
    smooth = ndimage.gaussian_filter(image.astype(np.float32), 1.0)
    clicks = _marked(image.shape, points[labels == 1])
    around = ndimage.binary_dilation(clicks, EIGHT_NEIGHBORS, iterations=2)
    outside = ndimage.binary_dilation(_marked(image.shape, points[labels == 0]), iterations=2)
    apart = np.abs(smooth - float(np.median(smooth[around])))
    tolerance = max(3 * float(smooth[around].std()), 20.0)
    while tolerance >= 2:
        alike = ndimage.binary_opening((apart <= tolerance) & ~outside, EIGHT_NEIGHBORS)
        region = _pieces(alike | clicks, clicks)
        if region.sum() <= MAX_GROWN * region.size:
            return region | (around & ~outside)
        tolerance /= 2
    return around & ~outside | clicks


def _nearest(free: np.ndarray, place: tuple[float, float]) -> np.ndarray:
    """(1, 2), the pixel of a mask next to a place; (0, 2) where the mask is empty."""
    pixels = np.argwhere(free)
    return pixels[np.argsort(((pixels - place) ** 2).sum(1), kind="stable")[:1]]


def _marked(shape: tuple[int, ...], points: np.ndarray) -> np.ndarray:
    marked = np.zeros(shape, bool)
    marked[tuple(np.asarray(points, int).T)] = True
    return marked


def _pieces(mask: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """The pieces of a mask that hold a mark; all of it where none does."""
    pieces, _ = ndimage.label(mask, structure=EIGHT_NEIGHBORS)
    kept = np.unique(pieces[mask & marks])
    return np.isin(pieces, kept) if kept.size else mask
