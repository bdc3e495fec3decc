"""Mixed patches: each unlabeled patch of a student's batch exchanges a box with a labeled one."""

from __future__ import annotations

import torch
from torch import Tensor

from mnseg.errors import UserError

__all__ = ["BoxMix"]


class BoxMix:
    """Put labeled voxels with their truth into the unlabeled patches (after BCP, Bai et al., CVPR 2023).

    For each unlabeled patch a labeled one and a box are drawn; by a coin the labeled voxels come inside the box or
    around it. The pseudo-label gets the truth where the voxels are labeled, so that Eq. 4 stays the loss. The labeled
    patches themselves stay whole (BCP mixes them too). The teacher saw the unmixed patches.

    Args:
        share: length of the box over that of the patch, along every axis; BCP takes 2/3.

    Raises:
        UserError: for a share outside (0, 1).
    """

    def __init__(self, share: float = 2 / 3) -> None:
        if not 0 < share < 1:
            raise UserError(f"mix_share is {share}; it must lie between 0 and 1, or be null for no mixing.")
        self.share = share

    def __call__(
        self, image: Tensor, label: Tensor, pseudo: Tensor, ignored: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return images and pseudo-labels with mixed unlabeled patches; the arguments stay as they are.

        Args:
            image: ``(b_l + b_u, C, H, W, D)``, labeled patches first.
            label: ``(b_l, 1, H, W, D)`` class indices.
            pseudo: ``(b_u, K, H, W, D)`` probabilities.
            ignored: ``(b_l, K)`` bool; patches whose label leaves a class undrawn are not mixed in.
        """
        b_l = label.shape[0]
        left_out = [False] * b_l if ignored is None else ignored.any(dim=1).tolist()
        complete = [index for index in range(b_l) if not left_out[index]]
        if not complete or not len(pseudo):
            return image, pseudo
        image, pseudo = image.clone(), pseudo.clone()
        for j in range(len(pseudo)):
            i = complete[int(torch.randint(len(complete), ()))]
            truth = torch.zeros_like(pseudo[j]).scatter(0, label[i].long(), 1.0)
            labeled = self._box(image.shape[2:], image.device)
            image[b_l + j] = torch.where(labeled, image[i], image[b_l + j])
            pseudo[j] = torch.where(labeled, truth, pseudo[j])
        return image, pseudo

    def _box(self, shape: torch.Size, device: torch.device) -> Tensor:
        """``(H, W, D)``: True where the voxels become labeled ones."""
        inside = torch.zeros(shape, dtype=torch.bool, device=device)
        sizes = [max(round(length * self.share), 1) for length in shape]
        starts = [int(torch.randint(length - size + 1, ())) for length, size in zip(shape, sizes, strict=True)]
        inside[tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))] = True
        return inside if torch.rand(()) < 0.5 else ~inside
