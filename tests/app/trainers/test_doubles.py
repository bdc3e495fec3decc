"""One scan under two names trains once: two of them could fall on both sides of the validation."""

from __future__ import annotations

import json
import os

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed (pip install 'mnseg[app]')")

from fakes import FolderStore  # noqa: E402
from lib.trainers.check_main import main  # noqa: E402
from lib.trainers.datalist import gather, known_scans  # noqa: E402

from mnseg.data import content_digests  # noqa: E402
from mnseg.data.content_digests import ContentDigests  # noqa: E402


@pytest.fixture
def store(tmp_path):
    """b, which a person labeled, is the same scan as a, which nobody did, and as d, whose label is our own mask."""
    store = FolderStore(tmp_path / "studies")
    for name in "abcd":
        store.add(name, b"label" if name in "bcd" else None)
    for name in "bd":
        (store.root / "images" / f"{name}.nii.gz").write_bytes((store.root / "images" / "a.nii.gz").read_bytes())
    return store


def test_of_equal_scans_the_one_with_a_persons_label_trains(store, tmp_path):
    pool = gather(store, known_scans(store, "", {"d"}), tmp_path / "labels", 0.0, 0)
    assert pool.left_out == {"a": "it is the same scan as b", "d": "it is the same scan as b"}
    assert [scan.case for scan in (*pool.split.labeled, *pool.split.validation)] == ["b", "c"]
    assert pool.split.unlabeled == pool.split.held_out == ()


def test_without_scans(tmp_path):
    assert gather(FolderStore(tmp_path), [], tmp_path / "labels", 0.2, 0).left_out == {}


def test_equal_voxels_in_unlike_files_are_found_when_a_training_refuses_them(tmp_path):
    rng = np.random.default_rng(0)
    voxels = {name: rng.normal(size=(8, 8, 8)).astype(np.float32) for name in "ac"}
    for name, note in (("a", "first"), ("b", "sent again"), ("c", "another")):
        image = nib.Nifti1Image(voxels["a" if name == "b" else name], np.eye(4))
        image.header["descrip"] = note.encode()
        nib.save(image, tmp_path / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8), np.uint8), np.eye(4)), tmp_path / "label.nii.gz")
    label = str(tmp_path / "label.nii.gz")
    items = {name: {"image": str(tmp_path / f"{name}.nii.gz"), "case": name} for name in "abc"}
    datalist = {"labeled": [{**items["b"], "label": label}], "unlabeled": [items["a"], items["c"]], "validation": []}
    (tmp_path / "datalist.json").write_text(json.dumps(datalist))
    main([str(tmp_path / "datalist.json"), "2", str(tmp_path / "faults.json")])
    assert json.loads((tmp_path / "faults.json").read_text()) == {"a": "it is the same scan as b"}


def test_scans_are_read_once(store, tmp_path, monkeypatch):
    """A folder of large scans must not be read anew for every training."""
    for path in (store.root / "images").iterdir():
        os.utime(path, (1e9, 1e9))  # what was written this moment may change within a tick of the clock
    monkeypatch.setattr(content_digests, "SETTLED_NS", -(10**12))
    read = []
    digest = content_digests._digest
    monkeypatch.setattr(content_digests, "_digest", lambda path: read.append(path) or digest(path))
    for expected in (4, 4):
        digests = ContentDigests(tmp_path)
        gather(store, known_scans(store, "", ()), tmp_path / "labels", 0.0, 0, digests=digests)
        digests.save()
        assert len(read) == expected
