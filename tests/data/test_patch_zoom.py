"""The zoom of a patch against scipy, MONAI's two transforms, and numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import CenterSpatialCropd, Compose, RandZoomd
from scipy.ndimage import center_of_mass, map_coordinates

from mnseg.data.patch_zoom import RandPatchZoomd, middle
from mnseg.data.transforms import margin_size
from mnseg.errors import UserError

MODES = ["trilinear", "nearest-exact"]


def zoomed(crop: torch.Tensor, patch: list[int], zoom: float, key: str = "image") -> torch.Tensor:
    return RandPatchZoomd(["image", "label"], patch, zoom, zoom, MODES)({key: crop})[key]


def test_twice_as_large_by_hand():
    """Voxel i of an enlarged row lies at (i + 0.5) / 2 - 0.5 of the old; the rim has its neighbors outside."""
    row = torch.tensor([0.0, 10, 20, 40, 80, 90]).view(1, 6, 1, 1)
    assert zoomed(row, [4, 1, 1], 2.0)[0, :, 0, 0].tolist() == [17.5, 25, 35, 50]
    labels = zoomed(torch.tensor([1, 2, 3, 4, 5, 6], dtype=torch.uint8).view(1, 6, 1, 1), [4, 1, 1], 2.0, "label")
    assert labels.dtype is torch.uint8
    assert labels[0, :, 0, 0].tolist() == [3, 3, 4, 4]


@pytest.mark.parametrize("zoom", [0.75, 0.83, 0.9, 1.0, 1.07, 1.35])
def test_every_voxel_lies_where_it_should(zoom):
    """Against scipy's linear interpolation, at the same distance from the crop's middle along every axis."""
    patch = [20, 16, 12]
    crop = torch.rand(1, *margin_size(patch, 0.75), generator=torch.Generator().manual_seed(0))
    found = zoomed(crop, patch, zoom)[0].numpy()
    where = []
    for size, whole in zip(patch, crop.shape[1:], strict=True):
        needed = min(int(np.ceil(size / zoom)) + (2 if zoom > 1 else 0), whole)
        made = round(needed * zoom)
        assert abs(made / needed - zoom) <= 0.5 / needed, "rounded to a whole number of voxels"
        first, cut = whole // 2 - needed // 2, made // 2 - size // 2
        where.append(first + (cut + np.arange(size) + 0.5) * needed / made - 0.5)
        assert abs((where[-1][0] + where[-1][-1]) - (whole - 1)) / 2 <= 1, "at most a voxel from the middle"
    wanted = map_coordinates(crop[0].numpy(), np.meshgrid(*where, indexing="ij"), order=1, mode="nearest")
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_patch_is_never_a_voxel_short():
    for patch in ([16, 32, 80], [7, 11, 13]):
        for zoom in np.linspace(0.75, 1.35, 61):
            crop = torch.zeros(1, *margin_size(patch, 0.75))
            assert zoomed(crop, patch, float(zoom)).shape == (1, *patch)


def test_as_monais_two_transforms_within_half_a_voxel():
    """A ball of radius 5 keeps its place and gets the zoom's size, as by RandZoomd and a crop."""
    grid = np.stack(np.meshgrid(*[np.arange(40.0)] * 3, indexing="ij")) - 19.5
    ball = torch.from_numpy(((grid**2).sum(0) <= 25).astype(np.float32))[None]
    for zoom in (0.8, 1.25):
        ours = zoomed(ball, [24, 24, 24], zoom)
        stock = Compose([RandZoomd(["image"], 1.0, zoom, zoom, mode="trilinear", padding_mode="edge"),
                         CenterSpatialCropd(["image"], [24, 24, 24])])({"image": ball})["image"].as_tensor()
        for found in (ours, stock):
            assert float(found.sum()) == pytest.approx(float(ball.sum()) * zoom**3, rel=0.08)
        np.testing.assert_allclose(center_of_mass(ours[0].numpy()), center_of_mass(stock[0].numpy()), atol=0.75)


def test_the_same_zoom_for_image_and_label_and_another_each_time():
    transform = RandPatchZoomd(["image", "label"], [16, 16, 16], 0.8, 1.3, MODES)
    transform.set_random_state(0)
    ramp = torch.arange(20.0).view(1, -1, 1, 1).expand(1, 20, 20, 20)
    steps = []
    for _ in range(20):
        item = transform({"image": ramp, "label": ramp.to(torch.uint8), "case": "a"})
        assert item["case"] == "a" and set(item) == {"image", "label", "case"}
        line = item["image"][0, :, 8, 8]
        steps.append(float(line[9] - line[6]) / 3)
        assert (item["label"][0, :, 8, 8] - line).abs().max() <= 0.501
    assert len({round(step, 3) for step in steps}) > 4
    assert min(steps) > 0.95 / 1.3 and max(steps) < 1.05 / 0.8
    transform.set_random_state(0)
    again = transform({"image": ramp})["image"][0, :, 8, 8]
    assert float(again[9] - again[6]) / 3 == pytest.approx(steps[0])


@pytest.mark.parametrize("zoom", [1.01, 1.04, 1.07, 0.97])
def test_label_and_image_stay_together_where_an_axis_keeps_its_size(zoom):
    """torch's interpolation by a factor copies such an axis's image, and moves its label."""
    ramp = torch.arange(20.0).view(1, 1, 1, -1).expand(1, 20, 20, 20)
    transform = RandPatchZoomd(["image", "label"], [16, 16, 12], zoom, zoom, MODES)
    item = transform({"image": ramp, "label": ramp.to(torch.uint8)})
    assert (item["label"] - item["image"]).abs().max() <= 0.501


def test_pictures():
    picture = RandPatchZoomd("image", [8, 6], 1.2, 1.2, "bilinear")({"image": torch.rand(3, 10, 10)})["image"]
    assert picture.shape == (3, 8, 6)


def test_a_crop_without_margin_is_refused():
    with pytest.raises(UserError, match=r"\[8, 8, 8\] voxels at a zoom of 0.80 needs \[10, 10, 10\], and the crop has"):
        zoomed(torch.rand(1, 9, 20, 20), [8, 8, 8], 0.8)


def test_nearest_is_refused():
    with pytest.raises(UserError, match="nearest-exact"):
        RandPatchZoomd(["image", "label"], [8, 8, 8], 0.9, 1.1, ["trilinear", "nearest"])


@pytest.mark.parametrize(("patch", "crop"), [(23, 26), (24, 27), (7, 8), (8, 9), (5, 5)])
def test_unzoomed_it_is_the_patch_around_which_the_margin_was_laid(patch, crop):
    """RandForegroundCropd puts a center at size // 2 of patch and crop alike."""
    row = torch.arange(float(crop)).view(1, -1, 1, 1)
    first = crop // 2 - patch // 2
    assert zoomed(row, [patch, 1, 1], 1.0)[0, :, 0, 0].tolist() == list(range(first, first + patch))


def test_the_middle_is_a_view_of_all_channels():
    volume = torch.arange(2 * 5 * 4.0).view(2, 5, 4)
    part = middle(volume, [3, 9])
    assert torch.equal(part, volume[:, 1:4, :]) and part.data_ptr() == volume[:, 1:].data_ptr()
