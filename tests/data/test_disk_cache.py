"""The disk cache serves what the transforms would give, never what is out of date, within its bound."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset
from monai.transforms import CastToTyped, Compose, EnsureChannelFirstd, Lambdad, LoadImaged, RandFlipd, Spacingd

from mnseg.data import check_memory, disk_cache, integrity
from mnseg.data.disk_cache import DiskCacheDataset, cached_dataset
from mnseg.data.transforms import ForegroundIndicesd
from mnseg.errors import UserError

KEYS = ("image", "label")


def write(path: Path, seed: int, shape=(8, 8, 6)) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 3, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    return str(path)


@pytest.fixture
def items(tmp_path) -> list[dict[str, Any]]:
    made = []
    for i in range(6):
        made.append({"image": write(tmp_path / f"images/{i}.nii", i), "case": f"c{i}"})
        if i < 2:
            made[-1]["label"] = write(tmp_path / f"labels/{i}.nii", 100 + i)
    return made


def transform(spacing: float = 2.0) -> Compose:
    """Counts the scans that it loads."""
    return Compose(
        [
            LoadImaged(KEYS, allow_missing_keys=True),
            EnsureChannelFirstd(KEYS, allow_missing_keys=True),
            Spacingd(KEYS, (1.0, 1.0, spacing), mode=("bilinear", "nearest"), allow_missing_keys=True),
            CastToTyped(KEYS, dtype=(torch.float32, torch.uint8), allow_missing_keys=True),
            ForegroundIndicesd("label"),
        ]
    )


@pytest.fixture
def loaded(monkeypatch) -> list[str]:
    names: list[str] = []
    original = LoadImaged.__call__

    def count(self, item, *args, **kwargs):
        names.append(item["case"])
        return original(self, item, *args, **kwargs)

    monkeypatch.setattr(LoadImaged, "__call__", count)
    return names


def make(items, tmp_path, gb: float = 1.0, spacing: float = 2.0) -> DiskCacheDataset:
    return cached_dataset(items, transform(spacing), cache_dir=tmp_path / "cache", cache_gb=gb)


def files(tmp_path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (tmp_path / "cache").iterdir()}


def test_equal_to_the_cache_in_memory(items, tmp_path):
    disk, memory = make(items, tmp_path), cached_dataset(items, transform())
    assert isinstance(disk, DiskCacheDataset) and isinstance(memory, CacheDataset)
    assert len(disk) == len(memory) == 6
    for one, other in zip(disk, memory, strict=True):
        assert one.keys() >= {"image", "case"} and ("label" in one) == ("label" in other)
        for key in one.keys() & {"image", "label", "foreground_indices"}:
            assert torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key]))
            assert one[key].dtype == torch.as_tensor(other[key]).dtype
        assert one["case"] == other["case"]
    assert "foreground_indices" in disk[0]


def test_scans_are_loaded_once_also_over_runs(items, tmp_path, loaded):
    make(items, tmp_path)
    first = make(items, tmp_path)
    list(first)
    assert sorted(loaded) == [f"c{i}" for i in range(6)]


def test_a_changed_scan_is_read_again(items, tmp_path, loaded):
    before = [item["image"].clone() for item in make(items, tmp_path)]
    old = os.stat(items[3]["image"])
    write(Path(items[3]["image"]), 77)
    os.utime(items[3]["image"], ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    after = make(items, tmp_path)
    assert loaded[6:] == ["c3"]
    assert [torch.equal(a, b["image"]) for a, b in zip(before, after, strict=True)] == [True] * 3 + [False] + [True] * 2


def test_bytes_count_and_neither_time_nor_place(items, tmp_path, loaded):
    """Other bytes of the same size under the same modification time are prepared anew; a moved data set is not."""
    before = make(items, tmp_path)[3]["image"].clone()
    path, old = Path(items[3]["image"]), os.stat(items[3]["image"])
    write(path, 77)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert (os.stat(path).st_size, os.stat(path).st_mtime_ns) == (old.st_size, old.st_mtime_ns)
    assert not torch.equal(make(items, tmp_path)[3]["image"], before)
    assert loaded[6:] == ["c3"]
    (tmp_path / "images").rename(tmp_path / "moved")
    moved = [{**item, "image": item["image"].replace("images", "moved")} for item in items]
    make(moved, tmp_path)
    assert len(loaded) == 7


def test_another_spacing_is_another_file(items, tmp_path, loaded):
    assert make(items, tmp_path)[0]["image"].shape == (1, 8, 8, 6)
    assert make(items, tmp_path, spacing=1.0)[0]["image"].shape[3] > 6
    assert len(loaded) == 12 and len(files(tmp_path)) == 12


def test_caching_stops_at_the_bound_with_one_line(items, tmp_path, loaded, caplog):
    make(items[:1], tmp_path / "probe")
    limit = 3.5 * max(files(tmp_path / "probe").values())
    loaded.clear()
    dataset = make(items, tmp_path, limit / 1e9)
    count = len(files(tmp_path))
    assert 2 <= count < 6 and sum(files(tmp_path).values()) <= limit
    assert caplog.text.count(f"is full (cache_gb {limit / 1e9:g}): {count} of 6 scans") == 1
    loaded.clear()
    assert len(list(dataset)) == 6
    assert loaded == [f"c{i}" for i in range(count, 6)], "prepared anew each time"
    assert len(files(tmp_path)) == count, "reading writes nothing"


def test_old_files_make_room_before_new_ones_are_left_out(items, tmp_path, monkeypatch):
    make(items, tmp_path)
    for i, name in enumerate(sorted(files(tmp_path))):
        os.utime(tmp_path / "cache" / name, (1000 + i, 1000 + i))
    limit = sum(files(tmp_path).values()) + 1000
    (tmp_path / "cache" / "checks.json").write_text("{}")
    oldest = sorted(name for name in files(tmp_path) if name.endswith(".pt"))[:6]
    other = make(items, tmp_path, limit / 1e9, spacing=1.9)
    left = files(tmp_path)
    assert sum(left.values()) <= limit and "checks.json" in left
    assert sum(path.name in left for path in other.paths) >= 3
    assert oldest[0] not in left


def test_a_damaged_file_is_not_served(items, tmp_path, caplog):
    dataset = make(items, tmp_path)
    whole = dataset[2]["image"].clone()
    dataset.paths[2].write_bytes(b"half")
    assert torch.equal(dataset[2]["image"], whole)
    assert "is damaged" in caplog.text


def test_nothing_is_unpickled(items, tmp_path):
    class Danger:
        def __reduce__(self):
            return (open, (str(tmp_path / "proof"), "w"))

    dataset = make(items, tmp_path)
    torch.save(Danger(), dataset.paths[0])
    assert dataset[0]["image"].shape == (1, 8, 8, 6)
    assert not (tmp_path / "proof").exists()


def test_what_cannot_be_cached_is_said(items, tmp_path):
    with pytest.raises(UserError, match="'load' cannot be told apart .* cache_dir to null"):
        cached_dataset(items, Compose([Lambdad("image", lambda x: x)]), cache_dir=tmp_path / "cache")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cache_dir .*file cannot be written .* another folder"):
        cached_dataset(items, transform(), cache_dir=tmp_path / "file")
    with pytest.raises(UserError, match="missing.nii cannot be read"):
        make([{"image": str(tmp_path / "missing.nii")}], tmp_path)


def test_a_full_disk_is_said_in_words(items, tmp_path, monkeypatch):
    """torch has no word for it."""

    def full(content, path):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 257152 vs 257040")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"cannot be written \(the disk may be full, \d+ MiB .*: lower cache_gb"):
        make(items, tmp_path)
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_checks_are_remembered_until_a_file_changes(items, tmp_path, monkeypatch):
    datalist = {"labeled": items[:2], "unlabeled": items[2:], "validation": []}
    read: list[str] = []
    original = check_memory.check_case

    def count(split, item, *args):
        read.append(item["case"])
        return original(split, item, *args)

    monkeypatch.setattr(check_memory, "check_case", count)

    def check(**options):
        read.clear()
        return integrity.check_datalist(datalist, num_classes=3, jobs=1, cache_dir=tmp_path / "cache", **options)

    first = check()
    assert len(read) == 6
    assert check() == first and read == []
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 6), np.int16), np.diag([1.0, 1.0, 2.0, 1.0])), items[4]["image"])
    os.utime(items[4]["image"], (5, 5))
    assert any("is constant" in str(finding) for finding in check().errors) and read == ["c4"]
    assert check().errors and read == []
    os.unlink(items[5]["image"])
    for _ in range(2):
        assert any("does not exist" in str(finding) for finding in check().errors) and read == ["c5"]
    (tmp_path / "cache" / "checks.json").write_text("no JSON")
    assert check().errors and len(read) == 6
    assert integrity.check_datalist(datalist, num_classes=2, cache_dir=tmp_path / "cache").errors != first.errors


def test_transforms_are_told_apart_by_their_settings():
    """A copy whose equal strings are other objects is the same transform; any other setting is another one."""
    described = disk_cache._describe(transform())
    assert disk_cache._describe(pickle.loads(pickle.dumps(transform()))) == described
    others = [
        transform(1.9),
        Compose(transform().transforms[:-1]),
        Compose([*transform().transforms[:-1], ForegroundIndicesd("label", limit=7)]),
        Compose([*transform().transforms, Lambdad("image", torch.abs)]),
        Compose([*transform().transforms, Lambdad("image", torch.neg)]),
    ]
    assert len({described, *map(disk_cache._describe, others)}) == 6
    with pytest.raises(UserError, match="no random transforms"):
        disk_cache._describe(Compose([*transform().transforms, RandFlipd("image")]))
