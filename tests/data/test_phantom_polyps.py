"""The polyp phantom: reproducible, labeled, and split without shared pictures."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from scipy import ndimage

from mnseg.cli import main
from mnseg.data.build_datalist import build_datalist
from mnseg.data.integrity import check_datalist
from mnseg.data.phantom_polyps import make_polyps, write_polyp_dataset
from mnseg.errors import UserError


def test_equal_seeds_give_equal_pictures_with_one_to_three_polyps():
    for number in range(12):
        image, label = make_polyps([0, number], (48, 64))
        again = make_polyps([0, number], (48, 64))
        assert image.shape == (48, 64, 3) and image.dtype == np.uint8 and label.shape == (48, 64)
        np.testing.assert_array_equal(image, again[0])
        np.testing.assert_array_equal(label, again[1])
        sizes = np.bincount(ndimage.label(label)[0].ravel())[1:]
        assert (sizes > 10).sum() in (1, 2, 3) and 0.005 < label.mean() < 0.5


def test_polyps_differ_from_the_wall_around_them():
    """In some channel, by more than the noise: they can be found."""
    differences = []
    for number in range(20):
        image, label = make_polyps([1, number], 96)
        ring = ndimage.binary_dilation(label, iterations=6) & ~ndimage.binary_dilation(label, iterations=1)
        differences.append(np.abs(image[label > 0].mean(axis=0) - image[ring].mean(axis=0)).max())
    assert np.median(differences) > 10


def test_the_data_set_is_sound_and_more_cases_change_no_other(tmp_path, capsys):
    assert main(["phantom", "--kind", "polyps", str(tmp_path / "a"), "--labeled", "2", "--unlabeled", "2",
                 "--validation", "1", "--testing", "1", "--size", "40", "48"]) == 0
    write_polyp_dataset(tmp_path / "b", 3, 4, 1, 1, size=(40, 48))
    for path in (tmp_path / "a").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    report = check_datalist(tmp_path / "b" / "datalist.json", planar=True, check_hidden=True)
    assert report.findings == [] and report.counts["unlabeled"] == 4
    assert main(["check", "--planar", str(tmp_path / "b" / "datalist.json")]) == 0
    assert "label" not in json.loads((tmp_path / "b" / "datalist.json").read_text())["unlabeled"][0]


def test_a_datalist_of_a_folder_of_pairs(tmp_path, capsys):
    data = write_polyp_dataset(tmp_path / "data", 5, 0, 0, 0, size=40).parent
    arguments = ["datalist", "--planar", "--images", str(data / "images"), "--labels", str(data / "labels"),
                 "--labeled", "2", "--validation", "1", "--class-names", "background,polyp"]  # fmt: skip
    assert main([*arguments, "-o", str(tmp_path / "list.json")]) == 0
    lists = json.loads((tmp_path / "list.json").read_text())
    assert [len(lists[split]) for split in ("labeled", "unlabeled", "validation", "testing")] == [2, 2, 1, 0]
    (data / "images" / "labeled_003.png").write_bytes(b"damaged")
    assert main([*arguments, "-o", str(tmp_path / "other.json")]) == 1
    assert "labeled_003.png cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "other.json").exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["datalist", "--planar", "--images", str(empty), "-o", str(tmp_path / "x.json")]) == 1
    assert "holds no 2D images" in capsys.readouterr().err


def test_why_a_datalist_finds_no_images_or_no_labels(tmp_path):
    data = write_polyp_dataset(tmp_path / "data", 2, 0, 0, 0, size=40).parent
    with pytest.raises(UserError, match=r"There are some in its folder images; sub-folders are not searched"):
        build_datalist(data, planar=True)
    for mask in list((data / "labels").iterdir()):
        mask.rename(mask.with_stem(f"{mask.stem}_mask"))
    with pytest.raises(UserError, match="label is called labeled_000_mask.png, an image labeled_000.png"):
        build_datalist(data / "images", data / "labels", planar=True)
    built = build_datalist(data / "images", hidden_labels=data / "labels", planar=True)
    assert any("but no image of that name: ignored" in note for note in built.notes), "training can do without them"


def test_names_may_differ_in_the_form_of_their_unicode(tmp_path):
    data = write_polyp_dataset(tmp_path / "data", 2, 0, 0, 0, size=40).parent
    (data / "images" / "labeled_000.png").rename(data / "images" / "L\u00e4sion.png")
    (data / "labels" / "labeled_000.png").rename(data / "labels" / "La\u0308sion.png")
    built = build_datalist(data / "images", data / "labels", labeled="2", planar=True)
    found = {item["image"]: item["label"] for item in built.datalist["labeled"]}
    assert found[f"{data}/images/L\u00e4sion.png"] == f"{data}/labels/La\u0308sion.png" and len(found) == 2
    shutil.copy(data / "labels" / "La\u0308sion.png", data / "labels" / "L\u00e4sion.png")
    built = build_datalist(data / "images", data / "labels", labeled="2", planar=True)
    assert f"{data}/labels/L\u00e4sion.png" in [item["label"] for item in built.datalist["labeled"]]
    assert any("1 case (La\u0308sion) with a label" in note for note in built.notes)


@pytest.mark.parametrize(("arguments", "words"), [
    ({"size": 16}, "size 16x16 is too small"), ({"num_labeled": -1}, "no numbers of cases"),
])  # fmt: skip
def test_what_cannot_be_drawn_is_refused(tmp_path, arguments, words):
    with pytest.raises(UserError, match=words):
        write_polyp_dataset(tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []
