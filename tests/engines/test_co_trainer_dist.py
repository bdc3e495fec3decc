"""Two processes train as one process with the joint batch does, and go on after a stop."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Events
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from mnseg.data.collate import collate_mixed
from mnseg.data.lrg_sampler import LRGBatchSampler
from mnseg.distributed import num_processes, rank
from mnseg.engines import CoTrainer
from mnseg.engines.soundness import NonFiniteLossError
from mnseg.engines.training_state import TrainingState
from mnseg.handlers import CheckpointHandler, EpochSeedHandler, LRGSamplingHandler, ResumeHandler, TwoStageLRHandler
from two_processes import run_both, run_to_the_end

LABELED, UNLABELED, STAGE_1, STAGE_2, EPOCH_LENGTH = 5, 9, 2, 6, 2


def plain_network() -> nn.Module:
    """Nothing that depends on the other items of a batch or on chance."""
    norm = nn.InstanceNorm3d(4, affine=True)
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), norm, nn.ReLU(), nn.Conv3d(4, 3, 1))


def noisy_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.Dropout3d(0.2), nn.Conv3d(4, 3, 1)
    )


def make_run(batch_size: int, network=plain_network, mode: str = "fixed", num_unlabeled: int = 0, **options):
    torch.manual_seed(1)
    g, f = network(), network()
    generator = torch.Generator().manual_seed(0)
    items = []
    for i in range(LABELED + UNLABELED):
        image = torch.randn(1, 6, 6, 4, generator=generator)
        label = {"label": (image > -0.4).to(torch.uint8) + (image > 0.4).to(torch.uint8)} if i < LABELED else {}
        items.append({"image": image, "case": f"case_{i}", **label})
    indices = range(LABELED), range(LABELED, len(items))
    sampler = LRGBatchSampler(*indices, batch_size, EPOCH_LENGTH, rank=rank(), world_size=num_processes())
    optimizers = [torch.optim.AdamW(n.parameters(), lr=0.01, eps=1e-3) for n in (g, f)]
    wrap = DistributedDataParallel if num_processes() > 1 else lambda n: n
    seen = []
    trainer = CoTrainer(
        "cpu", STAGE_1 + STAGE_2, STAGE_1, DataLoader(items, batch_sampler=sampler, collate_fn=collate_mixed),
        wrap(g), wrap(f), *optimizers,
        train_handlers=[
            EpochSeedHandler(0, items, sampler),
            TwoStageLRHandler(optimizers, STAGE_1, STAGE_2),
            LRGSamplingHandler(sampler, *optimizers, STAGE_2, mode=mode, num_unlabeled=num_unlabeled),
        ],
        **options,
    )  # fmt: skip

    @trainer.on(Events.ITERATION_COMPLETED)
    def note(engine) -> None:
        batch = engine.state.batch
        seen.append((batch["case"], len(batch["label"]), dict(engine.state.output)))

    return SimpleNamespace(trainer=trainer, g=g, f=f, optimizers=optimizers, seen=seen, items=items)


def weights(run) -> list[np.ndarray]:
    return [value.detach().numpy().copy() for net in (run.g, run.f) for value in net.state_dict().values()]


def train(process: int, *args, **options) -> dict:
    run = make_run(*args, **options)
    run.trainer.run()
    return {"weights": weights(run), "seen": run.seen, "unlabeled_seen": run.trainer.state.unlabeled_seen}


CASES = {
    "fixed": {"num_unlabeled": 1},
    "labels alone": {"num_unlabeled": 0, "max_grad_norm": 0.1},
    "uniform": {"mode": "uniform"},
}


def train_all(process: int) -> list[dict]:
    return [train(process, 3, **options) for options in CASES.values()] + [train(process, 3, micro_batch_size=1)]


@pytest.fixture(scope="module")
def both() -> list[list[dict]]:
    return run_both(train_all)


@pytest.mark.parametrize("number", range(3), ids=list(CASES))
def test_equal_to_one_process_with_the_joint_batch(both, number):
    options = dict(list(CASES.values())[number])
    options["num_unlabeled"] = 2 * options.get("num_unlabeled", 0)
    alone = train(0, 6, **options)
    first, second = both[0][number], both[1][number]
    assert len(alone["seen"]) == len(first["seen"]) == (STAGE_1 + STAGE_2) * EPOCH_LENGTH
    for one, a, b in zip(alone["seen"], first["seen"], second["seen"], strict=True):
        assert sorted(one[0]) == sorted(a[0] + b[0]), "the parts make the joint batch"
        assert one[1] == a[1] + b[1]
        assert a[2] == b[2] and a[2] == pytest.approx(one[2], rel=1e-4)
    assert alone["unlabeled_seen"] == first["unlabeled_seen"] == second["unlabeled_seen"]
    for one, a, b in zip(alone["weights"], first["weights"], second["weights"], strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, one, rtol=1e-3, atol=1e-5)
    start = weights(make_run(3))
    assert all(np.abs(a - s).max() > 1e-3 for a, s in zip(first["weights"][::2], start[::2], strict=True))


def test_same_numbers_and_disjoint_samples(both):
    for a, b in zip(both[0][0]["seen"], both[1][0]["seen"], strict=True):
        assert a[1] == b[1] and len(a[0]) == len(b[0]) == 3
        assert len(set(a[0]) | set(b[0])) == 6 or a[1] == 3  # 2 x 3 labeled ones of 5: one repetition
    for a, b in zip(both[0][1]["seen"], both[1][1]["seen"], strict=True):
        assert len(set(a[0] + b[0])) == LABELED, "no more repetitions than there must be"


def test_parts_of_a_batch_exchange_their_gradients_once(both):
    for a, b in zip(both[0][3]["weights"], both[1][3]["weights"], strict=True):
        np.testing.assert_array_equal(a, b)
    assert both[0][3]["seen"][0][2]["loss_labeled_3d"] == both[1][3]["seen"][0][2]["loss_labeled_3d"]


def start(folder: Path, **options):
    run = make_run(4, noisy_network, "learning_rate", **options)
    objects = {"network": run.g, "network_2d": run.f, "optimizer": run.optimizers[0], "optimizer_2d": run.optimizers[1]}
    state = TrainingState(folder / "checkpoint.pt", objects, {})
    ResumeHandler(state).attach(run.trainer)
    if rank() == 0:
        CheckpointHandler(state, interval=3).attach(run.trainer)
    return run


def stop_and_continue(process: int, folder: Path) -> list[list[np.ndarray]]:
    unbroken = start(folder / "unbroken")
    unbroken.trainer.run()
    broken = start(folder / "broken")

    @broken.trainer.on(Events.ITERATION_COMPLETED(once=13))
    def fail(engine):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken.trainer.run()
    continued = start(folder / "broken")
    continued.trainer.run()
    assert len(continued.seen) == 4, "epochs 7 and 8"
    return [weights(unbroken), weights(continued)]


def test_stopped_and_continued(tmp_path):
    """Batch norm and dropout in both networks: statistics and random numbers differ between the processes."""
    first, second = run_both(stop_and_continue, tmp_path)
    for whole_0, parts_0, whole_1, parts_1 in zip(*first, *second, strict=True):
        np.testing.assert_array_equal(whole_0, parts_0)
        np.testing.assert_array_equal(whole_1, parts_1)
        np.testing.assert_array_equal(whole_0, whole_1)


def die(process: int, folder: Path) -> None:
    run = start(folder)

    @run.trainer.on(Events.ITERATION_COMPLETED(once=13))
    def kill(engine):
        if process == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    run.trainer.run()


def whole_run(process: int, folder: Path) -> list[np.ndarray]:
    run = start(folder)
    run.trainer.run()
    return [*weights(run), np.array(len(run.seen))]


def test_killed_and_continued(tmp_path):
    """SIGKILL of one process, as by a scheduler or for want of memory: the other ends, and both go on as if whole."""
    codes = run_to_the_end(die, tmp_path / "broken")
    assert codes[1] == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "broken").iterdir()] == ["checkpoint.pt"]
    whole, _ = run_both(whole_run, tmp_path / "whole")
    for parts in run_both(whole_run, tmp_path / "broken"):
        assert parts[-1] == 4, "epochs 7 and 8"
        for one, other in zip(parts[:-1], whole[:-1], strict=True):
            np.testing.assert_array_equal(one, other)


def first_part(process: int, folder: Path) -> None:
    run = start(folder)
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=6), lambda engine: engine.terminate())
    run.trainer.run()


def test_one_process_continues_what_two_began(tmp_path, caplog):
    run_both(first_part, tmp_path)
    run = start(tmp_path)
    run.trainer.run()
    assert run.trainer.state.epoch == STAGE_1 + STAGE_2 and len(run.seen) == 4
    assert "trained by 2 process(es), now by 1" in caplog.text


def spoil(process: int) -> tuple[str, str, bool]:
    run = make_run(3)
    before = weights(run)
    case = 0
    if process == 1:  # what the other process must hear of
        case = next(iter(run.trainer.data_loader.batch_sampler))[0]
        run.items[case]["image"].fill_(float("nan"))
    with pytest.raises(NonFiniteLossError) as caught:
        run.trainer.run()
    same = all(np.isfinite(a).all() for a in weights(run)) and len(before) > 0
    return str(caught.value), f"case_{case}", same


def test_an_infinite_loss_in_one_process_ends_both():
    (first, _, sound_0), (second, case, sound_1) = run_both(spoil)
    assert first == second and f"{case}" in first and "iteration" in first
    assert sound_0 and sound_1, "the weights stay finite"
