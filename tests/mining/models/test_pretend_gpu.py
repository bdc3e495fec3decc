"""Promptable models on a device of their own: no tensor is forgotten on the host."""

from __future__ import annotations

import numpy as np

from mining.scenes import certain, disk
from mnseg.mining import build_promptable
from mnseg.mining.prompts import PromptSettings, find_components, make_prompt
from pretend_gpu import DEVICE, on_pretend_gpu

FAMILIES = ("sam", "sam_hq", "sam2", "sam3")
SHAPE = (50, 80)


def masks_of_all(folder: str, device: str) -> dict[str, list]:
    """Masks and their quality by family, of an image with two components."""
    image = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3)).astype(np.uint8)
    mask = disk(SHAPE, (20, 20), 9) + 2 * disk(SHAPE, (30, 60), 12)
    probabilities, made_with = certain(mask, 3), PromptSettings(positive_points=3, negative_points=4)
    prompts = [make_prompt(index, component, mask, probabilities[index], made_with)
               for index, component in find_components(mask, 3)]  # fmt: skip
    found = {}
    for name in FAMILIES:
        model = build_promptable(f"{folder}/{name}", device=device)
        answers = model.segment(image, model.embed(image), prompts)
        found[name] = [(int(masks.sum()), *map(float, quality)) for masks, quality in answers]
    return found


def test_all_families(models_dir):
    found, expected = on_pretend_gpu(masks_of_all, str(models_dir), DEVICE), masks_of_all(str(models_dir), "cpu")
    assert found.keys() == expected.keys() == set(FAMILIES)
    for name in FAMILIES:
        assert len(found[name]) == 2
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3)
