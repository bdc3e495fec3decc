"""Images, prompts and masks on their way into a model and back: by hand, and against other implementations."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from mnseg.errors import UserError
from mnseg.mining.models.preprocessing import ImageFrame, load_frame
from mnseg.networks.input_normalization import IMAGENET_MEAN, IMAGENET_STD

SIZES = [(50, 80), (80, 50), (40, 40), (300, 211), (64, 64)]


def image(size) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


@pytest.mark.parametrize("size", SIZES)
def test_sams_input_is_that_of_transformers(size):
    theirs = SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    expected = theirs(image(size), return_tensors="pt")
    frame = ImageFrame(64, keep_aspect=True)
    found = frame.pixels(image(size))
    assert frame.fitted_size(size) == tuple(expected["reshaped_input_sizes"][0].tolist())
    # Pillow and torch round differently: by one of 255 steps at most.
    assert (found - expected["pixel_values"]).abs().max() < 1.01 / 255 / min(IMAGENET_STD)


@pytest.mark.parametrize("size", SIZES)
def test_sam2s_input_is_stretched(size):
    found = ImageFrame(64, keep_aspect=False).pixels(image(size))
    resized = Image.fromarray(image(size)).resize((64, 64), Image.Resampling.BILINEAR)
    expected = (np.asarray(resized) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    assert np.abs(found[0].permute(1, 2, 0).numpy() - expected).max() < 1.01 / 255 / min(IMAGENET_STD)


def test_gray_is_gray_in_all_channels():
    gray = image((50, 80))[..., 0]
    frame = ImageFrame(64, True, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    found = frame.pixels(gray)
    assert torch.equal(found[:, 0], found[:, 1]) and torch.equal(found[:, 0], found[:, 2])
    assert (found[..., 40:, :] == 0).all()  # 50x80 becomes 40x64; the padding is the mean color
    white = frame.pixels(np.full((64, 64), 255, dtype=np.uint8))
    assert torch.equal(white, torch.full((1, 3, 64, 64), 2.0))


def test_coordinates_by_hand():
    points = np.array([[25.0, 40.0], [0.0, 80.0]])  # rows and columns
    padded = ImageFrame(160, keep_aspect=True).coordinates(points, (50, 80))
    assert padded.tolist() == [[80.0, 50.0], [160.0, 0.0]]  # x and y: 50x80 becomes 100x160
    stretched = ImageFrame(160, keep_aspect=False).coordinates(points, (50, 80))
    assert stretched.tolist() == [[80.0, 80.0], [160.0, 0.0]]


@pytest.mark.parametrize("keep_aspect", [True, False])
def test_masks_come_back_where_they_were(keep_aspect):
    """Logits that are positive where the network's input is bright restore to the bright part of the image."""
    size = (60, 90)
    bright = np.zeros(size, dtype=np.uint8)
    bright[12:42, 30:75] = 255
    frame = ImageFrame(96, keep_aspect, (0.5,) * 3, (0.5,) * 3)
    logits = interpolate(frame.pixels(bright)[:, :1], (48, 48), mode="bilinear")
    mask = frame.restore(logits, size)
    assert mask.shape == (1, 1, *size) and mask.dtype == torch.bool
    wrong = mask[0, 0].numpy() != (bright > 0)
    assert not wrong[14:40, 32:73].any() and wrong.mean() < 0.02


def test_settings_are_read(tmp_path, caplog):
    settings = {"size": {"longest_edge": 64}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 1.0]}
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(settings | {"resample": 3}))
    assert load_frame(str(tmp_path), 64, False, True) == ImageFrame(64, True, (0.1, 0.2, 0.3), (0.5, 0.5, 1.0),
                                                                    "bicubic")
    # Mean and std of 0 .. 255, as some processors without rescaling state them.
    whole = {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [255.0] * 3}
    path.write_text(json.dumps(whole | {"size": {"height": 64, "width": 64}}))
    assert load_frame(str(tmp_path), 64, True, True) == ImageFrame(64, False, (0.5,) * 3, (1.0,) * 3)
    path.rename(tmp_path / "other.json")
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert load_frame(str(tmp_path), 64, False, True).mean == (0.1, 0.2, 0.3)
    (tmp_path / "processor_config.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert load_frame(str(tmp_path), 64, True, True) == ImageFrame(64, True)
    assert "no preprocessor_config.json" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"size": {"longest_edge": 1024}}, "size of 1024, its config.json one of 64"), ({"resample": 5}, "resample")],
)
def test_settings_that_do_not_fit(tmp_path, settings, message):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=message):
        load_frame(str(tmp_path), 64, True, True)
