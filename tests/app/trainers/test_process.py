"""A child process: nice, in a group of its own, paused, stopped, and never longer alive than its server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fakes import until
from lib.trainers.process import Child, ChildError, StoppedError, last_sentence

APP = Path(__file__).parents[3] / "monailabel_app"


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-S", "-E", "-c", code]


def state_of(pid: int) -> str:
    """R, S, T (stopped), Z, or empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_gone(pid: int) -> bool:
    return state_of(pid) in ("", "Z")


class Background:
    """A child that runs in a thread."""

    def __init__(self, command, folder, **more):
        self.pids: list[int] = []
        self.child = Child(command, folder, on_start=self.pids.append, **more)
        self.error = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.child.run()
        except Exception as error:
            self.error = error

    def ready(self) -> int:
        until(lambda: "ready" in self.child.lines)
        return self.pids[0]


def test_it_is_nice_and_leads_a_group_of_its_own(tmp_path):
    child = Child(python("import os; print(os.nice(0), os.getpid() == os.getpgrp())"), tmp_path)
    child.run()
    assert list(child.lines) == [f"{min(os.nice(0) + 10, 19)} True"]
    assert (tmp_path / "log.txt").read_text() == child.lines[0] + "\n"


def test_lines_reach_the_log_the_logger_and_whoever_asks(tmp_path, caplog):
    told = []
    with caplog.at_level("INFO", logger="task_train"):
        Child(python(r"print('one\rtwo\nthree', end='')"), tmp_path, on_line=told.append).run()
    assert told == ["one", "two", "three"]
    assert [record.message for record in caplog.records] == told


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import sys; print('noise'); sys.exit('mnseg: The scan a.nii.gz is damaged: replace it.')",
         "The scan a.nii.gz is damaged: replace it."),
        ("print('mnseg: the datalist has 2 errors:'); print('  one'); print('  two'); raise SystemExit(1)",
         "the datalist has 2 errors: one two"),
        ("def f(): raise RuntimeError('CUDA out of memory.')\nf()", "RuntimeError: CUDA out of memory."),
        ("import sys; sys.exit(3)", "It ended with exit code 3 and said nothing."),
        ("import os; os.kill(os.getpid(), 9)", "It was ended by the system with SIGKILL (perhaps the memory was used "
                                               "up)."),
    ],
)
def test_a_failure_is_one_sentence(tmp_path, code, sentence):
    with pytest.raises(ChildError) as caught:
        Child(python(code), tmp_path).run()
    assert str(caught.value) == sentence


def test_the_sentence_is_no_traceback_and_not_endless():
    lines = ["Traceback (most recent call last):", '  File "x.py", line 1', "ValueError: " + "x" * 2000, "  ^^^^"]
    assert last_sentence(lines).startswith("ValueError: xxx") and len(last_sentence(lines)) == 600
    assert last_sentence([]) == ""


def test_stop_ends_the_whole_group(tmp_path):
    code = ("import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; "
            "time.sleep(60)']); print(p.pid); print('ready'); time.sleep(60)")
    running = Background(python(code), tmp_path)
    pid = running.ready()
    grandchild = int(running.child.lines[0])
    running.child.stop()
    running.thread.join(5)
    assert isinstance(running.error, StoppedError)
    until(lambda: is_gone(pid) and is_gone(grandchild))


def test_one_that_does_not_listen_is_killed(tmp_path):
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready'); time.sleep(60)"
    running = Background(python(code), tmp_path, grace=0.2)
    pid = running.ready()
    begun = time.monotonic()
    running.child.stop()
    assert time.monotonic() - begun < 3
    running.thread.join(5)
    assert isinstance(running.error, StoppedError) and is_gone(pid)


def test_pause_and_resume(tmp_path):
    running = Background(python("import time; print('ready')\nfor _ in range(600): time.sleep(0.1)"), tmp_path)
    pid = running.ready()
    running.child.pause()
    until(lambda: state_of(pid) == "T")
    running.child.resume()
    until(lambda: state_of(pid) in ("S", "R"))
    running.child.stop()


def test_a_paused_one_is_stopped_at_once(tmp_path):
    running = Background(python("import time; print('ready'); time.sleep(60)"), tmp_path)
    pid = running.ready()
    running.child.pause()
    until(lambda: state_of(pid) == "T")
    begun = time.monotonic()
    running.child.stop()
    assert time.monotonic() - begun < 3 and is_gone(pid)


def test_one_that_was_paused_before_it_began_waits(tmp_path):
    child = Child(python("print('ready')"), tmp_path)
    child.pause()
    thread = threading.Thread(target=child.run, daemon=True)
    thread.start()
    time.sleep(0.3)
    assert not child.lines
    child.resume()
    thread.join(5)
    assert list(child.lines) == ["ready"]


def test_stopped_before_it_began(tmp_path):
    child = Child(python("print('ready')"), tmp_path)
    child.stop()
    with pytest.raises(StoppedError):
        child.run()
    assert not child.lines


def test_what_it_leaves_running_does_not_hold_us(tmp_path):
    code = ("import subprocess, sys; p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; "
            "time.sleep(60)']); print(p.pid)")
    begun = time.monotonic()
    child = Child(python(code), tmp_path)
    child.run()
    assert time.monotonic() - begun < 10
    until(lambda: is_gone(int(child.lines[0])))


@pytest.mark.parametrize("paused", [False, True])
def test_it_dies_with_a_killed_server(tmp_path, paused):
    """Also a paused one, which no other signal than a kill would reach."""
    server = f"""
import sys, threading, time
sys.path.insert(0, {str(APP)!r})
from pathlib import Path
from lib.trainers.process import Child
child = Child([sys.executable, "-S", "-c", "import time; print('ready', flush=True); time.sleep(60)"],
              Path({str(tmp_path)!r}), on_start=lambda pid: print(pid, flush=True))
thread = threading.Thread(target=child.run)
thread.start()
while "ready" not in child.lines:
    time.sleep(0.01)
if {paused}:
    child.pause()
print("up", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", server], stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    assert process.stdout.readline() == "up\n"
    assert state_of(pid) == ("T" if paused else "S") or until(lambda: state_of(pid) == "T")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    until(lambda: is_gone(pid))
