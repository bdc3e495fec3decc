"""The classical segmenter finds edges, and says how sure it is."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mining.scenes import certain, disk
from mnseg.data.pictures import read_mask
from mnseg.errors import UserError
from mnseg.mining import Miner, build_promptable
from mnseg.mining.promptable import Prompt
from mnseg.mining.quality import iou

SHAPE = (120, 140)
TRUTH = disk(SHAPE, (60, 70), 30)


def picture(contrast: float = 100, noise: float = 8, color: bool = True) -> np.ndarray:
    rng = np.random.default_rng(0)
    gray = 80 + contrast * TRUTH + rng.normal(0, noise, SHAPE)
    values = np.stack([gray, gray * 0.6, gray * 0.4], axis=-1) if color else gray
    return np.clip(values, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("guess", [disk(SHAPE, (60, 70), 24), disk(SHAPE, (66, 64), 28)])
def test_it_moves_an_outline_to_the_edge(color, guess):
    miner = Miner(build_promptable("random-walker"), box_margin=0.3)
    mined = miner.mine("a", picture(color=color), certain(guess))
    assert mined.decision == "kept"
    assert iou(guess, TRUTH) < 0.75
    assert iou(mined.label == 1, TRUTH) > 0.95


def test_its_predicted_quality_falls_with_the_contrast():
    guess = disk(SHAPE, (60, 70), 24)
    miner = Miner(build_promptable("random-walker"), min_predicted_iou=0, min_agreement=0, min_stability=0)
    clear, faint = (
        miner.mine("a", picture(contrast, noise=20), certain(guess)).components[0]["predicted_iou"]
        for contrast in (120, 5)
    )
    assert 0 <= faint < 0.8 < clear <= 1


@pytest.mark.parametrize("shape", [(1, 1), (2, 40), (40, 2), (5, 5)])
def test_tiny_images(shape):
    component = np.zeros(shape, dtype=bool)
    component[0, 0] = True
    prompt = Prompt(1, component, (0.0, 0.0, 1.0, 1.0), np.empty((0, 2)), np.empty(0, dtype=int))
    ((masks, quality),) = build_promptable("random-walker").segment(np.zeros(shape, np.uint8), {}, [prompt])
    assert masks.shape == (1, *shape) and masks[0, 0, 0] and 0 <= quality[0] <= 1


def test_a_box_without_outside_is_all_foreground():
    component = np.ones((20, 20), dtype=bool)
    prompt = Prompt(1, component, (0.0, 0.0, 20.0, 20.0), np.empty((0, 2)), np.empty(0, dtype=int))
    ((masks, quality),) = build_promptable("random-walker").segment(np.zeros((20, 20), np.uint8), {}, [prompt])
    assert masks.all() and quality[0] == 1


def test_without_scikit_image_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(UserError, match=r"mnseg\[mining\]"):
        build_promptable("random-walker")


@pytest.mark.parametrize("setting", [{"beta": 0}, {"core": 1.5}, {"edge": 8}])
def test_wrong_settings_are_named(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        build_promptable("random-walker", **setting)


def test_real_polyps(shared_dir: Path):
    """Eroded true outlines grow back to the polyps' edges."""
    from scipy.ndimage import distance_transform_edt

    folder = shared_dir / "data" / "kvasir"
    images = sorted((folder / "images").iterdir())[::80]
    walker = build_promptable("random-walker")
    miner = Miner(walker, jitter_count=0, min_predicted_iou=0, min_agreement=0, box_margin=0.3)
    gains = []
    for path in images:
        truth = read_mask(next((folder / "masks").glob(f"{path.stem}.*")), 2) == 1
        depth = distance_transform_edt(truth)
        guess = depth > 0.3 * depth.max()
        with Image.open(path) as file:
            mined = miner.mine(path.stem, np.asarray(file.convert("RGB")), certain(guess))
        gains.append(iou(mined.label == 1, truth) - iou(guess, truth))
    assert np.mean(gains) > 0.05
