"""micro_batch_size auto: as much of a batch at once as the memory holds."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from mnseg.engines import co_trainer
from mnseg.engines.micro_batches import MicroBatches, halve_where_memory_ends
from mnseg.errors import UserError
from mnseg.inferers import AutocastInferer
from mnseg.losses import CoTrainingLoss, PseudoLabelLoss, SupervisedLoss


class Small(nn.Module):
    """A network whose memory holds ``most`` patches at once; ``backward``: it ends there, not on the way there."""

    def __init__(self, most: int, backward: bool = False) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(1, 3, 3, padding=1)
        self.most, self.backward = most, backward
        self.sizes: list[int] = []

    def forward(self, image):
        self.sizes.append(len(image))
        found = self.convolution(image)
        if len(image) > self.most and not self.backward:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if len(image) > self.most and found.requires_grad:
            found.register_hook(lambda _: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")))
        return found


def trained(co_training, size, most=(99, 99), backward=False):
    """Weights and losses of a co-training whose two networks have that much memory."""
    torch.manual_seed(3)
    g, f = (Small(number, backward) for number in most)
    run = co_training(
        stage_1=1, stage_2=3, batch_size=5, mode="fixed", num_unlabeled=3, networks=(g, f), micro_batch_size=size,
        loss=CoTrainingLoss(SupervisedLoss(w_dice=0), PseudoLabelLoss(w_dice=0)), optimizer=torch.optim.SGD,
    )  # fmt: skip
    run.trainer.run()
    return run


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_where_memory_ends_the_same_step_is_done_in_smaller_parts(co_training, caplog, backward):
    """Each network by its own memory: no step is lost, none is done twice."""
    whole = trained(co_training, None)
    caplog.clear()
    parts = trained(co_training, "auto", most=(2, 1), backward=backward)
    for name in ("g", "f"):
        for (key, value), other in zip(
            getattr(whole, name).state_dict().items(), getattr(parts, name).state_dict().values(), strict=True
        ):
            assert torch.allclose(value, other, atol=1e-6), (name, key)
    assert [batch.output.keys() for batch in parts.batches] == [batch.output.keys() for batch in whole.batches]
    for one, other in zip(parts.batches, whole.batches, strict=True):
        assert one.output == pytest.approx(other.output, abs=1e-5)
    assert (parts.trainer.micro_batches["3d"].size, parts.trainer.micro_batches["2d"].size) == (2, 1)
    assert parts.g.sizes[:5] == [5, 3, 2, 2, 1], "found once"
    assert set(parts.g.sizes[5:]) == {2, 1}, "and kept"
    said = [record.getMessage() for record in caplog.records]
    assert len([text for text in said if "patches in the 3D network (micro_batch_size)" in text]) == 2
    assert "fewer than 5 patches in the 2D network (micro_batch_size): now 3 at once" in " ".join(said)


def test_gradients_of_an_attempt_that_failed_halfway_are_dropped(co_training):
    """Memory ends in the second part of a batch, whose first part has its gradients already."""

    class Halfway(Small):
        def forward(self, image):
            found = super().forward(image)
            if self.sizes == [5, 3, 2]:
                raise torch.OutOfMemoryError
            return found

    whole = trained(co_training, None)
    torch.manual_seed(3)
    networks = Halfway(4), Small(99)
    run = co_training(
        stage_1=1, stage_2=3, batch_size=5, mode="fixed", num_unlabeled=3, networks=networks, micro_batch_size="auto",
        loss=CoTrainingLoss(SupervisedLoss(w_dice=0), PseudoLabelLoss(w_dice=0)), optimizer=torch.optim.SGD,
    )  # fmt: skip
    run.trainer.run()
    assert run.g.sizes[:6] == [5, 3, 2, 2, 2, 1]
    assert torch.allclose(run.g.convolution.weight, whole.g.convolution.weight, atol=1e-6)
    assert run.batches[0].output == pytest.approx(whole.batches[0].output, abs=1e-5)


def test_running_statistics_are_not_moved_by_what_failed(co_training):
    class Normed(Small):
        def __init__(self, most: int) -> None:
            super().__init__(most, backward=True)
            self.norm = nn.BatchNorm3d(1)

        def forward(self, image):
            return super().forward(self.norm(image))

    def statistics(size, most):
        torch.manual_seed(3)
        run = co_training(stage_1=1, stage_2=2, batch_size=4, mode="fixed", num_unlabeled=2,
                          networks=(Small(99), Normed(most)), micro_batch_size=size)  # fmt: skip
        run.trainer.run()
        return run.f.norm.state_dict()

    found, expected = statistics("auto", 1), statistics(1, 99)
    assert found["num_batches_tracked"] == expected["num_batches_tracked"] == 4 * (2 + 2)
    assert torch.allclose(found["running_mean"], expected["running_mean"], atol=1e-6)
    assert torch.allclose(found["running_var"], expected["running_var"], atol=1e-6)


def test_a_teacher_alone_may_be_too_large(co_training):
    """In stage 2 a teacher predicts the unlabeled patches alone: fewer than a batch."""
    run = trained(co_training, "auto", most=(99, 99))
    run.g.most = run.f.most = 2
    run.trainer.state.student = "3d"
    image = torch.randn(3, 1, 6, 6, 4)
    found = run.trainer._teach("2d", image)
    assert run.f.sizes[-3:] == [3, 2, 1] and run.trainer.micro_batches["2d"].size == 2
    assert torch.allclose(found, run.f.convolution(image).softmax(1), atol=1e-6)


@pytest.mark.parametrize("words", [
    "GET was unable to find an engine to execute this computation", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", "CUDA error: out of memory",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED.",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
])  # fmt: skip
def test_the_words_of_the_libraries_of_a_gpu_count_as_well(words):
    def compute(size):
        if size > 2:
            raise RuntimeError(words)
        return size

    assert halve_where_memory_ends(compute, 5, "patches") == 2


def test_other_errors_are_raised_at_once():
    tried = []

    def compute(size):
        tried.append(size)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        halve_where_memory_ends(compute, 5, "patches")
    assert tried == [5]


@pytest.mark.parametrize(("size", "most"), [("auto", 0), (None, 2), (3, 2)])
def test_memory_that_holds_no_patch_or_not_what_was_asked_for_ends_the_training(co_training, size, most):
    with pytest.raises(torch.OutOfMemoryError):
        trained(co_training, size, most=(most, most))


def test_processes_that_wait_for_each_other_keep_to_the_whole_batch():
    class Wrapped(nn.parallel.DistributedDataParallel):
        def __init__(self) -> None:
            nn.Module.__init__(self)

    for network, may in ((Wrapped(), False), (nn.Identity(), True)):
        auto, three = (co_trainer._micro_batches(size, "3d", network) for size in ("auto", 3))
        assert (auto.size, auto.may_halve, three.size, three.may_halve) == (None, may, 3, False)


@pytest.mark.parametrize("cycle", [False, True])
def test_what_was_computed_in_vain_is_freed_before_the_next_attempt(monkeypatch, cycle):
    """Also where an error holds itself, and with it the frames that it went through."""
    held: list[weakref.ref] = []
    alive: list[int] = []

    def compute(size):
        alive.append(sum(ref() is not None for ref in held))
        large = torch.zeros(size)
        held.append(weakref.ref(large))
        if size > 2:
            error = torch.OutOfMemoryError()
            error.itself = error if cycle else None
            raise error
        return size

    gc.disable()
    try:
        assert halve_where_memory_ends(compute, 9, "patches") == 2
    finally:
        gc.enable()
    assert len(held) == 4 and alive == [0, 0, 0, 0]


def test_parts_cover_the_batch_once():
    for size in (None, 1, 2, 3, 7):
        for total in (0, 1, 5, 6):
            parts = MicroBatches(size).parts(total)
            assert [i for part in parts for i in range(part.start, part.stop)] == list(range(total))
            assert all(part.stop - part.start <= (size or total) for part in parts)


@pytest.mark.parametrize("size", [0, -1, True, 2.0, "all"])
def test_other_sizes_are_refused(size):
    with pytest.raises(UserError, match="micro_batch_size"):
        MicroBatches(size)


def test_fewer_windows_pass_at_once_where_memory_ends(caplog):
    network = Small(3).eval()
    image = torch.randn(1, 1, 20, 20, 8)
    inferer = AutocastInferer(roi_size=(8, 8, 8), sw_batch_size=8, overlap=0.5)
    with torch.no_grad():
        found = inferer(image, network)
        network.most = 99
        whole = AutocastInferer(roi_size=(8, 8, 8), sw_batch_size=8, overlap=0.5)(image, network)
    assert torch.allclose(found, whole, atol=1e-6)
    assert inferer.sw_batch_size == 2 and network.sizes[:4] == [8, 8, 4, 2]  # the second: the same with scores outside
    assert "windows (sw_batch_size)" in caplog.text and "its scores are kept outside" in caplog.text
    network.most = 0
    with pytest.raises(torch.OutOfMemoryError), torch.no_grad():
        inferer(image, network)
