"""Whose label is it: served against submitted, counted by hand."""

from __future__ import annotations

import hashlib
import json
import os
import threading

import nibabel as nib
import numpy as np
import pytest
from lib.labels.provenance import Provenance

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
NAMES = ["liver", "spleen"]


def write(path, voxels, affine=AFFINE, text=b""):
    image = nib.Nifti1Image(voxels.astype(np.uint8), affine)
    image.header["descrip"] = text
    nib.save(image, path)
    return path


def ball(shift=0, spleen=2):
    voxels = np.zeros((12, 10, 8))
    voxels[2 + shift : 6 + shift, 2:6, 2:6] = 1
    voxels[10, 8, 6 : 6 + spleen] = 2
    return voxels


@pytest.fixture
def provenance(tmp_path):
    return Provenance(tmp_path / "workspace", NAMES, clock=lambda: 86400.0)


def test_edited(provenance, tmp_path):
    provenance.served("a", write(tmp_path / "served.nii.gz", ball()), "0003")
    label = write(tmp_path / "label.nii.gz", ball(shift=1, spleen=1))
    facts = provenance.submitted("a", label, "anna")
    assert facts == {
        "image": "a", "author": "anna", "when": "1970-01-02T00:00:00+00:00", "served": "0003",
        "sha256": hashlib.sha256(label.read_bytes()).hexdigest(),
        "dice": {"liver": 2 * 48 / 128, "spleen": pytest.approx(2 * 1 / 3)},
        "edited_voxels": 16 + 16 + 1, "labeled_voxels": 65, "unedited": False,
    }
    assert provenance.of("a") == facts and provenance.unedited() == set()
    assert provenance.began_as("0003") == {"a"} and provenance.began_as("0002") == set()
    provenance.submitted("drawn", label, "anna")
    assert provenance.began_as("0003") == {"a"}
    again = Provenance(tmp_path / "workspace", NAMES)
    assert again.of("a") == facts and again.history("a") == [facts] == again.history()[:1]


def test_unedited_is_known_whatever_the_file_looks_like(provenance, tmp_path):
    provenance.served("a", write(tmp_path / "served.nii.gz", ball(), text=b"mnseg 0003; not for diagnosis"), "0003")
    image = nib.Nifti1Image(ball().astype(np.uint8), AFFINE).as_reoriented(np.array([[2, -1], [0, 1], [1, -1]]))
    nib.save(image, tmp_path / "label.nii")
    facts = provenance.submitted("a", tmp_path / "label.nii", "anna")
    assert facts["unedited"] and facts["edited_voxels"] == 0 and facts["dice"] == {"liver": 1.0, "spleen": 1.0}
    assert provenance.unedited() == {"a"} == Provenance(tmp_path / "workspace").unedited()
    one = ball()
    one[0, 0, 0] = 1
    assert not provenance.submitted("a", write(tmp_path / "label.nii.gz", one), "anna")["unedited"]
    assert provenance.unedited() == set()  # the newest label counts


def test_a_mask_that_somebody_put_into_the_folder_of_labels(provenance, tmp_path):
    """Ours stays ours, whoever saved it there; of what a person changed nothing is noted."""
    provenance.served("a", write(tmp_path / "served.nii.gz", ball()), "0003")
    provenance.served("b", write(tmp_path / "served.nii.gz", ball()), "0003")
    files = {"a": write(tmp_path / "a.nii.gz", ball(), text=b"saved anew"),
             "b": write(tmp_path / "b.nii.gz", ball(shift=1)),
             "c": write(tmp_path / "c.nii.gz", ball()), "d": tmp_path / "d.nii.gz"}
    files["d"].write_bytes(b"no label")
    provenance.label_file = files.get
    provenance.served("d", write(tmp_path / "served.nii.gz", ball()), "0003")
    for image in files:
        provenance.found_in_folder(image, files[image])
        provenance.found_in_folder(image, files[image])
    assert provenance.unedited() == {"a"} and [facts["image"] for facts in provenance.history()] == ["a"]
    write(files["a"], ball(shift=1))
    assert provenance.unedited() == set()


def test_until_it_was_compared_a_label_in_the_folder_may_be_ours(provenance, tmp_path):
    for image in ("a", "b", "gone"):
        provenance.served(image, write(tmp_path / "served.nii.gz", ball()), "0003")
    provenance.will_compare(["a", "b", "gone", "never served"])
    assert provenance.unedited() == {"a", "b", "gone"}
    provenance.found_in_folder("a", write(tmp_path / "a.nii.gz", ball(shift=1)))
    provenance.found_in_folder("gone", None)
    readers = [threading.Thread(target=provenance.found_in_folder, args=("b", write(tmp_path / "b.nii.gz", ball())))
               for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert provenance.unedited() == {"b"} and len(provenance.history()) == 1


def test_a_file_that_took_the_place_of_an_unedited_mask_is_a_persons(provenance, tmp_path):
    """Somebody draws a label with another program and puts it into the folder."""
    label, stored = write(tmp_path / "label.nii.gz", ball()), tmp_path / "stored.nii.gz"
    provenance.label_file = lambda image_id: stored
    provenance.served("a", label, "0003")
    provenance.submitted("a", label, "anna")
    stored.write_bytes(label.read_bytes())
    assert provenance.unedited() == {"a"}
    write(stored, ball(shift=1))
    assert provenance.unedited() == provenance.began_as("0003") == set()
    stored.unlink()
    assert provenance.unedited() == {"a"}, "there is no other label"
    stored.write_bytes(label.read_bytes())
    assert provenance.unedited() == {"a"}


def test_a_mask_that_another_reader_was_served(provenance, tmp_path):
    """Two readers, two versions: the first one's mask is ours as well."""
    provenance.served("a", write(tmp_path / "old.nii.gz", ball()), "0003")
    provenance.served("a", write(tmp_path / "new.nii.gz", ball(shift=2)), "0004")
    facts = provenance.submitted("a", write(tmp_path / "label.nii.gz", ball()), "anna")
    assert facts["unedited"] and facts["served"] == "0003"
    facts = provenance.submitted("a", write(tmp_path / "label.nii.gz", ball(shift=1)), "anna")
    assert not facts["unedited"] and facts["served"] == "0004" and facts["edited_voxels"] == 32


def test_without_a_served_mask(provenance, tmp_path):
    facts = provenance.submitted("a", write(tmp_path / "label.nii.gz", ball()), "anna")
    assert (facts["served"], facts["dice"], facts["edited_voxels"], facts["unedited"]) == (None, None, None, False)
    assert provenance.of("b") is None and provenance.history("b") == []


def test_both_masks_are_kept(provenance, tmp_path):
    served = write(tmp_path / "served.nii.gz", ball())
    provenance.served("a", served, "0003")
    provenance.submitted("a", write(tmp_path / "label.nii.gz", ball(shift=1)), "anna")
    newer = write(tmp_path / "newer.nii.gz", ball(shift=3))
    provenance.served("a", newer, "0004")
    folder = tmp_path / "workspace" / "served"
    assert (folder / "a.nii.gz").read_bytes() == newer.read_bytes()
    assert (folder / "base" / "a.nii.gz").read_bytes() == served.read_bytes()


@pytest.mark.parametrize("image", ["../../etc/passwd", "..", ".", "a/b", "ä b", "x" * 400, "a\0b", "a\nb", ""])
def test_any_text_may_name_an_image(provenance, tmp_path, image):
    provenance.served(image, write(tmp_path / "served.nii.gz", ball()), "0003")
    assert provenance.submitted(image, tmp_path / "served.nii.gz", "anna")["unedited"]
    inside = {path.parent for path in (tmp_path / "workspace").rglob("*") if path.is_file()}
    root = tmp_path / "workspace"
    assert inside == {root, root / "served", root / "served" / "base"}
    assert Provenance(root).unedited() == {image}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["served.nii.gz", "workspace"]


def test_ids_that_look_like_other_files_do_not_meet(provenance, tmp_path):
    images = ["a", "a.base", "a.nii.gz", "base", "base/a", "A", "x" * 400, "x" * 401]
    for number, image in enumerate(images):
        provenance.served(image, write(tmp_path / "served.nii.gz", ball(shift=number % 6)), f"{number:04d}")
    for number, image in enumerate(images):
        label = write(tmp_path / "label.nii.gz", ball(shift=number % 6))
        assert provenance.submitted(image, label, "anna")["served"] == f"{number:04d}"


def test_damaged_files_cost_no_label(provenance, tmp_path):
    provenance.served("a", write(tmp_path / "served.nii.gz", ball()), "0003")
    folder = tmp_path / "workspace" / "served"
    (folder / "a.json").write_text("{")
    label = write(tmp_path / "label.nii.gz", ball(shift=1))
    facts = provenance.submitted("a", label, "anna")
    assert facts["served"] is None and facts["edited_voxels"] == 32
    (folder / "a.nii.gz").write_bytes(b"no mask")
    assert provenance.submitted("a", label, "anna")["dice"] is None
    with open(tmp_path / "workspace" / "labels.jsonl", "ab") as file:
        file.write(b'{"image": "b", "une')  # killed in the midst of a line
    again = Provenance(tmp_path / "workspace")
    assert len(again.history("a")) == 2 and again.of("b") is None
    again.submitted("b", label, "ben")
    assert len(Provenance(tmp_path / "workspace").history()) == 3


def test_killed_between_list_and_mask(provenance, tmp_path, monkeypatch):
    provenance.served("a", write(tmp_path / "old.nii.gz", ball()), "0003")

    def killed(path, write):
        raise KeyboardInterrupt

    monkeypatch.setattr("lib.labels.provenance.durable_write", killed)
    with pytest.raises(KeyboardInterrupt):
        provenance.served("a", write(tmp_path / "new.nii.gz", ball(shift=2)), "0004")
    monkeypatch.undo()
    facts = Provenance(tmp_path / "workspace").submitted("a", write(tmp_path / "l.nii.gz", ball(shift=1)), "anna")
    assert facts["served"] == "0003" and facts["edited_voxels"] == 32


def test_another_grid_than_the_served_one(provenance, tmp_path):
    provenance.served("a", write(tmp_path / "served.nii.gz", ball()), "0003")
    other = write(tmp_path / "l.nii.gz", ball(shift=1), np.diag([1.1, 1, 2, 1]))
    facts = provenance.submitted("a", other, "anna")
    assert facts["dice"] is None and facts["edited_voxels"] is None and not facts["unedited"]


def test_a_scan_that_was_replaced_under_its_name(provenance, tmp_path):
    """A label of the new scan did not begin as a mask of the old one; that mask itself is nobody's label, as ever."""
    label = write(tmp_path / "label.nii.gz", ball(shift=1))
    base = tmp_path / "workspace" / "served" / "base" / "a.nii.gz"
    provenance.served("a", write(tmp_path / "served.nii.gz", ball()), "0003", "the old scan")
    assert provenance.submitted("a", label, "anna", scan="the old scan")["served"] == "0003" and base.exists()
    facts = provenance.submitted("a", label, "anna", scan="the new scan")
    assert (facts["served"], facts["dice"], facts["edited_voxels"]) == (None, None, None) and not base.exists()
    assert provenance.submitted("a", tmp_path / "served.nii.gz", "anna", scan="the new scan")["unedited"]
    provenance.served("a", write(tmp_path / "served.nii.gz", ball()), "0004", "the new scan")
    assert provenance.submitted("a", label, "anna", scan="the new scan")["served"] == "0004"
    provenance.served("a", write(tmp_path / "served.nii.gz", ball()), "0005")
    assert provenance.submitted("a", label, "anna", scan="the new scan")["served"] == "0005", "of an older server"


def test_eight_threads(provenance, tmp_path):
    failures = []

    def work(thread):
        try:
            mask = write(tmp_path / f"{thread}.nii.gz", ball(shift=thread % 6))
            for number in range(3):
                provenance.served("shared", mask, f"{thread:04d}")
                provenance.served(f"own{thread}", mask, f"{thread:04d}")
                assert provenance.submitted(f"own{thread}", mask, str(number))["unedited"]
                provenance.submitted("shared", mask, f"{thread}/{number}")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    again = Provenance(tmp_path / "workspace")
    authors = {facts["author"] for facts in again.history("shared")}
    assert authors == {f"{thread}/{number}" for thread in range(8) for number in range(3)}
    assert all(len(again.history(f"own{thread}")) == 3 for thread in range(8))
    assert len(json.loads((tmp_path / "workspace" / "served" / "shared.json").read_text())["masks"]) == 6
    assert not [path for path in (tmp_path / "workspace").rglob("*.tmp") if os.path.exists(path)]
