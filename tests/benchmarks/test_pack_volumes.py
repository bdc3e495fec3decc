"""pack_volumes.py: what was packed comes back voxel for voxel."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pack_volumes import decode, encode, main

from mnseg.data.datalist import SPLITS, load_datalist
from mnseg.data.phantom import write_phantom_dataset

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "la"
TYPES = [np.uint8, np.int8, np.uint16, np.int16, np.int32]


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(TYPES).flatmap(lambda kind: arrays(kind, array_shapes(min_dims=3, max_dims=3, max_side=7))))
def test_any_integers_come_back(voxels):
    content, head = encode(voxels)
    found = decode(content, json.loads(json.dumps(head)))
    assert found.dtype == voxels.dtype
    np.testing.assert_array_equal(found, voxels)


def test_a_datalist_travels(tmp_path, capsys):
    path = write_phantom_dataset(tmp_path / "data", 1, 2, 1, 1, size=16)
    integers(path)
    assert main(["pack", str(path), str(tmp_path / "packed.tar")]) == 0
    assert main(["unpack", str(tmp_path / "packed.tar"), str(tmp_path / "there")]) == 0
    before, after = load_datalist(path), load_datalist(tmp_path / "there" / "datalist.json")
    for split in SPLITS:
        for old, new in zip(before[split], after[split], strict=True):
            assert old["case"] == new["case"] and old.keys() == new.keys()
            for key in {"image", "label", "hidden_label"} & old.keys():
                a, b = nib.load(old[key]), nib.load(new[key])
                np.testing.assert_array_equal(np.asarray(a.dataobj), np.asarray(b.dataobj))
                np.testing.assert_allclose(a.affine, b.affine)
    with pytest.raises(SystemExit):
        main(["pack", str(path), str(tmp_path / "small.tar"), "--limit-mib", "0.001"])
    assert "MiB, more than 0.001" in capsys.readouterr().err and not (tmp_path / "small.tar").exists()


def test_what_is_no_integer_is_refused(tmp_path, capsys):
    path = write_phantom_dataset(tmp_path / "data", 1, 0, 0, 0, size=16)
    image = load_datalist(path)["labeled"][0]["image"]
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), 0.5, np.float32), np.eye(4)), image)
    with pytest.raises(SystemExit):
        main(["pack", str(path), str(tmp_path / "packed.tar")])
    assert "no whole numbers" in capsys.readouterr().err


@pytest.mark.skipif(not REAL.is_dir(), reason="shared/data/la is absent")
def test_a_real_volume_takes_about_a_megabyte():
    path = next(iter(sorted((REAL / "images").glob("*.nii.gz"))))
    voxels = np.asarray(nib.load(path).dataobj)
    content, head = encode(voxels)
    np.testing.assert_array_equal(decode(content, head), voxels)
    assert len(content) < 2 * 2**20, len(content)


def integers(datalist: Path) -> None:
    """Phantom images are float: make them what scanners write."""
    content = load_datalist(datalist)
    for split in SPLITS:
        for item in content[split]:
            image = nib.load(item["image"])
            voxels = np.rint(np.asarray(image.dataobj) * 100).astype(np.int16)
            nib.save(nib.Nifti1Image(voxels, image.affine), item["image"])
