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
from pack_volumes import _pack_one, _unpack_one, decode, encode, main

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


def refused(argv: list, capsys) -> str:
    with pytest.raises(SystemExit):
        main([*map(str, argv)])
    error = capsys.readouterr().err
    assert "Traceback" not in error and error.startswith("pack_volumes.py: ") and error.count("\n") == 1
    return error


def test_what_cannot_be_packed_is_named(tmp_path, capsys):
    path, archive = write_phantom_dataset(tmp_path / "data", 1, 1, 1, 0, size=16), tmp_path / "packed.tar"
    integers(path)
    content = load_datalist(path)
    (tmp_path / "empty.json").write_text(json.dumps({"labeled": []}))
    assert "names no scan" in refused(["pack", tmp_path / "empty.json", archive], capsys)
    case, again = content["labeled"][0]["case"], path.with_name("twice.json")
    again.write_text(json.dumps({**content, "validation": [{**content["validation"][0], "case": case}]}))
    assert f"images/{case} twice" in refused(["pack", again, archive], capsys)
    image = Path(load_datalist(path)["labeled"][0]["image"])
    for damage, words in ((b"junk", "cannot be read"), (image.read_bytes()[:600], "cannot be read")):
        image.write_bytes(damage)
        assert words in (error := refused(["pack", path, archive], capsys)) and str(image) in error
    for kind in ("complex64", [("R", "u1"), ("G", "u1"), ("B", "u1")]):
        nib.save(nib.Nifti1Image(np.ones((4, 4, 4), kind), np.eye(4)), image)
        assert f"{image} has voxels of type" in refused(["pack", path, archive], capsys)
    image.unlink()
    assert f"{image} does not exist" in refused(["pack", path, archive], capsys)
    assert not archive.exists()


def test_what_cannot_be_unpacked_is_named_and_an_interrupted_folder_is_not_complete(tmp_path, capsys):
    path, archive, there = write_phantom_dataset(tmp_path / "data", 1, 1, 1, 0, size=16), tmp_path / "a", tmp_path / "b"
    integers(path)
    assert main(["pack", str(path), str(archive)]) == 0 and main(["unpack", str(archive), str(there)]) == 0
    assert f"{tmp_path / 'nowhere'} cannot be read" in refused(["unpack", tmp_path / "nowhere", there], capsys)
    assert (there / "datalist.json").exists()
    assert f"{path} is damaged, or not packed by this script" in refused(["unpack", path, there], capsys)
    assert f"{archive}" in refused(["unpack", archive, archive], capsys)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    assert f"{archive} is damaged" in refused(["unpack", archive, there], capsys)
    assert (there / "datalist.json").exists(), "not a scan was touched"
    archive.write_bytes(whole[: len(whole) // 2] + bytes(100) + whole[len(whole) // 2 + 100 :])
    assert f"{archive} is damaged" in refused(["unpack", archive, there], capsys)
    assert not (there / "datalist.json").exists()


@pytest.mark.parametrize(("value", "kind"), [(7.0, np.int32), (2.0**31, np.int64), (-(2.0**40), np.int64)])
def test_whole_numbers_of_a_floating_point_file(tmp_path, value, kind):
    image = nib.Nifti1Image(np.full((2, 3, 4), value), np.diag([1, 2, 3, 1]))
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(image.affine, 1), image.set_qform(image.affine, 2)
    nib.save(image, tmp_path / "a.nii.gz")
    content, head = _pack_one(tmp_path / "a.nii.gz")
    back = _unpack_one(content, json.loads(json.dumps(head)))
    assert np.asarray(back.dataobj).dtype == kind and (np.asarray(back.dataobj) == value).all()
    assert back.header.get_xyzt_units() == ("mm", "sec")
    assert (int(back.header["qform_code"]), int(back.header["sform_code"])) == (2, 1)


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
