"""RunLock: one training a folder, also when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from mnseg.engines.run_lock import RunLock
from mnseg.errors import UserError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no folder locks there")
HOLDER = """
import sys
from mnseg.engines.run_lock import RunLock

lock = RunLock(sys.argv[1])
lock.hold()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def hold():
    """Let another process hold a folder; returns the process."""
    started = []

    def start(folder) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLDER, str(folder)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        for end in (process.stdin, process.stdout):
            end.close()
        process.wait()


@pytest.mark.parametrize("end", [lambda process: process.kill(), lambda process: process.stdin.close()])
def test_a_folder_is_held_until_its_process_ends(tmp_path, hold, end):
    process, lock = hold(tmp_path), RunLock(tmp_path)
    with pytest.raises(UserError, match=f"^{tmp_path} belongs to a training that still runs: wait for it"):
        lock.hold()
    end(process)
    process.wait()
    lock.hold()
    lock.release()


def test_it_is_released_and_leaves_no_file(tmp_path, hold):
    folder = tmp_path / "run" / "models"
    lock = RunLock(folder)
    lock.hold()
    RunLock(folder).hold()
    assert list(folder.iterdir()) == []
    with pytest.raises(AssertionError):
        hold(folder)
    lock.release()
    lock.release()
    assert not folder.exists()
    folder.mkdir()
    lock.hold()
    lock.release()
    assert folder.exists(), "not made for the lock"
    hold(folder)


@pytest.mark.parametrize("ends", ["killed", "released"])
def test_a_worker_that_was_forked_meanwhile_holds_nothing(tmp_path, ends):
    """A DataLoader's workers live on for seconds when their training is killed."""
    program = f"""
import multiprocessing, os, sys, time
from mnseg.engines.run_lock import RunLock

lock = RunLock(sys.argv[1])
lock.hold()
worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
worker.start()
print(worker.pid, flush=True)
lock.release() if {ends == "released"} else None
print("released", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    try:
        assert process.stdout.readline() == "released\n"
        if ends == "killed":
            process.kill()
            process.wait()
        RunLock(tmp_path).hold()
        RunLock(tmp_path).release()
        os.kill(worker, 0)
    finally:
        os.kill(worker, signal.SIGKILL)
        process.kill()
        for end in (process.stdin, process.stdout):
            end.close()
        process.wait()


def test_a_folder_has_one_lock_by_whatever_name(tmp_path, hold):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    RunLock(tmp_path / "folder").hold()
    RunLock(tmp_path / "link").hold()
    RunLock(tmp_path / "link").release()
    hold(tmp_path / "link")
    with pytest.raises(UserError, match="still runs"):
        RunLock(tmp_path / "folder").hold()


def test_where_the_file_system_has_no_locks_nothing_is_held(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr("fcntl.flock", refuse)
    RunLock(tmp_path).hold()
    RunLock(tmp_path).hold()
