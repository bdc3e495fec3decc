"""A folder that others use as well: links, what macOS leaves there, names of other systems."""

from __future__ import annotations

import json
import os

import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed (pip install 'mnseg[app]')")

from lib.datastores.local import LocalScans  # noqa: E402
from lib.errors import RequestError  # noqa: E402
from monailabel.interfaces.exception import ImageNotFoundException  # noqa: E402


@pytest.fixture
def folder(tmp_path):
    for name in ("a.nii.gz", "b.1.nrrd", "c.mha"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "labels" / "final").mkdir(parents=True)
    return tmp_path


def opened(folder):
    return LocalScans(folder, auto_reload=False)


def test_what_a_link_points_to_is_not_removed(folder, tmp_path_factory):
    archive = tmp_path_factory.mktemp("archive")
    scan, label = archive / "master.nii.gz", archive / "mask.nii.gz"
    for file, link in ((scan, folder / "linked.nii.gz"), (label, folder / "labels" / "final" / "linked.nii.gz")):
        file.write_bytes(b"of the archive")
        link.symlink_to(file)
    scans = opened(folder)
    assert scans.get_labeled_images() == ["linked"]
    scans.remove_image("linked")
    assert scan.read_bytes() == label.read_bytes() == b"of the archive"
    assert sorted(scans.list_images()) == ["a", "b.1", "c"] and not list(folder.rglob("linked*"))
    with pytest.raises(ImageNotFoundException):
        scans.remove_image("linked")


def test_a_link_keeps_its_name_whatever_it_points_to(folder, tmp_path_factory):
    """An archive or a cache may name its files as it likes; a reader goes by the suffix."""
    archive = tmp_path_factory.mktemp("archive")
    for kind, place in (("scan", folder), ("label", folder / "labels" / "final")):
        for name in ("d", "e"):
            (archive / kind / name).mkdir(parents=True)
            (archive / kind / name / "9f3a").write_bytes(f"{kind} {name}".encode())
            (place / f"{name}.nii.gz").symlink_to(archive / kind / name / "9f3a")
    scans = opened(folder)
    for name in ("d", "e"):
        assert scans.get_image_uri(name) == str(folder / f"{name}.nii.gz")
        assert scans.get_label_uri(name, "final") == str(folder / "labels" / "final" / f"{name}.nii.gz")
    assert scans.datalist() == [{"image": scans.get_image_uri(name), "label": scans.get_label_uri(name, "final")}
                                for name in ("d", "e")]
    assert scans.get_label_uri("a", "final") == scans.get_image_uri("nobody") == ""


def test_paths_are_whole_also_of_a_folder_named_from_here(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert opened(folder.name).get_image_uri("a") == str(folder / "a.nii.gz")


def test_hidden_files_are_no_scans_and_no_labels(folder):
    for name in ("._a.nii.gz", ".hidden.nrrd", ".nii.gz"):
        (folder / name).write_bytes(b"of the system")
        (folder / "labels" / "final" / name).write_bytes(b"of the system")
    scans = opened(folder)
    assert sorted(scans.list_images()) == ["a", "b.1", "c"] and scans.get_labeled_images() == []


def test_hidden_files_leave_the_index_of_an_older_server(folder):
    opened(folder)
    index = folder / "datastore_v2.json"
    content = json.loads(index.read_text())
    content["objects"]["._a"] = content["objects"]["a"]
    index.write_text(json.dumps(content))
    (folder / "._a.nii.gz").write_bytes(b"of the system")
    assert sorted(opened(folder).list_images()) == ["a", "b.1", "c"]


def test_folders_and_dead_links_are_no_scans(folder):
    (folder / "d.nii.gz").mkdir()
    (folder / "e.nii.gz").symlink_to(folder / "nothing")
    (folder / "f.nii.gz").symlink_to(folder / "f.nii.gz")
    assert sorted(opened(folder).list_images()) == ["a", "b.1", "c"]


def test_a_scan_whose_link_is_dead_now_is_none(folder, tmp_path_factory):
    archive = tmp_path_factory.mktemp("archive") / "master.nii.gz"
    archive.write_bytes(b"scan")
    (folder / "d.nii.gz").symlink_to(archive)
    scans = opened(folder)
    assert "d" in scans.list_images()
    archive.unlink()
    scans.refresh()
    assert sorted(scans.list_images()) == ["a", "b.1", "c"]


def test_a_name_that_the_index_could_not_keep_is_told(folder, caplog):
    name = os.fsencode(folder) + b"/M\xfcller.nii.gz"
    with open(name, "wb") as file:
        file.write(b"scan")
    scans = opened(folder)
    scans.refresh()
    assert caplog.text.count("is not in UTF-8: rename it") == 1
    assert sorted(opened(folder).list_images()) == ["a", "b.1", "c"]
    assert not list(folder.glob("*.broken-*")), "an index with such a name could not be read again"


@pytest.mark.parametrize(("name", "why"), [("export\\pat01", "has a backslash"), ("é" * 121, "more than 240 bytes")])
def test_a_name_that_no_training_or_no_label_could_have_is_told(folder, caplog, name, why):
    (folder / f"{name}.nii.gz").write_bytes(b"scan")
    (folder / ("é" * 120 + ".nii.gz")).write_bytes(b"scan")
    scans = opened(folder)
    assert caplog.text.count(why) == 1 and sorted(scans.list_images()) == ["a", "b.1", "c", "é" * 120]


def test_labels_without_a_scan_are_told_once(folder, caplog):
    (folder / "labels" / "final" / "A.nii.gz").write_bytes(b"label")
    scans = opened(folder)
    scans.refresh()
    assert caplog.text.count("final/A.nii.gz in labels: no scan has this name") == 1


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_a_scan_that_was_copied_there_a_moment_ago_is_not_replaced(folder, tmp_path_factory, suffix):
    scans, sent = opened(folder), tmp_path_factory.mktemp("uploads") / "new.nii.gz"
    sent.write_bytes(b"another")
    there = folder / f"new{suffix}"
    there.write_bytes(b"the original")
    with pytest.raises(RequestError, match="There is an image 'new' already") as refusal:
        scans.add_image("new", str(sent), {})
    assert refusal.value.status == 409 and there.read_bytes() == b"the original"
    assert [path.name for path in folder.glob("new*")] == [there.name]
    there.unlink()
    there.symlink_to(folder / "nothing")  # of a share that is away
    with pytest.raises(RequestError, match="already"):
        scans.add_image("new", str(sent), {})


def test_a_folder_that_is_away_costs_no_author(folder, tmp_path_factory):
    scans = opened(folder)
    label = tmp_path_factory.mktemp("uploads") / "label.nii.gz"
    label.write_bytes(b"mask")
    scans.save_label("a", str(label), "final", {"author": "anna"})
    away = folder.with_name(f"{folder.name}-away")
    folder.rename(away)
    with pytest.raises(FileNotFoundError):
        scans.refresh()
    away.rename(folder)
    scans.refresh()
    assert scans.get_label_info("a", "final")["author"] == "anna"
