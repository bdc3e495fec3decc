"""The 2D student learns from every so many-th slice, the 2D teacher always sees all."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mnseg.errors import UserError
from mnseg.networks.slice_network import SliceNetwork


class Spy(SliceNetwork):
    """Notes which slices passed, by the mode that they passed in."""

    def __init__(self, slice_axis=2):
        super().__init__(nn.Conv2d(3, 3, 3, padding=1), 3, (0.0,) * 3, (1.0,) * 3, slice_axis, min_size=1)
        self.seen: list[tuple[bool, int | None, tuple[int, ...] | None]] = []

    def forward(self, x, positions=None, axis=None):
        self.seen.append((self.training, axis, None if positions is None else tuple(positions.tolist())))
        return super().forward(x, positions, axis)


def test_student_sees_some_slices_and_teacher_all(co_training):
    f = Spy()
    run = co_training(networks=(nn.Conv3d(1, 3, 3, padding=1), f), slice_stride=3, mode="linear")
    run.trainer.run()
    student = [positions for training, _, positions in f.seen if training]
    teacher = [positions for training, _, positions in f.seen if not training]
    assert teacher and all(positions is None for positions in teacher)
    assert set(student) == {(0, 3), (1,), (2,)}  # of 4 slices, from a drawn first one


@pytest.mark.parametrize("stride", [1, 3])
def test_student_sees_one_axis_a_step_and_teacher_all(co_training, stride):
    f = Spy(slice_axis=(2, 0))
    run = co_training(networks=(nn.Conv3d(1, 3, 3, padding=1), f), slice_stride=stride, mode="linear")
    run.trainer.run()
    size = run.trainer.state.batch["image"].shape[2:]
    student = {(axis, positions) for training, axis, positions in f.seen if training}
    assert {axis for axis, _ in student} == {0, 2}
    assert all(positions == tuple(range(positions[0], size[axis], stride)) for axis, positions in student)
    teacher = [(axis, positions) for training, axis, positions in f.seen if not training]
    assert teacher and set(teacher) == {(None, None)}


def test_chosen_slices_get_the_logits_of_the_whole_volume():
    torch.manual_seed(0)
    for axis in (0, 1, 2):
        network = SliceNetwork(
            nn.Conv2d(3, 2, 3, padding=1), 2, (0.0,) * 3, (1.0,) * 3, slice_axis=axis, slice_context=3, min_size=1
        ).eval()
        volume, positions = torch.randn(2, 1, 6, 7, 8), torch.tensor([0, 2, 5])
        expected = network(volume).index_select(2 + axis, positions)
        torch.testing.assert_close(network(volume, positions), expected)


def test_stride_below_one_is_refused(co_training):
    with pytest.raises(UserError, match="slice_stride is 0"):
        co_training(slice_stride=0)


def test_a_second_3d_network_has_no_slices_to_choose_from(co_training):
    run = co_training(networks=(nn.Conv3d(1, 3, 1), nn.Conv3d(1, 3, 1)), slice_stride=3, mode="linear")
    before = run.trainer.networks["2d"].weight.detach().clone()
    run.trainer.run()
    assert not torch.equal(run.trainer.networks["2d"].weight, before)
