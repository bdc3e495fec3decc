"""Who learns, who teaches, from what, and what happens when the numbers break."""

from __future__ import annotations

import copy
from math import cos, floor, pi

import pytest
import torch
from ignite.engine import Events
from torch import nn
from torch.utils.data import DataLoader

from mnseg.data.collate import collate_mixed
from mnseg.data.lrg_sampler import LRGBatchSampler
from mnseg.engines import CoTrainer, NonFiniteLossError
from mnseg.engines.training_state import TrainingState
from mnseg.errors import UserError
from mnseg.handlers import CheckpointHandler
from mnseg.losses import CoTrainingLoss, PseudoLabelLoss, SupervisedLoss


def state_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def changed(network: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


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


@pytest.mark.parametrize("batch_size", [5, 4, 2])
def test_b_u_follows_equation_10_over_a_whole_run(co_training, batch_size):
    """Eq. 10 with the cosine written out, checked on the batches themselves."""
    stage_1, stage_2 = 3, 24
    run = co_training(stage_1=stage_1, stage_2=stage_2, batch_size=batch_size, epoch_length=1)
    run.trainer.run()
    assert [b.epoch for b in run.batches] == list(range(1, stage_1 + stage_2 + 1))
    for batch in run.batches:
        assert batch.b_l + batch.b_u == batch_size
        if batch.epoch <= stage_1:
            assert batch.b_u == 0 and batch.student == "both"
        else:
            progress = (batch.epoch - stage_1 - 1) / stage_2
            expected = floor((1 - cos(pi * progress)) / 2 * batch_size + 1e-9)
            assert batch.b_u == min(expected, batch_size - 1)
    numbers = [b.b_u for b in run.batches]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(batch_size))
    assert run.trainer.state.unlabeled_seen == sum(numbers)


def test_losses_in_the_output_are_those_of_the_student(co_training):
    run = co_training(mode="fixed", num_unlabeled=2)
    run.trainer.run()
    for batch in run.batches:
        expected = {
            "both": {"loss_labeled_3d", "loss_labeled_2d"},
            "3d": {"loss_labeled_3d", "loss_unlabeled_3d"},
            "2d": {"loss_labeled_2d", "loss_unlabeled_2d"},
        }
        assert set(batch.output) == expected[batch.student]
        assert all(isinstance(value, float) and value > 0 for value in batch.output.values())


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


def gradients(co_training, micro_batch_size: int | None, b_u: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    networks = tuple(nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 1)) for _ in range(2))
    run = co_training(
        stage_1=0,
        stage_2=1,
        epoch_length=1,
        batch_size=5,
        mode="fixed",
        num_unlabeled=b_u,
        networks=networks,
        loss=CoTrainingLoss(SupervisedLoss(w_dice=0), PseudoLabelLoss(w_dice=0)),
        micro_batch_size=micro_batch_size,
    )
    run.trainer.run()
    result = {name: p.grad for name, p in run.g.named_parameters()}
    return result | {name: torch.tensor(value) for name, value in run.batches[0].output.items()}


@pytest.mark.parametrize("b_u", [0, 2, 4])
def test_micro_batches_accumulate_the_gradient_of_the_batch(co_training, b_u):
    whole = gradients(co_training, None, b_u)
    assert whole["0.weight"].abs().max() > 1e-4
    for size in (1, 2, 3, 7):
        parts = gradients(co_training, size, b_u)
        assert parts.keys() == whole.keys()
        for name, value in whole.items():
            assert torch.allclose(parts[name], value, atol=1e-6), (size, name)


@pytest.mark.parametrize("size", [None, 1, 2])
def test_undrawn_classes_reach_the_labeled_loss_of_both_networks(co_training, size):
    """Item 1 of the two labeled ones lacks class 2; whatever the micro-batches, its mask stays with its patch."""

    class Spy(SupervisedLoss):
        def forward(self, logits, label, ignored=None):
            seen.extend(zip(label.flatten(1).sum(1).tolist(), ignored.tolist(), strict=True))
            return super().forward(logits, label, ignored)

    seen: list = []
    run = co_training(stage_1=1, stage_2=2, mode="fixed", num_unlabeled=2, micro_batch_size=size,
                      loss=CoTrainingLoss(Spy()))
    run.items[1]["label"].clamp_(max=1)
    run.items[1]["ignored_mask"] = [False, False, True]
    expected = {int(item["label"].sum()): item.get("ignored_mask", [False] * 3) for item in run.items[:2]}
    assert len(expected) == 2
    run.trainer.run()
    # Two labeled patches a batch in stage 2, four in stage 1; an epoch has two batches, stage 1 trains both networks.
    assert len(seen) == 2 * 2 * 4 + 2 * 2 * 2
    assert all(expected[total] == ignored for total, ignored in seen)
    assert any(ignored[2] for _, ignored in seen)


def test_micro_batches_bound_what_passes_at_once(co_training):
    run = co_training(mode="fixed", num_unlabeled=3, micro_batch_size=2)
    sizes = []
    for network in (run.g, run.f):
        network.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    run.trainer.run()
    assert max(sizes) == 2


def test_uniform_batches_without_labels(co_training):
    run = co_training(labeled=1, unlabeled=11, mode="uniform", stage_2=12)
    run.trainer.run()
    stage_2 = [b for b in run.batches if b.student != "both"]
    without = [b for b in stage_2 if b.b_l == 0]
    assert without and len(without) < len(stage_2)
    for batch in without:
        assert set(batch.output) == {f"loss_unlabeled_{batch.student}"}
    assert all(b.b_l == 4 for b in run.batches if b.student == "both"), "stage 1 draws labels alone"
    assert run.trainer.state.unlabeled_seen == sum(b.b_u for b in run.batches)


class Poisoned(nn.Module):
    """A network whose answer, or whose gradient, becomes NaN at the n-th training step."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 3, 1)
        self.step, self.what, self.calls = step, what, 0

    def forward(self, x):
        self.calls += self.training
        logits = self.conv(x)
        if self.calls == self.step and self.training:
            if self.what == "loss":
                return logits * float("nan")
            logits.register_hook(lambda grad: grad * float("nan"))
        return logits


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_broken_step_stops_before_it_does_harm(co_training, tmp_path, what):
    """Step 5 is the first of epoch 3; the checkpoint of epoch 2 stays, the state of the moment is kept beside it."""
    torch.manual_seed(1)
    networks = Poisoned(5, what), nn.Conv3d(1, 3, 1)
    state = TrainingState(tmp_path / "checkpoint.pt", {"g": networks[0], "f": networks[1]}, {})
    run = co_training(networks=networks, handlers=(CheckpointHandler(state, interval=1),))
    kept: dict = {}

    @run.trainer.on(Events.EPOCH_COMPLETED(once=2))
    def keep(engine):
        kept.update(weights=state_of(run.g), file=state.path.read_bytes())

    with pytest.raises(NonFiniteLossError) as caught:
        run.trainer.run()
    message = str(caught.value)
    assert f"3D network's {what} is nan at epoch 3, iteration 5" in message
    cases = message.split("(cases ")[1].split(")")[0].split(", ")
    assert len(cases) == 4 and set(cases) <= {item["case"] for item in run.items}
    assert not changed(run.g, kept["weights"]), "no step was taken"
    assert state.path.read_bytes() == kept["file"]
    stopped = torch.load(tmp_path / "stopped.pt", weights_only=True)
    assert stopped["engine"]["epoch"] == 3
    assert all(torch.isfinite(value).all() for value in stopped["objects"]["g"].values())


def test_an_ordinary_error_is_not_swallowed(co_training, tmp_path):
    """ignite drops an exception to which a handler listens."""
    state = TrainingState(tmp_path / "checkpoint.pt", {}, {})
    run = co_training(handlers=(CheckpointHandler(state, interval=100),))

    @run.trainer.on(Events.ITERATION_COMPLETED(once=3))
    def fail(engine):
        raise ZeroDivisionError("on purpose")

    with pytest.raises(ZeroDivisionError, match="on purpose"):
        run.trainer.run()
    assert list(tmp_path.iterdir()) == []


def test_gradients_are_clipped(co_training):
    """Plain gradient descent with rate 1 moves all weights together by the norm of the gradient."""
    moved = {}
    for limit in (None, 1e-3):
        run = co_training(
            stage_1=1, stage_2=0, epoch_length=1, optimizer=torch.optim.SGD, learning_rate=1.0, max_grad_norm=limit
        )
        before = nn.utils.parameters_to_vector(run.g.parameters()).detach().clone()
        run.trainer.run()
        moved[limit] = float((nn.utils.parameters_to_vector(run.g.parameters()).detach() - before).norm())
    assert moved[None] > 0.01
    assert moved[1e-3] == pytest.approx(1e-3, rel=1e-2)


def test_bfloat16_runs_and_learns_the_same_things(co_training):
    dtypes = set()
    full, mixed = co_training(), co_training(amp_dtype="bfloat16")
    mixed.g.register_forward_hook(lambda module, args, output: dtypes.add(output.dtype))
    full.trainer.run()
    mixed.trainer.run()
    assert dtypes == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in mixed.g.parameters())
    for one, other in zip(full.batches, mixed.batches, strict=True):
        assert other.output == pytest.approx(one.output, rel=0.1)


def test_float16_skips_a_step_that_overflows(co_training):
    run = co_training(amp_dtype="float16", stage_2=2)
    run.trainer.scalers["3d"]._init_scale = 2.0**40  # every gradient overflows until the scaler has backed off
    before = state_of(run.g)
    run.trainer.run()
    assert run.trainer.scalers["3d"].get_scale() < 2.0**40
    assert all(torch.isfinite(value).all() for value in run.g.state_dict().values())
    assert not [n for n in changed(run.g, before) if n.endswith("0.weight")]


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


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"stage_1": 3, "stage_2": -1}, "stage_1_epochs"),
        ({"roles": "both"}, "roles"),
        ({"micro_batch_size": 0}, "micro_batch_size"),
        ({"amp_dtype": "float8"}, "amp_dtype"),
    ],
)
def test_contradicting_settings(co_training, options, key):
    with pytest.raises(UserError, match=f"^{key} is "):
        co_training(**options)


def test_same_seed_same_weights(co_training):
    one, other = co_training(), co_training()
    one.trainer.run()
    torch.rand(17)  # the global generator's state does not matter
    other.trainer.run()
    assert not changed(one.g, copy.deepcopy(other.g.state_dict()))
    assert not changed(one.f, copy.deepcopy(other.f.state_dict()))
