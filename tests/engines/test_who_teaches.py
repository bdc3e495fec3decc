"""Who learns, who teaches, and from what."""

from __future__ import annotations

import copy

import pytest
import torch
from ignite.engine import Events
from torch import nn
from torch.utils.data import DataLoader

from mnseg.data.collate import collate_mixed
from mnseg.data.lrg_sampler import LRGBatchSampler
from mnseg.engines import CoTrainer
from mnseg.errors import UserError
from mnseg.losses import CoTrainingLoss, PseudoLabelLoss
from network_weights import changed, state_of


def test_roles_alternate_and_only_the_student_changes(co_training):
    """Weights and batch-norm statistics of the teacher stay what they were, in every epoch of stage 2."""
    run = co_training()
    seen = []

    @run.trainer.on(Events.EPOCH_STARTED)
    def before(engine):
        engine.before = {"3d": state_of(run.g), "2d": state_of(run.f)}

    @run.trainer.on(Events.EPOCH_COMPLETED)
    def after(engine):
        names = {"3d": changed(run.g, engine.before["3d"]), "2d": changed(run.f, engine.before["2d"])}
        seen.append((engine.state.student, {name for name, values in names.items() if values}))
        for values in names.values():
            assert not values or any("running_mean" in v for v in values), "the student's statistics do move"

    run.trainer.run()
    assert [student for student, _ in seen] == ["both"] * 2 + ["3d", "2d"] * 4
    for student, moved in seen:
        assert moved == ({"3d", "2d"} if student == "both" else {student})


def test_teacher_is_in_eval_mode_without_gradient(co_training):
    run = co_training(mode="fixed", num_unlabeled=2)
    calls = []
    for name, network in (("3d", run.g), ("2d", run.f)):
        network.register_forward_hook(
            lambda module, args, output, name=name: calls.append(
                (run.trainer.state.student, name, module.training, output.requires_grad, len(args[0]))
            )
        )
    run.trainer.run()
    stage_2 = [call[1:] for call in calls if call[0] == "3d"], [call[1:] for call in calls if call[0] == "2d"]
    assert stage_2[0] == [("2d", False, False, 2), ("3d", True, True, 4)] * 8
    assert stage_2[1] == [("3d", False, False, 2), ("2d", True, True, 4)] * 8
    stage_1 = [call[2:] for call in calls if call[0] == "both"]
    assert set(stage_1) == {(True, True, 4)}


def test_teacher_gets_no_gradient(co_training):
    run = co_training(stage_1=0, stage_2=1, mode="fixed", num_unlabeled=3)
    run.trainer.run()
    assert all(p.grad is None for p in run.f.parameters())
    assert all(p.grad is not None for p in run.g.parameters())


def test_pseudo_labels_are_the_teachers_softmax(co_training):
    class Spy(PseudoLabelLoss):
        def forward(self, logits, pseudo_label):
            self.seen = pseudo_label
            return super().forward(logits, pseudo_label)

    spy = Spy()
    run = co_training(
        stage_1=0, stage_2=1, epoch_length=1, mode="fixed", num_unlabeled=3, loss=CoTrainingLoss(unlabeled=spy)
    )
    batch = []
    run.trainer.add_event_handler(Events.ITERATION_STARTED, lambda engine: batch.append(engine.state.batch["image"]))
    run.trainer.run()
    assert torch.allclose(spy.seen, run.f.eval()(batch[0][1:]).softmax(dim=1), atol=1e-6)
    assert not spy.seen.requires_grad


@pytest.mark.parametrize(("stage_2", "student"), [(1, "3d"), (2, "2d")])
def test_joint_teachers_give_the_mean_of_both_networks_and_leave_the_teacher_alone(co_training, stage_2, student):
    class Spy(PseudoLabelLoss):
        def forward(self, logits, pseudo_label):
            self.seen = pseudo_label
            return super().forward(logits, pseudo_label)

    spy = Spy()
    run = co_training(stage_1=0, stage_2=stage_2, epoch_length=1, mode="fixed", num_unlabeled=3,
                      roles="joint_teacher", loss=CoTrainingLoss(unlabeled=spy))  # fmt: skip
    before = {}

    @run.trainer.on(Events.ITERATION_STARTED)
    def keep(engine):
        before.update({name: copy.deepcopy(network).eval() for name, network in (("3d", run.g), ("2d", run.f))})
        before["image"] = engine.state.batch["image"][1:]

    run.trainer.run()
    with torch.no_grad():
        expected = (before["3d"](before["image"]).softmax(1) + before["2d"](before["image"]).softmax(1)) / 2
    assert torch.allclose(spy.seen, expected, atol=1e-6)
    assert not spy.seen.requires_grad
    moved = {"3d": changed(run.g, before["3d"].state_dict()), "2d": changed(run.f, before["2d"].state_dict())}
    assert {name for name, values in moved.items() if values} == {student}


def test_fixed_teacher_leaves_f_as_stage_1_left_it(co_training):
    run = co_training(roles="fixed_teacher")
    kept = {}
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda engine: kept.update(state_of(run.f)))
    run.trainer.run()
    assert not changed(run.f, kept)
    assert {b.student for b in run.batches[4:]} == {"3d"}
    assert max(b.b_u for b in run.batches) == 3


def test_another_teacher_teaches_in_place_of_g(co_training):
    calls = []

    class Teacher(nn.Module):
        def forward(self, x):
            calls.append(self.training)
            return torch.zeros(len(x), 3, *x.shape[2:])

    run = co_training(stage_1=0, stage_2=2, mode="fixed", num_unlabeled=2, teacher_3d=Teacher())
    run.trainer.run()
    assert calls == [False, False], "in the second epoch, where the 2D network learns"


def test_a_mean_teacher_teaches_both_and_g_learns_as_often_as_under_co_training(co_training):
    students = {roles: [] for roles in ("alternate", "mean_teacher")}
    calls = []

    class Teacher(nn.Module):
        def forward(self, x):
            calls.append(len(x))
            return torch.zeros(len(x), 3, *x.shape[2:])

    for roles, seen in students.items():
        options = {"teacher_3d": Teacher()} if roles == "mean_teacher" else {}
        run = co_training(stage_1=1, stage_2=4, mode="fixed", num_unlabeled=2, roles=roles, **options)
        run.trainer.run()
        seen.extend((b.epoch, b.student, b.b_l, b.b_u) for b in run.batches)
    assert students["mean_teacher"] == students["alternate"]
    assert calls == [2] * 8, "two batches in each of the four epochs of stage 2"


def test_a_mean_teacher_without_an_average_is_refused(co_training):
    with pytest.raises(UserError, match="ema_momentum"):
        co_training(roles="mean_teacher")


def test_distillation_teaches_g_alone_and_needs_a_teacher(co_training):
    calls = []

    class Teacher(nn.Module):
        def forward(self, x):
            calls.append((self.training, len(x)))
            return torch.zeros(len(x), 3, *x.shape[2:])

    run = co_training(stage_1=0, stage_2=2, mode="fixed", num_unlabeled=2, roles="distillation", teacher_3d=Teacher())
    before = {"g": state_of(run.g), "f": state_of(run.f)}
    run.trainer.run()
    assert calls == [(False, 2)] * 4, "two batches in each of two epochs"
    assert changed(run.g, before["g"]) and not changed(run.f, before["f"])
    with pytest.raises(UserError, match="distillation.json"):
        co_training(roles="distillation")


class ByCase(nn.Module):
    """A teacher that knows a mask for every image: the truth, or another case's."""

    def __init__(self, images: torch.Tensor, masks: torch.Tensor) -> None:
        super().__init__()
        self.images, self.masks = images, masks
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        which = [int((self.images - image).abs().flatten(1).sum(1).argmin()) for image in x]
        return (self.masks[which] * 2.0 - 1) * torch.tensor([-5.0, 5.0]).view(1, 2, 1, 1, 1) + 0 * self.unused


def taught_by(truth_for: str, cases: int = 12) -> float:
    """Dice on unseen cases of a student that 40 epochs of stage 2 trained with a given teacher.

    The first channel equals the truth in the one labeled case and is noise elsewhere, the second shows the truth
    everywhere: labels alone teach the wrong channel. A fifth of the voxels is foreground, so that another case's mask
    speaks for background.
    """
    generator = torch.Generator().manual_seed(0)
    masks = (torch.rand(cases + 4, 1, 8, 8, 8, generator=generator) < 0.2).float()
    images = torch.randn(cases + 4, 2, 8, 8, 8, generator=generator)
    images[:, 1:] = masks * 2 - 1 + 0.3 * images[:, 1:]
    images[0, :1] = masks[0] * 4 - 2
    known = masks.roll(1, dims=0) if truth_for == "shuffled" else masks
    items = [{"image": image, "case": str(i)} for i, image in enumerate(images[:cases])]
    items[0]["label"] = masks[0].to(torch.uint8)
    return _train_and_score(items, ByCase(images, known), images[cases:], masks[cases:], truth_for != "nobody")


def _train_and_score(items, teacher, images, masks, use_unlabeled) -> float:
    torch.manual_seed(0)
    student = nn.Conv3d(2, 2, 1)
    optimizers = [torch.optim.Adam(n.parameters(), lr=0.05) for n in (student, teacher)]
    sampler = LRGBatchSampler([0], range(1, len(items)), 4, 4)
    sampler.num_unlabeled = 3 if use_unlabeled else 0
    loader = DataLoader(items, batch_sampler=sampler, collate_fn=collate_mixed)
    CoTrainer("cpu", 40, 0, loader, student, teacher, *optimizers, roles="fixed_teacher").run()
    found = student(images).argmax(dim=1, keepdim=True).float().detach()
    return float(2 * (found * masks).sum() / (found.sum() + masks.sum()))


def test_the_truth_as_teacher_helps_and_shuffled_masks_hurt():
    """METHOD.md, section 3, where the outcome is certain."""
    truth, nobody, shuffled = (taught_by(which) for which in ("truth", "nobody", "shuffled"))
    assert truth > 0.95
    assert truth > nobody + 0.1
    assert shuffled < nobody - 0.1
