"""max_minutes: a training that is lent the computer for a while, again and again, is the one that was never stopped."""

from __future__ import annotations

import pytest
import torch

import short_training
from mnseg.handlers.time_limit import STOPPED
from one_thread import one_thread

_one_thread = pytest.fixture(scope="module", autouse=True)(one_thread)

SHORT = {"stage_1_epochs": 1, "stage_2_epochs": 2, "warmup_epochs": 0}


def test_lent_for_an_epoch_at_a_time(tmp_path):
    data = short_training.write_data(tmp_path / "data")
    lent = short_training.settings(data, tmp_path / "lent", **SHORT, max_minutes=0, checkpoint_interval=100)
    for epoch in (1, 2):
        with pytest.raises(SystemExit) as stopped:
            short_training.train(lent)
        assert stopped.value.code == STOPPED
        assert [line["epoch"] for line in short_training.history(tmp_path / "lent")] == list(range(1, epoch + 1))
        assert not (tmp_path / "lent" / "models" / "model.pt").exists(), "nothing looks finished"
    short_training.train(lent)
    assert (tmp_path / "lent" / "models" / "model.pt").exists()
    # Time that suffices changes nothing.
    short_training.train(short_training.settings(data, tmp_path / "whole", **SHORT, max_minutes=1e6))
    found, expected = (short_training.weights(tmp_path / name) for name in ("lent", "whole"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_command_tells_by_its_exit_code(tmp_path):
    data = short_training.write_data(tmp_path / "data")
    ended = short_training.command(short_training.settings(data, tmp_path / "run", **SHORT, max_minutes=0))
    assert ended.returncode == STOPPED and "Traceback" not in ended.stderr, ended.stderr
    assert "stopped behind epoch 1 of 3, as max_minutes is 0: the same command goes on" in ended.stderr + ended.stdout
    assert "terminating due to" not in ended.stderr + ended.stdout, "it is no error"
    assert (tmp_path / "run" / "models" / "checkpoint.pt").exists()
