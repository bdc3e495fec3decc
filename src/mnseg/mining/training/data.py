"""The pool of labeled and unlabeled images, to which mined labels are added as they come."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Resize
from torch.utils.data import Dataset

from mnseg.data.datalist import load_datalist
from mnseg.data.integrity import require_sound_datalist
from mnseg.errors import UserError

__all__ = ["MinedDataset", "MinedLabels", "require_sound_pictures"]


def require_sound_pictures(
    path: str | os.PathLike,
    dataset_dir: str | os.PathLike | None,
    schedule: str,
    class_names: Sequence[str],
    cache_dir: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Load and check a datalist of 2D images; see ``require_sound_datalist``.

    Raises:
        UserError: what that finds, or no unlabeled image although the schedule mines.
    """
    if schedule != "supervised" and not load_datalist(path, dataset_dir, class_names).get("unlabeled", [None]):
        raise UserError(f'datalist {path} has no unlabeled image, so there is nothing to mine; add images under '
                        '"unlabeled" or set schedule to supervised.')
    return require_sound_datalist(
        path, dataset_dir, len(class_names), allow_empty_unlabeled=True, class_names=class_names, cache_dir=cache_dir,
        planar=True,
    )  # fmt: skip


class MinedLabels:
    """Mined labels of the current round on the training grid, by case.

    Args:
        image_size: rows and columns that images have in training.
    """

    def __init__(self, image_size: Sequence[int]) -> None:
        self.resize = Resize(image_size, mode="nearest-exact")
        self.labels: dict[str, torch.Tensor] = {}

    def replace(self, labels: Iterable[tuple[str, np.ndarray]]) -> None:
        """Take cases and masks (H, W) uint8 of a new round, one by one; those of the former one are dropped."""
        self.labels = {
            case: self.resize(torch.from_numpy(label)[None].float()).to(torch.uint8).as_tensor()
            for case, label in labels
        }


class MinedDataset(Dataset):
    """A pool of images; an unlabeled one gets its mined label, then both are augmented.

    Args:
        pool: items with "image" (C, H, W), "case" and, where they are labeled, "label" (1, H, W).
        mined: the mined labels.
        transform: random transforms.
    """

    def __init__(self, pool: Dataset, mined: MinedLabels, transform: Compose) -> None:
        self.pool = pool
        self.mined = mined
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pool)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = dict(self.pool[index])
        if "label" not in item:
            item["label"] = MetaTensor(self.mined.labels[item["case"]], affine=item["image"].affine)
        return self.transform(item)
