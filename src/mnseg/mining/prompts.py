"""From the small network's prediction to prompts: components, boxes, points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from mnseg.errors import UserError
from mnseg.mining.promptable import Prompt

__all__ = [
    "PromptSettings",
    "component_box",
    "depth_inside",
    "find_components",
    "find_specks",
    "jittered",
    "make_prompt",
]

EIGHT_NEIGHBORS = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class PromptSettings:
    """How prompts are made; see ``Miner`` for the first five.

    Attributes:
        ring: inner and outer distance of the negative points from the component, in radii of a disk of its size. The
            gap is where the small network's outline may be wrong.
    """

    min_component_size: float = 0.001
    box_margin: float = 0.1
    positive_points: int = 3
    negative_points: int = 4
    point_selection: Literal["distance", "confidence"] = "distance"
    ring: tuple[float, float] = (0.4, 0.8)

    def __post_init__(self) -> None:
        if not 0 <= self.min_component_size < 1:
            raise UserError(f"min_component_size is {self.min_component_size}; it is a share of the image's pixels, "
                            "at least 0 and below 1.")
        if not self.box_margin >= 0:
            raise UserError(f"box_margin is {self.box_margin}; it must be at least 0.")
        for name in ("positive_points", "negative_points"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise UserError(f"{name} is {value!r}; it must be a whole number of at least 0.")
        if self.point_selection not in ("distance", "confidence"):
            raise UserError(f"point_selection is '{self.point_selection}'; it must be 'distance' or 'confidence'.")


def find_components(mask: np.ndarray, num_classes: int, smallest: float = 0) -> Iterator[tuple[int, np.ndarray]]:
    """Connected components (8 neighbors) of each class of a mask (H, W), as (class index, (H, W) bool).

    Those of less than ``smallest`` pixels are left out: a noisy mask has thousands of them.
    """
    for index in range(1, num_classes):
        labels, sizes = _label(mask == index)
        for number in np.flatnonzero(sizes >= smallest):
            yield index, labels == number + 1


def find_specks(mask: np.ndarray, num_classes: int, smallest: float) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """The components of less than ``smallest`` pixels, as (class index, pixels, box as in ``Prompt``)."""
    for index in range(1, num_classes):
        labels, sizes = _label(mask == index)
        for size, (rows, columns) in zip(sizes, ndimage.find_objects(labels), strict=True):
            if size < smallest:
                yield index, int(size), (rows.start, columns.start, rows.stop, columns.stop)


def _label(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels, count = ndimage.label(inside, structure=EIGHT_NEIGHBORS)
    return labels, np.bincount(labels.ravel(), minlength=count + 1)[1:]


def component_box(component: np.ndarray, margin: float = 0.0) -> tuple[float, float, float, float]:
    """Box around a component, half open, enlarged on every side by ``margin`` of its height and width, clipped."""
    box = []
    for axis in (0, 1):
        inside = np.flatnonzero(component.any(axis=1 - axis))
        low, high = float(inside[0]), float(inside[-1] + 1)
        grow = margin * (high - low)
        box.append((max(low - grow, 0.0), min(high + grow, float(component.shape[axis]))))
    return box[0][0], box[1][0], box[0][1], box[1][1]


def make_prompt(
    class_index: int,
    component: np.ndarray,
    mask: np.ndarray,
    confidence: np.ndarray,
    settings: PromptSettings,
) -> Prompt:
    """Box and points for one component.

    Positive points lie inside the component, far from each other: by "distance" deep inside, by "confidence" where the
    small network is sure of the class. Negative points lie in a ring around the component, on no component of any
    class. A small component, or one that leaves no ring, gets fewer points.

    Args:
        class_index: 1 .. K-1.
        component: (H, W) bool, not empty.
        mask: (H, W) the small network's class indices.
        confidence: (H, W) probability of the class.
        settings: how many points, and where.
    """
    depth = depth_inside(component)
    weight = depth
    if settings.point_selection == "confidence":
        weight = np.where(component, confidence + 1e-3 * depth / depth.max(), 0.0)  # equal confidence: the deeper one
    positive = _spread(weight, settings.positive_points)
    radius = np.sqrt(component.sum() / np.pi)
    inner, outer = (max(radius * value, floor) for value, floor in zip(settings.ring, (1.0, 2.0), strict=True))
    ring = _ring(component, inner, outer) & (mask == 0)
    negative = _spread(ring.astype(float), settings.negative_points)
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    box = component_box(component, settings.box_margin)
    return Prompt(class_index, component, box, np.concatenate([positive, negative]), labels)


def depth_inside(component: np.ndarray) -> np.ndarray:
    """Distance (pixels) of a component's pixels to the next one outside, 0 elsewhere; beyond the border is outside."""
    depth, window = np.zeros(component.shape), _window(component, 0)
    depth[window] = ndimage.distance_transform_edt(np.pad(component[window], 1))[1:-1, 1:-1]
    return depth


def _ring(component: np.ndarray, inner: float, outer: float) -> np.ndarray:
    """Pixels whose distance to the component is between ``inner`` and ``outer``."""
    ring, window = np.zeros(component.shape, dtype=bool), _window(component, int(np.ceil(outer)))
    distance = ndimage.distance_transform_edt(~component[window])
    ring[window] = (distance >= inner) & (distance <= outer)
    return ring


def _window(component: np.ndarray, rim: int) -> tuple[slice, slice]:
    """Where a component is, with a rim: distances over a whole large image would take seconds."""
    row0, column0, row1, column1 = (int(value) for value in component_box(component))
    return slice(max(row0 - rim, 0), row1 + rim), slice(max(column0 - rim, 0), column1 + rim)


def _spread(weight: np.ndarray, count: int) -> np.ndarray:
    """Up to ``count`` pixels (N, 2) of positive weight: the heaviest first, then by weight times distance to those."""
    points = np.empty((0, 2))
    rows, columns = np.nonzero(weight > 0)
    values, places = weight[rows, columns], np.stack([rows, columns], axis=1).astype(float)
    nearest = np.ones(len(values))
    for number in range(min(count, len(values))):
        chosen = places[np.argmax(values * nearest)]
        points = np.concatenate([points, chosen[None]])
        apart = np.linalg.norm(places - chosen, axis=1)
        nearest = apart if number == 0 else np.minimum(nearest, apart)
    return points


def jittered(prompt: Prompt, jitter: float, rng: np.random.Generator) -> Prompt:
    """The prompt with its box's edges and its points moved, each by up to ``jitter`` of the box's height and width.

    A positive point that would leave the component, and a negative one that would enter it, stays where it was; the box
    stays inside the image and around at least one pixel.
    """
    height, width = prompt.component.shape
    row0, column0, row1, column1 = prompt.box
    size = np.array([row1 - row0, column1 - column0])
    low, high = (rng.uniform(-1, 1, (2, 2)) * jitter * size + [[row0, column0], [row1, column1]])
    low = np.clip(low, 0, np.array([height, width]) - 1.0)
    high = np.clip(high, low + 1.0, [height, width])
    moved = prompt.points + rng.uniform(-1, 1, prompt.points.shape) * jitter * size
    moved = np.clip(moved, 0, np.array([height, width]) - 1.0)
    inside = prompt.component[tuple(np.rint(moved).astype(int).T)]
    points = np.where((inside == (prompt.point_labels == 1))[:, None], moved, prompt.points)
    box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    return Prompt(prompt.class_index, prompt.component, box, points, prompt.point_labels)
