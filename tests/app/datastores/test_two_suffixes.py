"""Labels of one scan under several suffixes: the newest counts, and is told; none comes back behind another."""

from __future__ import annotations

import os

import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed (pip install 'mnseg[app]')")

from lib.datastores.local import LocalScans  # noqa: E402


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"scan")
    (tmp_path / "labels" / "final").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def put(folder):
    def put(suffix, content, modified):
        label = folder / "labels" / "final" / f"a{suffix}"
        label.write_bytes(content)
        os.utime(label, (modified, modified))
        return label

    return put


@pytest.fixture
def told():
    return []


@pytest.fixture
def scans(folder, put, told):
    put(".nii.gz", b"known", 1000)
    scans = LocalScans(folder, auto_reload=False)
    scans.on_changed = told.extend
    scans.refresh()
    told.clear()
    scans.update_label_info("a", "final", {"author": "anna"})
    return scans


def used(scans):
    with open(scans.get_label_uri("a", "final"), "rb") as file:
        return file.read()


def test_the_newer_label_counts_and_is_not_the_authors_of_the_other(scans, put, told, caplog):
    put(".nrrd", b"newer", 2000)
    scans.refresh()
    scans.refresh()
    assert used(scans) == b"newer" and told == ["a"] and "author" not in scans.get_label_info("a", "final")
    assert caplog.text.count("a.nii.gz and a.nrrd in labels/final are of one scan: the newest, a.nrrd, is used") == 1
    put(".nii.gz", b"newer still", 3000)
    scans.refresh()
    scans.refresh()
    assert used(scans) == b"newer still" and told == ["a", "a"]


@pytest.mark.parametrize("modified", [500, 1000])
def test_an_older_label_is_only_told(scans, put, told, caplog, modified):
    put(".nrrd", b"older", modified)
    scans.refresh()
    assert used(scans) == b"known" and told == [] and scans.get_label_info("a", "final")["author"] == "anna"
    assert "the newest, a.nii.gz, is used; remove the others" in caplog.text


def test_of_labels_that_were_there_first_the_newest_counts(folder, put):
    put(".nii.gz", b"older", 1000), put(".mha", b"newest", 3000), put(".nrrd", b"newer", 2000)
    assert used(LocalScans(folder, auto_reload=False)) == b"newest"


def test_no_other_label_comes_back_behind_one_that_was_removed(scans, put, folder):
    put(".nrrd", b"older", 500)
    scans.refresh()
    scans.remove_label("a", "final")
    scans.refresh()
    assert scans.get_labeled_images() == [] and not list((folder / "labels" / "final").iterdir())


def test_a_label_that_is_saved_takes_the_place_of_all(scans, put, folder, tmp_path_factory):
    sent = tmp_path_factory.mktemp("uploads") / "label.mha"
    sent.write_bytes(b"saved")
    put(".nrrd", b"of a clock that is ahead", 4_000_000_000)
    scans.save_label("a", str(sent), "final", {"author": "berta"})
    scans.refresh()
    assert used(scans) == b"saved" and scans.get_label_info("a", "final")["author"] == "berta"
    assert [file.name for file in (folder / "labels" / "final").iterdir()] == ["a.mha"]
