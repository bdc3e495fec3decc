"""Changes of the folder are noticed without a look for each, and nobody waits for a look."""

from __future__ import annotations

import json
import threading
import time

import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed (pip install 'mnseg[app]')")

from fakes import until  # noqa: E402
from lib.datastores.listing import Listing  # noqa: E402
from lib.datastores.local import LocalScans  # noqa: E402


@pytest.fixture
def looks(monkeypatch):
    """When the folder was looked through."""
    times, compare = [], LocalScans._reconcile_datastore

    def counted(self):
        times.append(time.monotonic())
        compare(self)

    monkeypatch.setattr(LocalScans, "_reconcile_datastore", counted)
    return times


def test_many_new_files_are_few_looks(folder, looks):
    scans = LocalScans(folder)
    begun = time.monotonic()
    for index in range(60):
        (folder / f"new{index}.nii.gz").write_bytes(b"scan")
    assert until(lambda: len(scans.list_images()) == 62)
    time.sleep(1.5)
    assert len(looks) <= 3 + (time.monotonic() - begun), "at most one a second, besides the first"


def test_what_the_server_writes_into_its_index_is_no_news(folder, looks):
    scans = LocalScans(folder)
    time.sleep(1.5)  # the folders that it has just made are news
    looks.clear()
    for index in range(5):
        scans.update_image_info("a", {"seen": index})
        time.sleep(0.2)
    time.sleep(0.5)
    assert looks == []


def test_an_index_that_somebody_else_wrote_is_read(folder):
    scans = LocalScans(folder)
    time.sleep(1.5)
    LocalScans(folder, auto_reload=False).update_image_info("a", {"ward": "3"})
    assert until(lambda: scans.get_image_info("a").get("ward") == "3")


def test_nobody_waits_while_the_folder_is_listed(folder, monkeypatch):
    scans, under_way, go_on, list_folder = LocalScans(folder, auto_reload=False), *events(2), Listing.of

    def slow(*folders):
        under_way.set()
        assert go_on.wait(10)
        return list_folder(*folders)

    monkeypatch.setattr(Listing, "of", slow)
    looking = threading.Thread(target=scans.refresh)
    looking.start()
    assert under_way.wait(10)
    asked = threading.Thread(target=scans.list_images)
    asked.start()
    asked.join(2)
    answered = not asked.is_alive()
    go_on.set()
    looking.join()
    assert answered


def events(count):
    return [threading.Event() for _ in range(count)]


def test_what_the_server_does_while_the_folder_is_listed_counts(folder, monkeypatch, tmp_path_factory):
    sent = tmp_path_factory.mktemp("uploads") / "file.nii.gz"
    sent.write_bytes(b"sent")
    scans, list_folder = LocalScans(folder, auto_reload=False), Listing.of
    scans.save_label("b", str(sent), "final", {"author": "berta"})

    def meanwhile(*folders):
        listing = list_folder(*folders)
        scans.add_image("new", str(sent), {})
        scans.save_label("a", str(sent), "final", {"author": "anna"})
        scans.save_label("new", str(sent), "final", {"author": "nora"})
        monkeypatch.setattr(Listing, "of", list_folder)  # removing looks as well
        scans.remove_image("b")
        return listing

    monkeypatch.setattr(Listing, "of", meanwhile)
    scans.refresh()
    assert sorted(scans.list_images()) == ["a", "new"] == sorted(scans.get_labeled_images())
    assert scans.get_label_info("a", "final")["author"] == "anna"
    assert scans.get_label_info("new", "final")["author"] == "nora"


@pytest.fixture
def labeled(folder, tmp_path_factory):
    sent = tmp_path_factory.mktemp("uploads") / "label.nii.gz"
    sent.write_bytes(b"label")
    scans = LocalScans(folder, auto_reload=False)
    for image in ("a", "b"):
        scans.save_label(image, str(sent), "final", {"author": "anna"})
    return scans


def test_nobody_waits_for_a_look_when_something_is_removed(labeled, folder, looks):
    removed = []
    labeled.on_removed = lambda *what: removed.append(what)
    labeled.remove_label("a", "final")
    labeled.remove_image("b")
    assert looks == [] and removed == [("a", "final"), ("b", None)]
    index = json.loads((folder / "datastore_v2.json").read_text())["objects"]
    assert list(index) == labeled.list_images() == ["a"] and index["a"]["labels"] == {}
    assert not list((folder / "labels" / "final").iterdir()) and not (folder / "b.nii.gz").exists()


def test_a_full_disk_keeps_nothing_from_being_removed(labeled, folder, monkeypatch, caplog):
    removed = []
    labeled.on_removed = lambda *what: removed.append(what)
    with monkeypatch.context() as full:
        full.setattr("lib.datastores.local.durable_write", no_room)
        labeled.remove_label("a", "final")
    assert labeled.get_labeled_images() == ["b"] and removed == [("a", "final")]
    assert "cannot be written yet" in caplog.text
    labeled.refresh()
    assert json.loads((folder / "datastore_v2.json").read_text())["objects"]["a"]["labels"] == {}


def test_a_scan_behind_one_that_was_removed_is_soon_seen(folder):
    (folder / "a.nrrd").write_bytes(b"another")
    scans = LocalScans(folder)
    scans._observer.stop()
    scans._observer.join()
    time.sleep(1.5)  # the folders that it has just made were news
    scans.remove_image("a")
    assert until(lambda: scans.get_image_uri("a") == str(folder / "a.nrrd"))


def test_a_change_that_could_not_be_written_is_written_by_the_next_look(folder, monkeypatch):
    scans = LocalScans(folder, auto_reload=False)
    (folder / "c.nii.gz").write_bytes(b"scan")
    with monkeypatch.context() as full:
        full.setattr("lib.datastores.local.durable_write", no_room)
        with pytest.raises(OSError, match="No space"):
            scans.refresh()
    scans.refresh()
    assert '"c"' in (folder / "datastore_v2.json").read_text()


def no_room(path, write):
    raise OSError(28, "No space left on device")
