"""Mining one image: the small network's prediction becomes prompts, the large model's masks become a pseudo-label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

import numpy as np

from mnseg.errors import UserError
from mnseg.mining.embedding_cache import EmbeddingCache
from mnseg.mining.promptable import Prompt, PromptableModel, as_rgb
from mnseg.mining.prompts import (
    PromptSettings,
    component_box,
    find_components,
    find_specks,
    jittered,
    make_prompt,
)
from mnseg.mining.quality import AGREEMENT, Thresholds, best_mask, stability

__all__ = ["KEPT", "NOTHING_FOUND", "TOO_SMALL", "MinedImage", "Miner"]

KEPT = "kept"
NOTHING_FOUND = "nothing found"
TOO_SMALL = "component too small"


@dataclass
class MinedImage:
    """What became of one image.

    Attributes:
        case: its name.
        label: (H, W) uint8 class indices, None where the image was rejected or nothing was found.
        decision: "kept", "nothing found", "predicted IoU too low", "agreement too low", "stability too low".
        components: one row a component of the small network's mask: class, size (pixels), box (row0, column0, row1,
            column1), predicted_iou, agreement, stability (None: not measured), kept, reason ("" where kept).
    """

    case: str
    label: np.ndarray | None
    decision: str
    components: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Found:
    """A component's mask and its qualities."""

    prompt: Prompt
    mask: np.ndarray
    predicted_iou: float
    agreement: float
    stability: float | None
    reason: str | None


class Miner:
    """Turns predictions of a small network into pseudo-labels with the help of a promptable model.

    The same image, probabilities and settings give the same label, whatever was mined before. Where masks overlap, a
    pixel goes to the mask whose predicted IoU times agreement is larger.

    Args:
        model: the promptable model; it is never trained.
        cache: image embeddings on disk; None computes them anew each time.
        min_component_size: share of the image's pixels; smaller components of the small network's mask are noise and
            become background.
        box_margin: by which share of its height and width a component's box is enlarged, on every side.
        positive_points, negative_points: how many points a prompt has inside the component and in the ring around it.
        point_selection: "distance" (positive points lie as deep inside as possible) or "confidence" (where the small
            network is surest).
        min_predicted_iou, min_agreement, min_stability: thresholds, 0 .. 1; 0 lets everything pass.
        jitter: by which share of the box's size its edges and the points move when stability is measured.
        jitter_count: how many moved prompts; 0: stability is not measured.
        partial_images: what becomes of an image of which only some components are kept: "reject" the image, or take
            the dropped components for "background".
        seed: of the jitter.

    Raises:
        UserError: a setting out of its range.
    """

    def __init__(
        self,
        model: PromptableModel,
        cache: EmbeddingCache | None = None,
        min_component_size: float = 0.001,
        box_margin: float = 0.1,
        positive_points: int = 3,
        negative_points: int = 4,
        point_selection: Literal["distance", "confidence"] = "distance",
        min_predicted_iou: float = 0.7,
        min_agreement: float = 0.5,
        min_stability: float = 0.7,
        jitter: float = 0.1,
        jitter_count: int = 3,
        partial_images: Literal["reject", "background"] = "reject",
        seed: int = 0,
    ) -> None:
        if partial_images not in ("reject", "background"):
            raise UserError(f"partial_images is '{partial_images}'; it must be 'reject' or 'background'.")
        if not 0 <= jitter < 1:
            raise UserError(f"jitter is {jitter}; it is a share of the box's size, at least 0 and below 1.")
        if isinstance(jitter_count, bool) or not isinstance(jitter_count, int) or jitter_count < 0:
            raise UserError(f"jitter_count is {jitter_count!r}; it must be a whole number of at least 0.")
        self.model = model
        self.cache = cache
        self.prompts = PromptSettings(min_component_size, box_margin, positive_points, negative_points, point_selection)
        self.thresholds = Thresholds(min_predicted_iou, min_agreement, min_stability)
        self.jitter = jitter
        self.jitter_count = jitter_count
        self.partial_images = partial_images
        self.seed = seed

    def digest(self, image: np.ndarray, probabilities: np.ndarray) -> str:
        """Of everything that ``mine`` makes its answer from: equal digest, equal answer."""
        settings = (self.prompts, self.thresholds, self.jitter, self.jitter_count, self.partial_images, self.seed)
        digest = sha256(repr((self.model.identity, settings)).encode())
        for part in (image, probabilities):
            digest.update(f"{part.shape} {part.dtype}".encode())
            digest.update(np.ascontiguousarray(part))
        return digest.hexdigest()

    def mine(self, case: str, image: np.ndarray, probabilities: np.ndarray) -> MinedImage:
        """Mine one image.

        Args:
            case: its name.
            image: (H, W) or (H, W, 3) uint8, rows from top to bottom.
            probabilities: (K, H, W) of the small network, at the image's own size.

        Raises:
            ValueError: the sizes differ.
        """
        as_rgb(image)
        if probabilities.ndim != 3 or probabilities.shape[1:] != image.shape[:2]:
            raise ValueError(f"{case}: probabilities {probabilities.shape} do not fit the image {image.shape}")
        mask = probabilities.argmax(axis=0)
        smallest = self.prompts.min_component_size * mask.size
        large = list(find_components(mask, len(probabilities), smallest))
        small = [_row(*speck, TOO_SMALL) for speck in find_specks(mask, len(probabilities), smallest)]
        if not large:
            return MinedImage(case, None, NOTHING_FOUND, small)
        prompts = [make_prompt(index, each, mask, probabilities[index], self.prompts) for index, each in large]
        return self._decide(case, mask.shape, self._segment(image, prompts), small)

    def _segment(self, image: np.ndarray, prompts: Sequence[Prompt]) -> list[_Found]:
        moved = [jittered(prompt, self.jitter, rng) for prompt in prompts for rng in self._generators(prompt)]
        # In one call, so that a large model answers all prompts of an image in one batch.
        answers = self.model.segment(image, self._embedding(image), [*prompts, *moved])
        found = []
        for number, prompt in enumerate(prompts):
            mask, predicted, agreement = best_mask(*answers[number], prompt.component)
            start = len(prompts) + number * self.jitter_count
            others = [best_mask(*answer, prompt.component)[0] for answer in answers[start : start + self.jitter_count]]
            steady = stability(mask, others)
            reason = self.thresholds.reason(predicted, agreement, steady)
            if not mask.any():  # no thresholds make it a find: it would teach that there is nothing
                reason = AGREEMENT
            found.append(_Found(prompt, mask, predicted, agreement, steady, reason))
        return found

    def _embedding(self, image: np.ndarray) -> dict[str, Any]:
        return self.model.embed(image) if self.cache is None else self.cache.get(self.model, image)

    def _generators(self, prompt: Prompt) -> list[np.random.Generator]:
        """From the component itself, so that neither other components nor their order change its jitter."""
        digest = sha256(np.packbits(prompt.component).tobytes()).digest()
        entropy = [self.seed, prompt.class_index, int.from_bytes(digest[:8], "little")]
        return [np.random.default_rng([*entropy, number]) for number in range(self.jitter_count)]

    def _decide(
        self, case: str, shape: tuple[int, int], found: Sequence[_Found], small: list[dict[str, Any]]
    ) -> MinedImage:
        rows = [_row_of(each) for each in found] + small
        kept = [each for each in found if each.reason is None]
        if not kept or (len(kept) < len(found) and self.partial_images == "reject"):
            _, reason = max((each.prompt.component.sum(), each.reason) for each in found if each.reason)
            return MinedImage(case, None, reason, rows)
        return MinedImage(case, _merge(kept, shape), KEPT, rows)


def _merge(kept: Sequence[_Found], shape: tuple[int, int]) -> np.ndarray:
    label, score = np.zeros(shape, dtype=np.uint8), np.zeros(shape)
    # The class decides between equal scores: the order in which components are found must not.
    for each in sorted(kept, key=lambda each: each.prompt.class_index):
        value = each.predicted_iou * each.agreement
        wins = each.mask & ((value > score) | (label == 0))
        label[wins], score[wins] = each.prompt.class_index, value
    return label


def _row(
    class_index: int, size: int, box: tuple[int, ...], reason: str | None, found: _Found | None = None
) -> dict[str, Any]:
    row = {"class": class_index, "size": size, "box": box}
    for name in ("predicted_iou", "agreement", "stability"):
        row[name] = None if found is None else getattr(found, name)
    return row | {"kept": reason is None, "reason": reason or ""}


def _row_of(found: _Found) -> dict[str, Any]:
    component = found.prompt.component
    box = tuple(int(value) for value in component_box(component))
    return _row(found.prompt.class_index, int(component.sum()), box, found.reason, found)
