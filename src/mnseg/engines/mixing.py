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
        complete = [index for index in range(b_l) if ignored is None or not bool(ignored[index].any())]
        if not complete or not len(pseudo):
            return image, pseudo
        image, pseudo = image.clone(), pseudo.clone()
        truth = torch.zeros_like(pseudo[:1]).expand(len(complete), -1, -1, -1, -1)
        truth = truth.scatter(1, label[complete].long(), 1.0)
        for j in range(len(pseudo)):
            i = int(torch.randint(len(complete), ()))
            labeled = self._box(image.shape[2:]).to(image.device)
            image[b_l + j] = torch.where(labeled, image[complete[i]], image[b_l + j])
            pseudo[j] = torch.where(labeled, truth[i], pseudo[j])
        return image, pseudo

    def _box(self, shape: torch.Size) -> Tensor:
        """``(H, W, D)``: True where the voxels become labeled ones."""
        inside = torch.zeros(shape, dtype=torch.bool)
        sizes = [max(round(length * self.share), 1) for length in shape]
        starts = [int(torch.randint(length - size + 1, ())) for length, size in zip(shape, sizes, strict=True)]
        inside[tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))] = True
        return inside if torch.rand(()) < 0.5 else ~inside
