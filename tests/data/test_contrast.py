"""The random contrast against MONAI's."""

from __future__ import annotations

import pytest
import torch
from monai.transforms import RandAdjustContrastd

from mnseg.data.contrast import RandContrastd


@pytest.mark.parametrize(
    ("prob", "more"), [(0.5, {}), (1.0, {}), (1.0, {"retain_stats": True}), (1.0, {"invert_image": True})]
)
def test_draws_and_values_are_monais(prob, more):
    ours, monais = (kind("image", prob, (0.6, 1.6), **more) for kind in (RandContrastd, RandAdjustContrastd))
    for transform in (ours, monais):
        transform.set_random_state(seed=3)
    changed = 0
    for seed in range(8):
        image = torch.randn(1, 6, 5, 4, generator=torch.Generator().manual_seed(seed))
        found = ours({"image": image.clone()})["image"]
        assert torch.equal(found, torch.as_tensor(monais({"image": image.clone()})["image"]))
        changed += not torch.equal(found, image)
    assert changed == 8 if prob == 1 else 0 < changed < 8


def test_by_hand():
    """Of 0, 1, 4 the middle is a quarter of the range, squared a sixteenth; a blank image stays."""
    ours = RandContrastd("image", 1.0, (2.0, 2.0))
    image = torch.tensor([0.0, 1.0, 4.0]).view(1, 3, 1, 1)
    assert ours({"image": image})["image"].flatten().tolist() == pytest.approx([0, 0.25, 4], abs=1e-5)
    assert ours({"image": torch.full((1, 2, 2, 2), 3.0)})["image"].unique().tolist() == [3]
