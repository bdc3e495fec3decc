"""rows.py: which command a folder belongs to, and how a training ends with its script."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import ablations
import compare
import knowledge_mining
import pytest
import rows

from mnseg.errors import UserError
from mnseg.handlers.time_limit import STOPPED

BENCHMARKS = Path(rows.__file__).parent
ARGS = Namespace(extra="", threads=1, jobs=1)
TRAIN = [sys.executable, "-c", "import pathlib, sys; pathlib.Path(sys.argv[1]).mkdir(); "
         "pathlib.Path(sys.argv[1], 'model.pt').touch()"]  # fmt: skip
FAIL = [sys.executable, "-c", "print('what is\\rwrong'); exit(1)"]


def test_a_folder_in_which_nothing_was_trained_belongs_to_nobody(tmp_path, capsys):
    assert rows.run_once("mn", FAIL, tmp_path, ARGS) == 1
    assert "exit code 1 after 0 s (wrong)" in capsys.readouterr().out
    assert rows.run_once("mn", [*TRAIN, str(tmp_path / "models")], tmp_path, ARGS) == 0
    record = json.loads((tmp_path / "benchmark.json").read_text())
    assert len(record["attempts"]) == 1 and "running" not in record
    with pytest.raises(UserError, match="another command"):
        rows.run_once("mn", FAIL, tmp_path, ARGS)


def test_what_a_killed_attempt_left_belongs_to_its_command(tmp_path):
    """Its time is not known, so none is told."""
    mine = [*TRAIN, str(tmp_path / "models")]
    (tmp_path / "benchmark.json").write_text(
        json.dumps({"command": mine, "extra": {}, "attempts": [], "running": True})
    )
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "checkpoint.pt").touch()
    with pytest.raises(UserError, match="another command"):
        rows.run_once("mn", FAIL, tmp_path, ARGS)
    assert json.loads((tmp_path / "benchmark.json").read_text())["command"] == mine
    (tmp_path / "models" / "checkpoint.pt").unlink(), (tmp_path / "models").rmdir()
    assert rows.run_once("mn", mine, tmp_path, ARGS) == 0
    record = json.loads((tmp_path / "benchmark.json").read_text())
    assert [attempt["exit_code"] for attempt in record["attempts"]] == [None, 0]
    assert record["cpu_s"] is None


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "benchmark.json").write_text("{")
    with pytest.raises(UserError, match=r"the record .*benchmark.json is not valid JSON"):
        rows.run_once("mn", FAIL, tmp_path, ARGS)


def test_finished_in_its_last_moment_is_finished(tmp_path, capsys):
    wait = [sys.executable, "-c", TRAIN[2] + "; import time; time.sleep(60)", str(tmp_path / "models")]
    args = Namespace(**vars(ARGS), until=time.monotonic() + 3)
    assert rows.run_once("mn", wait, tmp_path, args) == 0
    assert "mn: finished after" in capsys.readouterr().out


def test_a_training_is_told_how_long_it_may_take(tmp_path, capsys):
    """It ends by itself, with a checkpoint, before it is ended; one that comes to none says so."""
    look = "import json, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(json.dumps(sys.argv)); "
    save = "f = pathlib.Path(sys.argv[1]).parent / 'models'; f.mkdir(); (f / 'checkpoint.pt').touch(); "
    for name, code, words in (
        ("saved", look + save + f"sys.exit({STOPPED})", "stopped, goes on next time, after"),
        ("not_saved", look + f"sys.exit({STOPPED})", "stopped before it came to a checkpoint"),
    ):
        folder = tmp_path / name
        command = [sys.executable, "-c", code, str(folder / "argv.json")]
        args = Namespace(**vars(ARGS), until=time.monotonic() + 600)
        assert rows.run_once("mn", command, folder, args, "max_minutes") == 0
        assert words in capsys.readouterr().out
        *_, option, minutes = json.loads((folder / "argv.json").read_text())
        assert option == "--max_minutes" and 9 < float(minutes) <= (600 - rows.LAST_EPOCH) / 60
        assert json.loads((folder / "benchmark.json").read_text())["command"] == command, "the same command goes on"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(("number", "codes"), [(signal.SIGTERM, {143}), (signal.SIGINT, {130, -signal.SIGINT})])
def test_a_script_that_is_ended_ends_its_trainings_and_starts_no_other(tmp_path, number, codes):
    program = f"""
import sys
sys.path.insert(0, {str(BENCHMARKS)!r})
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import rows

child = [sys.executable, "-c",
         "import os, pathlib, time; pathlib.Path('PID').write_text(str(os.getpid())); time.sleep(90)"]
def one(name):
    folder = Path({str(tmp_path)!r}, name)
    return rows.run_once(name, [each.replace("PID", str(folder / "pid")) for each in child], folder,
                         Namespace(extra="", threads=1, jobs=1))
with rows.ending_together(), ThreadPoolExecutor(1) as pool:
    list(pool.map(one, ["first", "second"]))
"""
    script = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL)
    try:
        pid = tmp_path / "first" / "pid"
        deadline = time.monotonic() + 60
        while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        child = int(pid.read_text())
        script.send_signal(number)
        assert script.wait(30) in codes
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
    finally:
        script.kill()
    (attempt,) = json.loads((tmp_path / "first" / "benchmark.json").read_text())["attempts"]
    assert attempt["exit_code"] == -signal.SIGTERM
    assert not (tmp_path / "second" / "train.log").exists()


@pytest.mark.parametrize("script, argv", [
    (ablations, ["--scale", "tiny"]), (compare, ["la", "--data", "x"]), (knowledge_mining, ["--data", "x"]),
])  # fmt: skip
def test_the_comparisons_end_together(script, argv, monkeypatch):
    before, seen = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)], []
    monkeypatch.setattr(script, "quiet", lambda: None)
    numbers = (signal.SIGTERM, signal.SIGINT)
    monkeypatch.setattr(script, "run", lambda _: seen.extend(map(signal.getsignal, numbers)) or 0)
    assert script.main(argv) == 0
    assert all(handler.__qualname__ == "ending_together.<locals>.end" for handler in seen) and len(seen) == 2
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_recipe_is_looked_for_here_and_in_the_repository(tmp_path, monkeypatch):
    ours = "configs/recipes/cpu.json"
    monkeypatch.chdir(tmp_path)
    assert rows.find_recipe(ours) == ours
    (tmp_path / "my.json").write_text("{}")
    assert rows.find_recipe("my.json") == str(tmp_path / "my.json")
    monkeypatch.chdir(rows.ROOT)
    assert rows.find_recipe(ours) == ours
    with pytest.raises(UserError, match="--recipe my.json does not exist"):
        rows.find_recipe("my.json")
