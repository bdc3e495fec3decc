"""The folder of scans survives faults and several clients."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time

import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed (pip install 'mnseg[app]')")

from fakes import until  # noqa: E402
from lib.datastores.local import LocalScans  # noqa: E402
from lib.errors import RequestError  # noqa: E402
from monailabel.interfaces.exception import ImageNotFoundException  # noqa: E402


@pytest.fixture
def folder(tmp_path):
    for name in ("a.nii.gz", "b.1.nrrd", "c.mha"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def opened(folder):
    return LocalScans(folder, auto_reload=False)


def put(scans, image, content, tag="final", suffix=".nii.gz"):
    file = scans.folder_of_uploads / f"upload{threading.get_ident()}{suffix}"
    file.write_bytes(content)
    return scans.save_label(image, str(file), tag, {"author": "anna"})


@pytest.fixture
def scans(folder, tmp_path_factory):
    scans = opened(folder)
    scans.folder_of_uploads = tmp_path_factory.mktemp("uploads")
    return scans


def test_scans_are_known_by_their_names(scans):
    assert sorted(scans.list_images()) == ["a", "b.1", "c"]
    assert scans.get_image_uri("b.1").endswith("/b.1.nrrd") and scans.get_image_uri("x") == ""


def test_a_newer_label_replaces_the_older_also_of_another_kind(scans, folder):
    put(scans, "a", b"first", suffix=".nrrd")
    put(scans, "a", b"second")
    assert [path.name for path in (folder / "labels" / "final").iterdir()] == ["a.nii.gz"]
    with open(scans.get_label_uri("a", "final"), "rb") as file:
        assert file.read() == b"second"
    assert scans.get_label_info("a", "final")["author"] == "anna"
    with pytest.raises(ImageNotFoundException):
        put(scans, "nobody", b"x")


def test_a_scan_that_was_away_keeps_what_is_known_of_its_label(scans, folder, tmp_path_factory):
    put(scans, "a", b"mask")
    elsewhere = tmp_path_factory.mktemp("away") / "a.nii.gz"
    shutil.move(folder / "a.nii.gz", elsewhere)
    scans.refresh()
    assert sorted(scans.list_images()) == ["b.1", "c"]
    shutil.move(elsewhere, folder / "a.nii.gz")
    scans.refresh()
    assert scans.get_label_info("a", "final")["author"] == "anna"
    assert opened(folder).get_label_info("a", "final")["author"] == "anna", "it is in the file as well"
    (folder / "labels" / "final" / "a.nii.gz").unlink()
    scans.refresh()
    assert scans.get_labels_by_image_id("a") == {}, "a label that was removed stays away"


def test_a_label_that_was_away_keeps_its_author_but_a_newer_one_does_not_get_it(scans, folder, tmp_path_factory):
    put(scans, "a", b"mask")
    label, elsewhere = folder / "labels" / "final" / "a.nii.gz", tmp_path_factory.mktemp("away") / "a.nii.gz"
    shutil.move(label, elsewhere)
    scans.refresh()
    assert scans.get_labels_by_image_id("a") == {}
    shutil.move(elsewhere, label)
    scans.refresh()
    assert scans.get_label_info("a", "final")["author"] == "anna"
    label.unlink()
    scans.refresh()
    label.write_bytes(b"somebody else's")
    scans.refresh()
    assert "a" in scans.get_labeled_images() and "author" not in scans.get_label_info("a", "final")


def test_a_label_of_an_older_server_is_known_by_its_time(scans, folder):
    put(scans, "a", b"mask")
    label = folder / "labels" / "final" / "a.nii.gz"
    for age, author in ((0, "anna"), (60, None)):
        del scans._datastore.objects["a"].labels["final"].info["sha256"]
        label.unlink()
        scans.refresh()
        label.write_bytes(b"mask")
        os.utime(label, (time.time() + age, time.time() + age))
        scans.refresh()
        assert scans.get_label_info("a", "final").get("author") == author


def test_what_is_away_during_a_whole_start_is_remembered(scans, folder, tmp_path_factory):
    put(scans, "a", b"mask")
    scans.update_image_info("a", {"ward": "3"})
    elsewhere = tmp_path_factory.mktemp("away") / "a.nii.gz"
    shutil.move(folder / "a.nii.gz", elsewhere)
    assert "a" not in opened(folder).list_images()  # a server that starts, looks, and is stopped
    shutil.move(elsewhere, folder / "a.nii.gz")
    again = opened(folder)
    assert again.get_label_info("a", "final")["author"] == "anna" and again.get_image_info("a")["ward"] == "3"
    assert sorted(again.list_images()) == ["a", "b.1", "c"]


def test_two_scans_of_one_name_are_told(scans, folder, caplog):
    shutil.copy(folder / "c.mha", folder / "c.nrrd")
    with caplog.at_level("WARNING"):
        scans.refresh()
        scans.refresh()
    told = [record.getMessage() for record in caplog.records if "have one name" in record.getMessage()]
    assert told == ["c.mha and c.nrrd have one name: c.mha is used alone; rename the others"]


def test_an_image_is_never_replaced(scans, folder, tmp_path):
    with pytest.raises(RequestError, match="already"):
        scans.add_image("a", str(folder / "c.mha"), {})
    assert (folder / "a.nii.gz").read_bytes() == b"a.nii.gz"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"objects": 3}', b'{"name": "x"}'])
def test_a_broken_index_is_set_aside_and_made_anew(scans, folder, content):
    put(scans, "a", b"label")
    put(scans, "c", b"label", tag="original")
    index = folder / "datastore_v2.json"
    index.write_bytes(content)
    again = opened(folder)
    assert sorted(again.list_images()) == ["a", "b.1", "c"] and again.get_labeled_images() == ["a"]
    assert again.get_labels_by_image_id("c") == {"original": "c"}
    aside = list(folder.glob("datastore_v2.json.broken-*"))
    assert len(aside) == 1 and aside[0].read_bytes() == content
    again.on_changed = lambda images: None
    again.refresh()
    assert json.loads(index.read_text())["objects"].keys() == {"a", "b.1", "c"}


def test_a_broken_index_under_a_running_server_costs_nothing(scans, folder):
    put(scans, "a", b"label")
    (folder / "datastore_v2.json").write_bytes(b"{")
    scans.refresh()
    assert scans.get_labeled_images() == ["a"] and scans.get_label_info("a", "final")["author"] == "anna"
    assert json.loads((folder / "datastore_v2.json").read_text())["objects"]["a"]["labels"]


def test_a_kill_while_writing_leaves_the_old_file(scans, folder, monkeypatch):
    put(scans, "a", b"old")
    before = (folder / "datastore_v2.json").read_bytes()

    def killed(source, target):
        target.write_bytes(b"ha")
        raise SystemError("killed")

    monkeypatch.setattr("lib.datastores.local.shutil.copyfile", killed)
    with pytest.raises(SystemError):
        put(scans, "a", b"new")
    with open(scans.get_label_uri("a", "final"), "rb") as file:
        assert file.read() == b"old"
    assert (folder / "datastore_v2.json").read_bytes() == before


def test_eight_threads_lose_nothing(folder, tmp_path_factory):
    for k in range(16):
        (folder / f"s{k}.nii.gz").write_bytes(b"")
    scans = LocalScans(folder)  # with its watcher, which reloads the index behind our back
    scans.folder_of_uploads = tmp_path_factory.mktemp("uploads")
    failures = []

    def work(k):
        try:
            for n in range(k, 16, 8):
                put(scans, f"s{n}", f"label {n}".encode())
                scans.update_image_info(f"s{n}", {"seen": k})
                scans.status(), scans.list_images(), scans.get_unlabeled_images(), scans.json()
                scans.refresh()
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(scans.get_labeled_images()) == 16
    again = opened(folder)
    assert len(again.get_labeled_images()) == 16
    for n in range(16):
        with open(again.get_label_uri(f"s{n}", "final"), "rb") as file:
            assert file.read() == f"label {n}".encode()
        assert again.get_image_info(f"s{n}")["seen"] == n % 8


def test_new_scans_are_noticed(folder):
    import time

    scans = LocalScans(folder)
    (folder / "new.nii.gz").write_bytes(b"x")
    deadline = time.monotonic() + 5
    while "new" not in scans.list_images() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "new" in scans.list_images()


def test_labels_that_are_away_for_a_moment_leave_the_server_awake(folder, tmp_path_factory):
    away = tmp_path_factory.mktemp("away") / "labels"
    (folder / "labels" / "final").mkdir(parents=True)
    (folder / "labels" / "final" / "a.nii.gz").write_bytes(b"label")
    scans = LocalScans(folder)
    assert scans.get_labeled_images() == ["a"]
    shutil.move(folder / "labels", away)
    (folder / "d.nii.gz").write_bytes(b"d")
    assert until(lambda: "d" in scans.list_images() and scans.get_labeled_images() == [])
    shutil.move(away, folder / "labels")
    (folder / "e.nii.gz").write_bytes(b"e")
    assert until(lambda: "e" in scans.list_images() and scans.get_labeled_images() == ["a"])


def test_a_full_disk_does_not_end_the_watcher(folder, monkeypatch):
    scans = LocalScans(folder)
    write, failed = LocalScans._update_datastore_file, []

    def full(self, lock=True):
        if not failed:
            failed.append(True)
            raise OSError(28, "No space left on device")
        write(self, lock)

    monkeypatch.setattr(LocalScans, "_update_datastore_file", full)
    (folder / "d.nii.gz").write_bytes(b"d")
    assert until(lambda: failed)
    (folder / "e.nii.gz").write_bytes(b"e")
    assert until(lambda: {"d", "e"} <= set(scans.list_images()))
    (folder / "d.nii.gz").unlink()
    assert until(lambda: "d" not in scans.list_images())


def test_what_no_event_tells_of_is_seen_by_the_next_look(folder, monkeypatch):
    monkeypatch.setattr("lib.datastores.lookout.LOOK_SECONDS", 0.1)
    scans = LocalScans(folder)
    scans._observer.stop()
    scans._observer.join()
    (folder / "d.nii.gz").write_bytes(b"d")
    assert until(lambda: "d" in scans.list_images())


def test_a_renamed_scan_is_seen(folder):
    scans = LocalScans(folder)
    (folder / "a.nii.gz").rename(folder / "z.nii.gz")
    assert until(lambda: "z" in scans.list_images() and "a" not in scans.list_images())


def test_removed_means_removed_at_once(folder, tmp_path_factory):
    (folder / "labels" / "final").mkdir(parents=True)
    (folder / "labels" / "final" / "a.nii.gz").write_bytes(b"label")
    scans = LocalScans(folder)
    scans._observer.stop()
    scans._observer.join()
    scans.remove_label("a", "final")
    assert scans.get_labeled_images() == []
    scans.remove_image("b.1")
    assert sorted(scans.list_images()) == ["a", "c"]


@pytest.mark.parametrize("remove", [lambda scans: scans.remove_label("a", "final"),
                                    lambda scans: os.unlink(scans.get_label_uri("a", "final"))])  # fmt: skip
def test_a_label_that_is_saved_anew_does_not_get_the_author_of_the_one_before(scans, remove):
    put(scans, "a", b"first")
    remove(scans)
    scans.refresh()
    file = scans.folder_of_uploads / "second.nii.gz"
    file.write_bytes(b"second")
    scans.save_label("a", str(file), "final", {"author": "berta"})
    scans.refresh()
    assert scans.get_label_info("a", "final")["author"] == "berta"


def test_nothing_is_known_of_a_label_that_follows_a_removed_one(scans, folder):
    put(scans, "a", b"first")
    scans.remove_label("a", "final")
    (folder / "labels" / "final" / "a.nii.gz").write_bytes(b"by hand")
    scans.refresh()
    assert scans.get_labeled_images() == ["a"] and "author" not in scans.get_label_info("a", "final")


def test_a_label_that_is_overwritten_in_the_folder_is_no_longer_its_authors(scans, folder):
    put(scans, "a", b"mask")
    put(scans, "c", b"mask")
    scans.refresh()
    assert scans.get_label_info("a", "final")["author"] == "anna"
    (folder / "labels" / "final" / "a.nii.gz").write_bytes(b"drawn by somebody else")
    scans.refresh()
    assert scans.get_label_info("a", "final").keys() == {"ts", "name", "sha256"}
    assert scans.get_label_info("c", "final")["author"] == "anna"
    (folder / "labels" / "final" / "c.nii.gz").write_bytes(b"while no server runs")
    again = opened(folder)
    assert again.get_label_info("c", "final").keys() == {"ts", "name", "sha256"}
    again.folder_of_uploads = scans.folder_of_uploads
    put(again, "c", b"saved again")
    again.refresh()
    assert again.get_label_info("c", "final")["author"] == "anna"
