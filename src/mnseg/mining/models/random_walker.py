"""A promptable segmenter without weights: the random walker (Grady, PAMI 2006) of scikit-image."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from mnseg.errors import UserError
from mnseg.mining.promptable import Prompt
from mnseg.mining.prompts import component_box, depth_inside

__all__ = ["RANDOM_WALKER", "RandomWalker"]

RANDOM_WALKER = "random-walker"
FOREGROUND, BACKGROUND = 1, 2  # scikit-image's seeds; 0 is unknown


class RandomWalker:
    """Each pixel between the seeds goes where a random walker, who shuns edges, would most probably arrive first.

    Foreground seeds are the component's core and the positive points, background seeds all that lies outside the box
    and the negative points. Without a box, that of the component with a rim serves. Unlike SAM it knows nothing of
    objects; it moves the small network's outline to edges.

    The predicted quality is a proxy: the intersection over union that the mask would have on average if the walker's
    probabilities p were right, ``sum of p inside / (pixels inside + sum of p outside)``.

    Args:
        beta: how much the walker shuns edges; larger: more.
        core: pixels of the component at least this share of its greatest depth from its outline are seeds.
        edge: the box, with a rim, is shrunk to this many pixels along its longer side; time grows with the square.

    Raises:
        UserError: scikit-image is not installed, or a setting is out of its range.
    """

    identity = "random-walker"  # nothing is embedded, so nothing is cached

    def __init__(self, beta: float = 5000.0, core: float = 0.5, edge: int = 96) -> None:
        if not beta > 0 or not 0 < core <= 1 or edge < 16:
            raise UserError(f"{RANDOM_WALKER}: beta ({beta}) must be above 0, core ({core}) above 0 and at most 1, "
                            f"edge ({edge}) at least 16.")
        try:
            from skimage.segmentation import random_walker
            from skimage.transform import resize
        except ImportError as error:
            raise UserError(f"{RANDOM_WALKER} needs scikit-image: pip install 'mnseg[mining]'.") from error
        self._walk, self._resize = random_walker, resize
        self.beta, self.core, self.edge = beta, core, edge

    def embed(self, image: np.ndarray) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def segment(
        self, image: np.ndarray, embedding: dict[str, Tensor], prompts: Sequence[Prompt]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """One mask a prompt; see ``PromptableModel``."""
        return [self._segment(image, prompt) for prompt in prompts]

    def _segment(self, image: np.ndarray, prompt: Prompt) -> tuple[np.ndarray, np.ndarray]:
        if prompt.box is None:
            prompt = replace(prompt, box=component_box(prompt.component, margin=0.2))
        window = _window(prompt)
        region, seeds = image[window], self._seeds(prompt)[window]
        scale = min(1.0, self.edge / max(seeds.shape))
        small = tuple(max(2, round(size * scale)) for size in seeds.shape)
        region = self._resize(region, small, order=1, anti_aliasing=scale < 1)  # to float in [0, 1]
        inside = self._probability(region, _shrink(seeds, small))
        inside = self._resize(inside, seeds.shape, order=1, anti_aliasing=False)
        mask = np.zeros(prompt.component.shape, dtype=bool)
        mask[window] = found = inside > 0.5
        union = found.sum() + inside[~found].sum()
        return mask[None], np.array([inside[found].sum() / union if union else 0.0])

    def _seeds(self, prompt: Prompt) -> np.ndarray:
        component, (row0, column0, row1, column1) = prompt.component, prompt.box
        rows, columns = (np.arange(size) + 0.5 for size in component.shape)  # the pixels' centers
        inside = np.outer((rows > row0) & (rows < row1), (columns > column0) & (columns < column1))
        depth = depth_inside(component)
        seeds = np.where(inside, 0, BACKGROUND)
        seeds[depth >= self.core * depth.max()] = FOREGROUND
        places = tuple(np.rint(prompt.points).astype(int).T)
        seeds[places] = np.where(prompt.point_labels == 1, FOREGROUND, BACKGROUND)
        return seeds

    def _probability(self, region: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        present = [kind for kind in (FOREGROUND, BACKGROUND) if (seeds == kind).any()]
        if len(present) == 1 or not (seeds == 0).any():  # nowhere else to go, or nothing left to decide
            return (seeds != BACKGROUND).astype(float) if present != [BACKGROUND] else np.zeros(seeds.shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that its default solver would be quicker on large images
            # Solved directly: exact, and on so few pixels quicker than the iterative solvers.
            axis = 2 if region.ndim == 3 else None
            found = self._walk(region, seeds, beta=self.beta, mode="bf", return_full_prob=True, channel_axis=axis)
        return np.nan_to_num(found[0])


def _window(prompt: Prompt) -> tuple[slice, slice]:
    """The box with a rim of background around it, a tenth of its size and at least two pixels."""
    row0, column0, row1, column1 = prompt.box
    ranges = zip((row0, column0), (row1, column1), prompt.component.shape, strict=True)
    slices = []
    for low, high, size in ranges:
        rim = 0.1 * (high - low) + 2
        slices.append(slice(max(int(low - rim), 0), min(int(np.ceil(high + rim)), size)))
    return slices[0], slices[1]


def _shrink(seeds: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Seeds at a smaller size; a block with any foreground seed is foreground, so that thin cores survive."""
    small = np.zeros(shape, dtype=int)
    rows, columns = (np.arange(size) * new // size for size, new in zip(seeds.shape, shape, strict=True))
    for kind in (BACKGROUND, FOREGROUND):
        where = np.nonzero(seeds == kind)
        small[rows[where[0]], columns[where[1]]] = kind
    return small
