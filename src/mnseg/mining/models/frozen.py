"""What the promptable models of transformers share: frozen weights, an identity, prompts as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn

from mnseg.mining.models.preprocessing import ImageFrame
from mnseg.mining.promptable import Prompt

__all__ = ["FrozenModel"]

MAX_PROMPTS = 64  # at once through the mask decoder; more would only take more memory


class FrozenModel:
    """A model of transformers' mask generation whose weights never change; subclasses know a family's embedding.

    Args:
        model: the model; set to eval mode, without gradients.
        frame: its input.
        multimask: True: three masks a prompt, of which the miner takes the best; False: one (what MedSAM was tuned on).
        device: where it runs.
    """

    def __init__(
        self, model: nn.Module, frame: ImageFrame, multimask: bool = True, device: torch.device | str = "cpu"
    ) -> None:
        self.model = model.eval().requires_grad_(False).to(device)
        self.frame = frame
        self.multimask = multimask
        self.device = torch.device(device)
        self.identity = f"{type(model).__name__} {_digest(model)} {frame.identity}"

    @torch.no_grad()
    def embed(self, image: np.ndarray) -> dict[str, Tensor]:
        """The image encoder's output, on the CPU."""
        features = self._encode(self.frame.pixels(image).to(self.device))
        return {name: value.cpu().contiguous() for name, value in features.items()}

    @torch.no_grad()
    def segment(
        self, image: np.ndarray, embedding: dict[str, Tensor], prompts: Sequence[Prompt]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Masks and predicted IoU of every prompt; see ``PromptableModel``.

        Prompts with equally many points share a batch: padding points would change the answer a little.
        """

        def kind(number: int) -> tuple[bool, int]:
            return prompts[number].box is None, len(prompts[number].points)

        features = {name: value.to(self.device) for name, value in embedding.items()}
        results: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for _, group in groupby(sorted(range(len(prompts)), key=kind), key=kind):
            same = list(group)
            for start in range(0, len(same), MAX_PROMPTS):
                part = same[start : start + MAX_PROMPTS]
                found = self._segment_batch(image.shape[:2], features, [prompts[i] for i in part])
                results.update(zip(part, found, strict=True))
        return [results[i] for i in range(len(prompts))]

    def _segment_batch(
        self, size: tuple[int, int], features: dict[str, Tensor], prompts: Sequence[Prompt]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        output = self.model(
            **self._decoder_inputs(features), **self._prompt_inputs(prompts, size), multimask_output=self.multimask
        )
        logits, quality = output.pred_masks[0].float(), output.iou_scores[0].float().clamp(0, 1)
        # One prompt after the other: on a large image all masks in float would need gigabytes.
        masks = [self.frame.restore(each[None], size)[0].cpu().numpy() for each in logits]
        return list(zip(masks, quality.cpu().numpy(), strict=True))

    def _prompt_inputs(self, prompts: Sequence[Prompt], size: tuple[int, int]) -> dict[str, Tensor]:
        inputs = {}
        if prompts[0].box is not None:
            # SAM's boxes name their last pixel, ours the one behind it.
            boxes = np.array([prompt.box for prompt in prompts]) - [0, 0, 1, 1]
            corners = self.frame.coordinates(boxes.reshape(-1, 2, 2), size)
            inputs["input_boxes"] = corners.reshape(1, -1, 4).to(self.device)
        if len(prompts[0].points):
            points = self.frame.coordinates(np.stack([prompt.points for prompt in prompts]), size)
            labels = torch.tensor(np.stack([prompt.point_labels for prompt in prompts]), dtype=torch.long)
            inputs |= {"input_points": points[None].to(self.device), "input_labels": labels[None].to(self.device)}
        return inputs

    def _encode(self, pixels: Tensor) -> dict[str, Tensor]:
        """Named feature maps of (1, 3, edge, edge)."""
        raise NotImplementedError

    def _decoder_inputs(self, features: dict[str, Tensor]) -> dict[str, Tensor | list[Tensor]]:
        """What the model's forward takes in place of pixels."""
        raise NotImplementedError


def _digest(model: nn.Module) -> str:
    """Of all weights: a directory may get other ones under the same name."""
    digest = sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]
