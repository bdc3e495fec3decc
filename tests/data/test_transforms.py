"""The crop, and the whole random part of train.json, on images whose voxels tell where they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor, get_track_meta
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose
from torch.nn.functional import max_pool3d

from mnseg.data.patch_zoom import RandPatchZoomd
from mnseg.data.pseudo_foreground import PseudoForeground
from mnseg.data.transforms import ForegroundIndicesd, RandForegroundCropd, margin_size

TRAIN = Path(__file__).resolve().parents[2] / "bundles" / "mn_cotraining" / "configs" / "train.json"


def flat_indices(shape: tuple[int, ...]) -> torch.Tensor:
    """(1, H, W, D) volume in which every voxel holds 1 + its flat index."""
    return (torch.arange(int(np.prod(shape)), dtype=torch.float64) + 1).view(1, *shape)


def crop(patch: list[int], probability: float = 0.5, store: PseudoForeground | None = None) -> RandForegroundCropd:
    result = RandForegroundCropd(["image", "label"], patch, probability, store)
    result.set_random_state(0)
    return result


@pytest.mark.parametrize("shape", [(20, 20, 20), (9, 30, 12), (5, 8, 40), (3, 2, 1)])
def test_image_and_label_stay_aligned(shape):
    image = flat_indices(shape)
    label = (image % 7).to(torch.uint8)
    transform = crop([8, 9, 10])
    prepare = ForegroundIndicesd()
    for _ in range(20):
        out = transform(prepare({"image": MetaTensor(image), "label": MetaTensor(label)}))
        assert out["image"].shape == out["label"].shape == (1, 8, 9, 10)
        assert "foreground_indices" not in out
        padding = out["image"] == 0
        seen = np.prod([min(s, p) for s, p in zip(shape, (8, 9, 10), strict=True)])
        assert len(out["image"][~padding].unique()) == (~padding).sum() == seen
        assert (out["label"][~padding] == (out["image"] % 7)[~padding]).all()


def test_small_volume_is_padded_with_0_and_background_as_by_a_sliding_window():
    image, label = torch.full((1, 4, 20, 4), 5.0), torch.ones(1, 4, 20, 4, dtype=torch.uint8)
    image[0, 1, :, 1] = -2.0
    out = crop([8, 8, 8])({"image": image, "label": label})
    assert out["label"].sum() == 4 * 8 * 4, "the whole small extent, once"
    assert (out["image"][out["label"] == 0] == 0).all()
    shown = []
    SlidingWindowInferer([8, 8, 8])(image[None, :, :, :8], lambda window: shown.append(window) or window)
    assert torch.equal(out["image"], shown[0][0]), "what the network is shown when the scan is segmented"


def test_foreground_with_the_given_probability():
    """One foreground voxel in 40^3: a uniform patch of 8^3 holds it with probability (8 / 33)^3 = 1.4 %."""
    label = torch.zeros(1, 40, 40, 40, dtype=torch.uint8)
    label[0, 20, 11, 30] = 3
    item = ForegroundIndicesd()({"image": torch.zeros(1, 40, 40, 40), "label": label})
    found = {}
    for probability in (0.0, 0.5, 1.0):
        transform = crop([8, 8, 8], probability)
        found[probability] = np.mean([bool(transform(item)["label"].any()) for _ in range(250)])
    assert found[1.0] == 1
    assert found[0.5] == pytest.approx(0.507, abs=0.13)  # four standard deviations
    assert found[0.0] < 0.05


@pytest.mark.parametrize("voxel", [(0, 0, 0), (19, 19, 19), (0, 10, 19)])
def test_foreground_at_the_border_is_still_inside(voxel):
    label = torch.zeros(1, 20, 20, 20, dtype=torch.uint8)
    label[(0, *voxel)] = 1
    out = crop([8, 8, 8], 1.0)(ForegroundIndicesd()({"image": torch.zeros(1, 20, 20, 20), "label": label}))
    assert out["label"].sum() == 1


def test_unlabeled_items_follow_the_pseudo_foreground():
    store = PseudoForeground()
    image = torch.zeros(1, 40, 40, 40)
    image[0, 5, 6, 7] = 1
    transform = crop([8, 8, 8], 1.0, store)
    item = {"image": image, "case": "a"}
    before = [bool(transform(item)["image"].any()) for _ in range(60)]
    store.update("a", np.array([5 * 1600 + 6 * 40 + 7]), epoch=1)
    after = [bool(transform(item)["image"].any()) for _ in range(60)]
    other = [bool(transform({**item, "case": "b"})["image"].any()) for _ in range(60)]
    assert all(after)
    assert sum(before) < 20 and sum(other) < 20


def test_empty_foreground_falls_back_to_a_uniform_crop():
    store = PseudoForeground()
    store.update("a", np.array([], dtype=np.int64), epoch=1)
    transform = crop([8, 8, 8], 1.0, store)
    starts = {float(transform({"image": flat_indices((20, 20, 20)), "case": "a"})["image"].min()) for _ in range(30)}
    assert len(starts) > 20
    empty = ForegroundIndicesd()({"image": torch.zeros(1, 9, 9, 9), "label": torch.zeros(1, 9, 9, 9)})
    assert transform(empty)["label"].shape == (1, 8, 8, 8)


def test_uniform_crops_reach_every_place_equally():
    """Length 10, patch 4: the seven starts are equally likely, the first and the last included."""
    transform = crop([4, 1, 1], 0.0)
    image = torch.arange(10.0).view(1, 10, 1, 1)
    starts = [int(transform({"image": image})["image"].min()) for _ in range(700)]
    counts = np.bincount(starts, minlength=7)
    assert len(counts) == 7
    assert (abs(counts - 100) < 45).all()  # over four standard deviations


def test_the_cached_item_is_left_alone():
    image = flat_indices((12, 12, 12))
    item = ForegroundIndicesd()({"image": image, "label": (image > 100).to(torch.uint8), "case": "a"})
    keys, copies = set(item), {k: item[k].clone() for k in ("image", "label")}
    crop([8, 8, 8])(item)["image"].fill_(-1)
    assert set(item) == keys
    assert all(torch.equal(item[k], copies[k]) for k in copies)


def test_foreground_indices_only_where_there_is_a_label():
    assert "foreground_indices" not in ForegroundIndicesd()({"image": torch.zeros(1, 2, 2, 2)})
    label = torch.zeros(1, 2, 2, 2)
    label[0, 1, 0, 1] = 1
    assert ForegroundIndicesd()({"label": label})["foreground_indices"].tolist() == [5]


def test_margin():
    assert margin_size([160, 160, 64], 0.9) == [178, 178, 72]
    assert margin_size([160, 160, 64], 1.0) == [160, 160, 64]
    assert margin_size([10], 1.1) == [10]


class TestRandomPartOfTrainJson:
    """`train::preprocessing` as the bundle builds it, patch 24 x 20 x 16, zoom 0.9 to 1.1."""

    PATCH = (24, 20, 16)

    @pytest.fixture
    def transform(self):
        parser = ConfigParser()
        parser.read_config(str(TRAIN))
        parser.update({"patch_size": list(self.PATCH), "gamma": [1.0, 1.0]})
        result = parser.get_parsed_content("train::preprocessing")
        result.set_random_state(0)
        return result

    def test_a_patch_is_zoomed_never_a_volume(self, transform, monkeypatch):
        seen = []
        original = RandPatchZoomd.__call__

        def spy(self, data, *args, **kwargs):
            seen.append(tuple(data["image"].shape[1:]))
            return original(self, data, *args, **kwargs)

        monkeypatch.setattr(RandPatchZoomd, "__call__", spy)
        shapes = {tuple(transform({"image": torch.rand(1, 60, 50, 70)})["image"].shape) for _ in range(12)}
        assert shapes == {(1, *self.PATCH)}
        assert set(seen) == {(27, 23, 18)} and len(seen) == 12  # 24 / 0.9, 20 / 0.9, 16 / 0.9, rounded up

    def test_label_is_not_shifted_against_the_image(self, transform):
        """A label that holds its own coordinate, an image that holds the same: their difference has mean 0.

        Legacy nearest-neighbour resampling rounds down and shifts labels by half a voxel on average.
        """
        for axis in range(3):
            ramp = torch.arange(1.0, 61.0).view([-1 if i == axis else 1 for i in range(3)]).expand(60, 60, 60)[None]
            differences = []
            for _ in range(12):
                out = transform({"image": ramp.clone(), "label": ramp.to(torch.uint8)})
                # The margin may reach beyond the scan, where the label is 0; its interpolated rim is left out too.
                inside = (-max_pool3d(-(out["label"] > 0).float(), 5, 1, 2) > 0)[:, 2:-2, 2:-2, 2:-2]
                difference = (out["label"].float() - out["image"])[:, 2:-2, 2:-2, 2:-2][inside]
                assert difference.abs().max() < 1.01
                differences.append(float(difference.mean()))
            assert abs(np.mean(differences)) < 0.1

    def test_zoom_really_runs_and_stays_in_its_range(self, transform):
        ramp = torch.arange(60.0).view(-1, 1, 1).expand(60, 60, 60)[None]
        steps = []
        for _ in range(40):
            patch = transform({"image": ramp.clone()})["image"][0, 4:20, 10, 8]
            steps.append(float(patch[-1] - patch[0]) / (len(patch) - 1))
        assert 1 / 1.13 < min(steps) < 0.95 and 1.05 < max(steps) < 1 / 0.87
        assert len({round(s, 3) for s in steps}) > 4

    def test_gamma_really_runs_on_standardised_values(self):
        parser = ConfigParser()
        parser.read_config(str(TRAIN))
        parser.update({"patch_size": [16, 16, 16], "min_zoom": 1.0, "max_zoom": 1.0})
        transform = parser.get_parsed_content("train::preprocessing")
        transform.set_random_state(0)
        image = torch.randn(1, 16, 16, 16)  # negative values, which a bare power would turn into NaN
        outs = [transform({"image": image.clone()})["image"] for _ in range(6)]
        for out in outs:
            assert torch.isfinite(out).all()
            assert float(out.min()) == pytest.approx(float(image.min()), abs=1e-4)
            assert float(out.max()) == pytest.approx(float(image.max()), abs=1e-4)
            order = image.flatten().argsort()
            assert (out.flatten()[order].diff() >= -1e-5).all(), "monotone"
        assert len({round(float(out.mean()), 4) for out in outs}) > 3


    def test_values_are_those_of_monais_compose_and_nothing_is_remembered(self, transform):
        torch.manual_seed(0)
        item = {"image": MetaTensor(torch.randn(1, 60, 50, 70)), "case": "a"}
        item["label"] = MetaTensor((item["image"].as_tensor() > 1).to(torch.uint8))
        before = item["image"].clone()
        stock = Compose(transform.transforms).set_random_state(3)
        expected = [stock(dict(item)) for _ in range(3)]
        transform.set_random_state(3)
        for wanted in expected:
            found = transform(dict(item))
            assert type(found["image"]) is type(found["label"]) is torch.Tensor and found["case"] == "a"
            for key in ("image", "label"):
                torch.testing.assert_close(found[key], wanted[key].as_tensor(), rtol=0, atol=0)
        assert torch.equal(item["image"], before), "the cached scan"

    def test_an_error_leaves_monais_setting_as_it_was(self, transform):
        assert get_track_meta()
        with pytest.raises(RuntimeError, match="RandForegroundCropd"):
            transform({"case": "a"})
        assert get_track_meta()


def test_margin_reaches_beyond_the_scan_and_the_patch_reaches_its_border():
    """The patch, without its margin, covers the scan's first and last voxel as often as it can."""
    crop = RandForegroundCropd(["image"], [8, 8, 8], probability=0.0, min_zoom=0.8)
    crop.set_random_state(0)
    ramp = torch.arange(1.0, 13.0).view(-1, 1, 1).expand(12, 12, 12)[None]
    firsts = []
    for _ in range(200):
        out = crop({"image": ramp.clone()})["image"]
        assert out.shape == (1, 10, 10, 10)
        firsts.append(int(out[0, 1, 5, 5]))  # first voxel of the central 8
    assert set(firsts) == {1, 2, 3, 4, 5}
    assert all(firsts.count(value) > 20 for value in set(firsts))
