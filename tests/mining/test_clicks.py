"""Clicks become the mask of one structure: any orientation of the file, an end where the structure ends."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy import ndimage

from mnseg.errors import UserError
from mnseg.mining import build_promptable
from mnseg.mining.clicks import Clicks, segment_clicks

SHAPE = (40, 44, 24)
NOWHERE = np.empty((0, 3), int)
AFFINE = np.diag([1.0, 1.0, 3.0, 1.0])
LA = Path(__file__).resolve().parents[3] / "shared" / "data" / "la"


def ball(center, radii):
    """With flat poles: a last slice of one pixel overlaps too little with the one before, and is left out."""
    grid = np.moveaxis(np.indices(SHAPE), 0, -1)
    return (((grid - center) / radii) ** [2, 2, 6]).sum(-1) <= 0.99


ONE, OTHER = ball((14, 20, 11), (8, 10, 6)), ball((30, 20, 16), (4, 6, 5))


class Threshold:
    """A promptable model that is never wrong: the bright pieces that hold a positive point and no negative one."""

    identity = "threshold"

    def __init__(self):
        self.asked = []

    def embed(self, image):
        return {}

    def segment(self, image, embedding, prompts):
        self.asked += [(image, prompt) for prompt in prompts]
        return [self._segment(image > 100, prompt) for prompt in prompts]

    def _segment(self, bright, prompt):
        pieces, _ = ndimage.label(bright, structure=np.ones((3, 3)))
        places = pieces[tuple(np.rint(prompt.points).astype(int).T)]
        wanted = set(places[prompt.point_labels == 1]) - set(places[prompt.point_labels == 0]) - {0}
        return np.isin(pieces, list(wanted))[None], np.array([0.9])


def volume(*structures):
    return np.where(np.any(structures, axis=0), 200.0, 10.0).astype(np.float32)


def test_one_click_gives_the_whole_structure_and_no_other():
    mask = segment_clicks(Threshold(), volume(ONE, OTHER), AFFINE, Clicks(np.array([[14, 20, 11]])))
    np.testing.assert_array_equal(mask, ONE)


@pytest.mark.parametrize("code", ["RAS", "LPS", "PIL", "SRA", "ASL"])
def test_the_orientation_of_the_file_does_not_matter(code):
    turn = ornt_transform(io_orientation(AFFINE), axcodes2ornt(code))
    turned = apply_orientation(volume(ONE, OTHER), turn)
    affine = AFFINE @ inv_ornt_aff(turn, SHAPE)
    truth = apply_orientation(ONE, turn)
    click = np.rint(np.linalg.inv(affine) @ AFFINE @ [14, 20, 11, 1])[:3].astype(int)
    model = Threshold()
    np.testing.assert_array_equal(segment_clicks(model, turned, affine, Clicks(click[None])), truth)
    # The thickest axis is the patient's third in all of them; rows go from front to back, columns from right to left.
    image, prompt = model.asked[0]
    assert image.shape == (SHAPE[1], SHAPE[0])
    np.testing.assert_array_equal(prompt.points, [[SHAPE[1] - 1 - 20, SHAPE[0] - 1 - 14]])
    assert prompt.box is None and prompt.point_labels.tolist() == [1]


def test_a_click_outside_keeps_what_touches_away():
    touching = ONE | ball((26, 20, 11), (5, 5, 5))
    scan = volume(touching)
    scan[22, 16:25, :] = 10  # a membrane
    far = Clicks(np.array([[14, 20, 11], [27, 20, 11]]))
    both = segment_clicks(Threshold(), scan, AFFINE, far)
    assert both[27, 20, 11]
    one = segment_clicks(Threshold(), scan, AFFINE, Clicks(far.foreground[:1], far.foreground[1:]))
    assert one[14, 20, 11] and not one[27, 20, 11]


def test_nothing_leaves_the_box():
    box = np.array([[5, 25], [8, 30], [9, 13]])
    mask = segment_clicks(Threshold(), volume(ONE, OTHER), AFFINE, Clicks(np.array([[14, 20, 11]]), box=box))
    inside = np.zeros(SHAPE, bool)
    inside[5:26, 8:31, 9:14] = True
    np.testing.assert_array_equal(mask, ONE & inside)


def test_a_box_alone_is_enough():
    box = np.array([[5, 23], [9, 31], [4, 18]])
    model = Threshold()
    mask = segment_clicks(model, volume(ONE, OTHER), AFFINE, Clicks(NOWHERE, box=box))
    np.testing.assert_array_equal(mask, ONE)
    # Row and column as a radiologist sees them, half open.
    assert model.asked[0][1].box == (44 - 32, 40 - 24, 44 - 9, 40 - 5)


def test_a_box_and_a_point_outside_the_structure():
    """Draw the box, mark what does not belong: no point inside is needed, also where the mark lies in the middle."""
    box = np.array([[5, 23], [9, 31], [4, 18]])
    for model in (Threshold(), build_promptable("random-walker")):
        for point in ([6, 10, 11], [14, 20, 11]):
            mask = segment_clicks(model, volume(ONE), AFFINE, Clicks(NOWHERE, np.array([point]), box))
            assert not mask[tuple(point)], point
    one = Clicks(NOWHERE, np.array([[14, 20, 11]]), np.array([[14, 14], [20, 20], [11, 11]]))
    assert not segment_clicks(build_promptable("random-walker"), volume(ONE), AFFINE, one).any()


def test_a_box_of_one_voxel():
    box = np.array([[14, 14], [20, 20], [11, 11]])
    for clicks in (Clicks(NOWHERE, box=box), Clicks(np.array([[14, 20, 11]]), box=box)):
        assert segment_clicks(build_promptable("random-walker"), volume(ONE), AFFINE, clicks).sum() <= 1


def test_a_slice_of_another_brightness_ends_the_structure():
    scan = volume(ONE)
    scan[:, :, 14:] = np.where(ONE[:, :, 14:], 140.0, 10.0)
    mask = segment_clicks(Threshold(), scan, AFFINE, Clicks(np.array([[14, 20, 11]])))
    np.testing.assert_array_equal(mask[:, :, :14], ONE[:, :, :14])
    assert not mask[:, :, 14:].any()


def test_between_two_clicked_slices_each_takes_half():
    """A model that loses the structure after two slices reaches it from both ends."""

    class Short(Threshold):
        def _segment(self, bright, prompt):
            masks, quality = super()._segment(bright, prompt)
            return masks, quality * (len(self.asked) % 3 != 0)

    scan = volume(ONE)
    clicks = Clicks(np.array([[14, 20, 8], [14, 20, 14]]))
    assert segment_clicks(Short(), scan, AFFINE, clicks).any((0, 1))[[8, 14]].all()
    np.testing.assert_array_equal(segment_clicks(Threshold(), scan, AFFINE, clicks), ONE)


@pytest.mark.parametrize(("clicks", "sentence"), [
    (Clicks(NOWHERE), "at least one point inside"),
    (Clicks(np.array([[14, 20, 24]])), r"\[14, 20, 24\] lies outside the scan of 40x44x24 voxels"),
    (Clicks(np.array([[1, 1, 1]]), np.array([[0, -1, 0]])), r"\[0, -1, 0\] lies outside"),
    (Clicks(np.array([[1, 1, 1]]), box=np.array([[0, 5], [0, 50], [0, 5]])), "lies outside"),
    (Clicks(np.array([[1, 2, 3]]), box=np.array([[0, 5], [0, 5], [0, 2]])),
     r"\[1, 2, 3\] inside the structure lies outside the box"),
    (Clicks(np.array([[1, 2, 3]]), np.array([[1, 2, 3]])), r"\[1, 2, 3\] is both inside and outside"),
])
def test_clicks_that_cannot_be_meant(clicks, sentence):
    with pytest.raises(UserError, match=sentence):
        segment_clicks(Threshold(), volume(ONE), AFFINE, clicks)


def test_the_random_walker_finds_a_noisy_structure_from_one_click():
    scan = volume(ONE, OTHER) + np.random.default_rng(0).normal(0, 20, SHAPE).astype(np.float32)
    mask = segment_clicks(build_promptable("random-walker"), scan, AFFINE, Clicks(np.array([[14, 20, 11]])))
    assert 2 * (mask & ONE).sum() / (mask.sum() + ONE.sum()) > 0.9
    assert not (mask & OTHER).any()


@pytest.mark.skipif(not LA.is_dir(), reason=f"{LA} is not there")
def test_the_random_walker_in_a_box_on_real_left_atria():
    dice = []
    for case in (LA / "train.list").read_text().split()[:2]:
        image = nib.load(LA / "images" / f"{case}.nii.gz")
        truth = nib.load(LA / "labels" / f"{case}.nii.gz").get_fdata() > 0.5
        where = np.argwhere(truth)
        box = np.stack([where.min(0), where.max(0)], axis=1)
        voxels, model = image.get_fdata(dtype=np.float32), build_promptable("random-walker")
        mask = segment_clicks(model, voxels, image.affine, Clicks(NOWHERE, box=box))
        dice.append(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
    assert min(dice) > 0.5, dice
