"""SAM (Kirillov et al., 2023), models tuned from it such as MedSAM, and SAM-HQ (Ke et al., 2023)."""

from __future__ import annotations

from torch import Tensor

from mnseg.mining.models.frozen import FrozenModel

__all__ = ["Sam", "SamHQ"]


class Sam(FrozenModel):
    """One feature map, 64x64 for an image of 1024x1024."""

    def _encode(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"image": self.model.get_image_embeddings(pixels)}

    def _decoder_inputs(self, features: dict[str, Tensor]) -> dict[str, Tensor | list[Tensor]]:
        return {"image_embeddings": features["image"]}


class SamHQ(FrozenModel):
    """SAM's feature map, and those of the encoder's global attention layers."""

    def _encode(self, pixels: Tensor) -> dict[str, Tensor]:
        image, intermediate = self.model.get_image_embeddings(pixels)
        return {"image": image} | {f"intermediate.{i:02d}": value for i, value in enumerate(intermediate)}

    def _decoder_inputs(self, features: dict[str, Tensor]) -> dict[str, Tensor | list[Tensor]]:
        intermediate = [features[name] for name in sorted(features) if name.startswith("intermediate.")]
        return {"image_embeddings": features["image"], "intermediate_embeddings": intermediate}
