"""A training step waits for the device once: on a GPU each look at a value stops the queue of kernels."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mnseg.engines import co_trainer, soundness


class Looks(TorchDispatchMode):
    """Counts single values that are brought to the host: ``float(x)``, ``if x``, ``x.item()``."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("micro_batch_size", [None, 1])
def test_one_look_at_a_step(co_training, monkeypatch, micro_batch_size):
    fetched = []
    monkeypatch.setattr(co_trainer, "fetch", lambda values: fetched.append(values) or soundness.fetch(values))
    # Plain gradient descent: AdamW reads its step counters, which lie on the host.
    run = co_training(optimizer=torch.optim.SGD, max_grad_norm=1.0, micro_batch_size=micro_batch_size)
    steps = {"both": 2, "3d": 1, "2d": 1}
    looks = {}
    inner = run.trainer._iteration

    def counted(engine, batch):
        fetched.clear()
        with Looks() as mode:
            output = inner(engine, batch)
        looks.setdefault(engine.state.student, set()).add((mode.number, len(fetched)))
        return output

    run.trainer._process_function = counted
    run.trainer.run()
    assert looks == {student: {(0, number)} for student, number in steps.items()}


def test_the_counter_sees_a_look():
    with Looks() as mode:
        float(torch.ones(()))
    assert mode.number == 1
