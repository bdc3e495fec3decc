"""Files are written whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mnseg.errors import UserError
from mnseg.files import atomic_save, atomic_write, stamp_of

KILLED = """
import os, signal, sys
sys.modules["torch"] = type(sys)("torch")  # not needed here, and slow to import
from mnseg.files import atomic_write

def write(path):
    path.write_text("half of the new con")
    os.kill(os.getpid(), signal.SIGKILL)

atomic_write(sys.argv[1], write)
"""


def test_writes_and_makes_the_folder(tmp_path: Path):
    path = atomic_write(tmp_path / "a" / "b" / "file.txt", lambda p: p.write_text("new"))
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_killed_in_the_middle_the_old_file_stays(tmp_path: Path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert path.read_text() == "old"


def test_failing_writer_leaves_old_file_and_no_rubbish(tmp_path: Path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        atomic_write(path, write)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_saved_tensors_load_without_unpickling(tmp_path: Path):
    content = {"weights": torch.arange(3.0), "epoch": 3, "nested": {"a": [1, "x", None]}}
    loaded = torch.load(atomic_save(content, tmp_path / "x.pt"), weights_only=True)
    assert torch.equal(loaded.pop("weights"), content.pop("weights"))
    assert loaded == content


def test_a_scan_is_stamped_by_all_of_its_files(tmp_path: Path):
    """A series is its folder's files; a detached header comes with its data; another scan beside it does not count."""
    series, header, single = tmp_path / "series", tmp_path / "a.mhd", tmp_path / "b.nrrd"
    series.mkdir()
    for path in (series / "1.dcm", series / "2.dcm", header, tmp_path / "a.raw", single):
        path.write_bytes(b"0")

    def changed(scan: Path, file: Path) -> bool:
        before = stamp_of(scan)
        file.write_bytes(file.read_bytes() + b"0")
        return stamp_of(scan) != before

    assert changed(series, series / "2.dcm") and changed(header, tmp_path / "a.raw") and changed(single, single)
    assert not changed(header, single) and not changed(single, header)
    with pytest.raises(OSError, match="gone"):
        stamp_of(tmp_path / "gone.nii")


def test_a_full_disk_is_named_as_such(tmp_path, monkeypatch):
    def full(content, path):
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 1457792 vs 1457680")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"model.pt cannot be written \(the disk may be full, \d+ MiB are left\)"):
        atomic_save({}, tmp_path / "model.pt")
    assert list(tmp_path.iterdir()) == []
