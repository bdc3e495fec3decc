"""SAM 2 (Ravi et al., 2024) on single images, and its relatives with the same calls: SAM 3's tracker, EdgeTAM."""

from __future__ import annotations

from torch import Tensor

from mnseg.mining.models.frozen import FrozenModel

__all__ = ["Sam2"]


class Sam2(FrozenModel):
    """Feature maps of three resolutions, the finest first."""

    def _encode(self, pixels: Tensor) -> dict[str, Tensor]:
        return {f"level.{i}": value for i, value in enumerate(self.model.get_image_embeddings(pixels))}

    def _decoder_inputs(self, features: dict[str, Tensor]) -> dict[str, Tensor | list[Tensor]]:
        return {"image_embeddings": [features[name] for name in sorted(features)]}
