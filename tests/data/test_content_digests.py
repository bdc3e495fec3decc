"""A digest changes with the bytes and with nothing else, and is computed once."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from mnseg.data import content_digests
from mnseg.data.content_digests import ContentDigests


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """Names of the files that are read."""
    names: list[str] = []
    original = hashlib.file_digest

    def count(file, *args):
        names.append(Path(file.name).name)
        return original(file, *args)

    monkeypatch.setattr(content_digests.hashlib, "file_digest", count)
    return names


@pytest.fixture
def settled(monkeypatch) -> None:
    """As if the files had been written long ago."""
    monkeypatch.setattr(content_digests, "SETTLED_NS", -3600 * 10**9)


@pytest.fixture
def scan(tmp_path) -> Path:
    path = tmp_path / "scan.nii"
    path.write_bytes(b"voxels")
    return path


def digest_at_a_new_start(tmp_path, path) -> str:
    digests = ContentDigests(tmp_path / "cache")
    digest = digests.of(path)
    digests.save()
    return digest


def test_an_unchanged_file_is_read_once(tmp_path, scan, hashed, settled):
    first = digest_at_a_new_start(tmp_path, scan)
    assert digest_at_a_new_start(tmp_path, scan) == first
    assert hashed == ["scan.nii"]


@pytest.mark.parametrize(("suffix", "line"), [
    (".mhd", "ElementDataFile = voxels_a.raw"), (".mhd", "ElementDataFile = LIST\nvoxels_a.raw"),
    (".mhd", "ElementDataFile = voxels_%c.raw 1 1 1"), (".nhdr", "data file: raw/voxels_a.raw"),
])  # fmt: skip
def test_a_header_counts_with_the_voxels_that_it_names(tmp_path, suffix, line):
    header = tmp_path / f"scan{suffix}"
    header.write_text(f"NDims = 3\n{line}\n")
    voxels = tmp_path / ("raw" if "raw/" in line else "") / "voxels_a.raw"
    voxels.parent.mkdir(exist_ok=True)
    voxels.write_bytes(b"voxels")
    first = ContentDigests(tmp_path / "cache").of(header)
    voxels.write_bytes(b"VOXELS")
    assert ContentDigests(tmp_path / "cache").of(header) != first


def test_the_same_size_and_modification_time_with_other_bytes(tmp_path, scan, settled):
    before, first = scan.stat(), digest_at_a_new_start(tmp_path, scan)
    time.sleep(0.02)  # a tick of the file system's clock
    scan.write_bytes(b"VOXELS")
    os.utime(scan, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = scan.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    assert digest_at_a_new_start(tmp_path, scan) != first


def test_a_touched_copied_or_moved_file_keeps_its_digest(tmp_path, scan, settled):
    first = digest_at_a_new_start(tmp_path, scan)
    os.utime(scan, (5, 5))
    assert digest_at_a_new_start(tmp_path, scan) == first
    assert digest_at_a_new_start(tmp_path, scan.rename(tmp_path / "other.nii")) == first


def test_a_file_that_was_just_written_is_read_again(tmp_path, scan, hashed):
    for _ in range(2):
        digest_at_a_new_start(tmp_path, scan)
    assert hashed == ["scan.nii"] * 2


def test_all_files_of_a_series_and_of_a_header_count(tmp_path, settled):
    (tmp_path / "series").mkdir()
    for name in ("a.dcm", "b.dcm"):
        (tmp_path / "series" / name).write_text(name)
    (tmp_path / "a.mhd").write_text("ElementDataFile = a.raw")
    (tmp_path / "a.raw").write_text("voxels")
    for scan, part in (("series", "series/b.dcm"), ("a.mhd", "a.raw")):
        first = digest_at_a_new_start(tmp_path, tmp_path / scan)
        (tmp_path / part).write_text("other")
        assert digest_at_a_new_start(tmp_path, tmp_path / scan) != first


def test_two_runs_keep_each_others_entries(tmp_path, scan, hashed, settled):
    other = tmp_path / "other.nii"
    other.write_bytes(b"others")
    one, two = (ContentDigests(tmp_path / "cache") for _ in range(2))
    one.of(scan), two.of(other)
    one.save(), two.save()
    third = ContentDigests(tmp_path / "cache")
    third.of(scan), third.of(other)
    assert len(hashed) == 2
    assert not list((tmp_path / "cache").glob(".*"))


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"a": 1}', '{"a": [1]}', json.dumps({"a": ["b", "c", "d"]})])
def test_a_damaged_memory_is_no_memory(tmp_path, scan, text, caplog):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "digests.json").write_text(text)
    assert digest_at_a_new_start(tmp_path, scan)
    assert "cannot be read" in caplog.text


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii")
    with pytest.raises(OSError, match="no regular file"):
        ContentDigests(tmp_path).of(tmp_path / "pipe.nii")
