"""How several processes end: torchrun with a script that needs torch alone, so that it starts quickly."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from mnseg import distributed
from mnseg.errors import UserError

SCRIPT = """
import sys
from mnseg.distributed import gather, rank, start_process_group
from mnseg.errors import UserError, show_user_errors_plainly
show_user_errors_plainly()
start_process_group("cpu")
if sys.argv[1] == "both" or rank() == 1:
    raise UserError("scan.nii.gz is broken: look at it.")
gather(None)
"""


@pytest.mark.parametrize("failing", ["one", "both"])
def test_an_error_ends_all_and_is_said_once(tmp_path, failing):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*command, str(tmp_path / "script.py"), failing], capture_output=True, text=True, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert (done.stdout + done.stderr).count("scan.nii.gz is broken: look at it.") == 1
    assert "mnseg: scan.nii.gz" in done.stderr


def test_one_process_needs_nothing_of_it():
    assert (distributed.rank(), distributed.num_processes(), distributed.gather("a")) == (0, 1, ["a"])
    assert distributed.from_main_process(sorted, [2, 1], reverse=True) == [2, 1]
    network = nn.Linear(1, 1)
    assert distributed.unwrap(network) is network
    distributed.share_buffers([network])
    assert distributed.is_local_main() and distributed.handlers_of_this_process([1, 2]) == [1, 2]


def test_started_the_wrong_way(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    distributed.refuse_lone_processes()
    with pytest.raises(UserError, match="torchrun"):
        distributed.start_process_group("cpu")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="multi_gpu_train.json"):
        distributed.refuse_lone_processes()


def test_every_process_has_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed.local_device() == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="--nproc_per_node=2"):
        distributed.local_device()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert distributed.local_device() == torch.device("cpu")
