"""BoxMix: what is pasted, where, and that the pseudo-label goes with it."""

from __future__ import annotations

import pytest
import torch

from mnseg.engines.mixing import BoxMix
from mnseg.errors import UserError

SHAPE = (9, 6, 12)


def batch(b_l: int, b_u: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Patch i has the intensity i everywhere and its label the class i + 1; pseudo-labels are even."""
    image = torch.arange(b_l + b_u).float().reshape(-1, 1, 1, 1, 1).expand(-1, 1, *SHAPE).clone()
    label = (image[:b_l] + 1).to(torch.uint8)
    return image, label, torch.full((b_u, b_l + 1, *SHAPE), 1 / (b_l + 1))


def along(box: torch.Tensor, axis: int) -> list[int]:
    """The positions along an axis at which an (H, W, D) box has voxels."""
    return box.any(dim=tuple(a for a in range(3) if a != axis)).nonzero().flatten().tolist()


@pytest.mark.parametrize("seed", range(8))
def test_voxels_and_targets_come_from_the_same_patch(seed):
    torch.manual_seed(seed)
    image, label, pseudo = batch(3, 4)
    before = image.clone(), pseudo.clone()
    mixed, target = BoxMix(2 / 3)(image, label, pseudo)
    assert torch.equal(image, before[0]) and torch.equal(pseudo, before[1]), "the arguments stay"
    assert torch.equal(mixed[:3], image[:3]), "labeled patches stay whole"
    for j in range(4):
        pasted = mixed[3 + j, 0] != 3 + j
        source = mixed[3 + j, 0][pasted].unique()
        assert len(source) == 1 and source < 3
        assert (target[j, int(source) + 1][pasted] == 1).all()
        assert torch.allclose(target[j].sum(dim=0), torch.ones(SHAPE))
        assert (target[j][:, ~pasted] == 1 / 4).all()
        box = pasted if pasted.sum() == 6 * 4 * 8 else ~pasted
        assert box.sum() == 6 * 4 * 8
        lengths = [len(along(box, axis)) for axis in range(3)]
        assert lengths == [6, 4, 8], "a box of two thirds along every axis"


def test_both_sides_and_all_labeled_patches_are_drawn():
    torch.manual_seed(0)
    image, label, pseudo = batch(2, 40)
    mixed, _ = BoxMix(0.5)(image, label, pseudo)
    pasted = mixed[2:, 0] != image[2:, 0]
    assert len({int(p.sum()) for p in pasted}) == 2
    assert {float(mixed[2 + j, 0][pasted[j]][0]) for j in range(40)} == {0.0, 1.0}


def test_a_box_may_begin_wherever_it_still_fits():
    """A box that never reached the last voxel would leave a rim of patches that is hardly ever mixed."""
    torch.manual_seed(0)
    mixed, _ = BoxMix(0.5)(*batch(1, 100))
    starts = [set(), set(), set()]
    for pasted in mixed[1:, 0] == 0:
        box = pasted if pasted.sum() == 4 * 3 * 6 else ~pasted
        for axis in range(3):
            starts[axis].add(along(box, axis)[0])
    assert starts == [set(range(9 - 4 + 1)), set(range(6 - 3 + 1)), set(range(12 - 6 + 1))]


def test_partial_labels_are_not_mixed_in():
    torch.manual_seed(0)
    image, label, pseudo = batch(2, 20)
    ignored = torch.tensor([[False, True, False], [False, False, False]])
    mixed, _ = BoxMix()(image, label, pseudo, ignored)
    assert not (mixed[2:] == 0).any() and (mixed[2:] == 1).any()
    everything = BoxMix()(image, label, pseudo, torch.ones(2, 3, dtype=torch.bool))
    assert everything[0] is image and everything[1] is pseudo


def test_the_trainer_says_which_labels_are_partial(co_training):
    class Spy(BoxMix):
        def __call__(self, image, label, pseudo, ignored=None):
            seen.append(None if ignored is None else sorted(ignored.any(dim=1).tolist()))
            return super().__call__(image, label, pseudo, ignored)

    seen: list = []
    run = co_training(stage_1=0, stage_2=2, mode="fixed", num_unlabeled=2, mix=Spy())
    run.items[1]["label"].clamp_(max=1)
    run.items[1]["ignored_mask"] = [False, False, True]
    run.trainer.run()
    assert seen == [[False, True]] * 4, "two epochs of two batches, each with both labeled patches"


@pytest.mark.parametrize("share", [0, 1, -0.5, 2])
def test_a_share_that_is_none(share):
    with pytest.raises(UserError, match="mix_share"):
        BoxMix(share)


def test_the_student_learns_from_mixed_patches_and_the_teacher_sees_whole_ones(co_training):
    seen: dict[str, list[torch.Tensor]] = {"taught": [], "learned": []}
    run = co_training(mix=BoxMix(), mode="fixed", num_unlabeled=2)
    teach, update = run.trainer._teach, run.trainer._update

    def spy_teach(name, image):
        seen["taught"].append(image.clone())
        return teach(name, image)

    def spy_update(name, image, label, pseudo, *rest):
        if pseudo is not None:
            seen["learned"].append(image[label.shape[0] :].clone())
            hard = (pseudo.amax(dim=1) == 1).float().mean()
            assert 0.1 < hard < 0.9
        return update(name, image, label, pseudo, *rest)

    run.trainer._teach, run.trainer._update = spy_teach, spy_update
    run.trainer.run()
    assert len(seen["taught"]) == len(seen["learned"]) > 0
    for whole, mixed in zip(seen["taught"], seen["learned"], strict=True):
        assert 0.1 < (whole == mixed).float().mean() < 0.9
