"""Labels that somebody puts into the folder of a running server."""

from __future__ import annotations

import time

import nibabel as nib
import pytest
import requests

IMAGE = "004"


def test_a_label_that_was_drawn_into_the_folder_a_moment_ago_is_kept(server, unlabeled, monkeypatch):
    store = server.app.datastore()
    label = nib.load(server.studies / "truth" / f"{IMAGE}.nii.gz")
    by_hand = server.studies / "labels" / "final" / f"{IMAGE}.nii.gz"
    with monkeypatch.context() as patch:
        patch.setattr(store, "refresh", lambda: None)  # no look has found it
        by_hand.write_bytes(b"drawn by hand")
        assert store.get_labeled_images() == []
        answer = requests.put(f"{server.url}/datastore/label", params={"image": IMAGE},
                              files={"label": ("l.nii", label.to_bytes())})
    assert answer.status_code == 200 and by_hand.read_bytes() != b"drawn by hand"
    kept = [file.read_bytes() for file in (server.app.submissions.replaced.root / IMAGE).iterdir()]
    assert b"drawn by hand" in kept


def test_a_mask_of_ours_that_is_put_into_the_folder_stays_ours(server, published, unlabeled):
    mask = requests.post(f"{server.url}/infer/mnseg", params={"image": IMAGE, "output": "image"})
    assert mask.status_code == 200
    (server.studies / "labels" / "final" / f"{IMAGE}.nii.gz").write_bytes(mask.content)
    server.app.datastore().refresh()
    assert IMAGE in server.app.datastore().get_labeled_images()
    ends = time.monotonic() + 30
    while IMAGE not in server.app.provenance.unedited():
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.fixture
def waiting(server, unlabeled):
    """A label that was accepted a minute ago, and could not be stored."""
    facts = {"image": IMAGE, "tag": "final", "author": "anna", "time": time.time() - 60, "params": {}}
    label = nib.load(server.studies / "truth" / f"{IMAGE}.nii.gz")
    return server.app.submissions.inbox.put(lambda path: nib.save(label, path), facts)


def stored(server):
    return (server.studies / "labels" / "final" / f"{IMAGE}.nii.gz").read_bytes()


def test_a_label_that_waited_does_not_replace_a_newer_one_by_hand(server, waiting, caplog):
    (server.studies / "labels" / "final" / f"{IMAGE}.nii.gz").write_bytes(b"drawn by hand")
    server.app.datastore().refresh()
    server.app.submissions.replay()
    assert stored(server) == b"drawn by hand"
    inbox = server.app.submissions.inbox
    kept = inbox.root.with_name("inbox_set_aside") / waiting.folder.name / "mask.nii.gz"
    assert inbox.waiting() == [] and kept.is_file()
    assert f"a newer label of {IMAGE} was put into the folder: the one that waited is kept in" in caplog.text


def test_a_label_that_waited_replaces_an_older_one_by_hand(server, waiting):
    (server.studies / "labels" / "final" / f"{IMAGE}.nii.gz").write_bytes(b"drawn by hand")
    store, content = server.app.datastore(), waiting.mask.read_bytes()
    store.refresh()
    store.update_label_info(IMAGE, "final", {"ts": int(time.time()) - 120})
    server.app.submissions.replay()
    assert stored(server) == content and store.get_label_info(IMAGE, "final")["author"] == "anna"


def test_a_label_whose_file_alone_was_stored_gets_its_author(server, waiting):
    """Killed between the file and the index, the next server finds a file that nobody saved."""
    (server.studies / "labels" / "final" / f"{IMAGE}.nii.gz").write_bytes(waiting.mask.read_bytes())
    store = server.app.datastore()
    store.refresh()
    assert "author" not in store.get_label_info(IMAGE, "final")
    server.app.submissions.replay()
    assert store.get_label_info(IMAGE, "final")["author"] == "anna"
    assert server.app.submissions.inbox.waiting() == []


def test_a_label_that_is_put_into_the_folder_counts_for_the_training(server, unlabeled):
    (server.studies / "labels" / "final" / f"{IMAGE}.nii.gz").write_bytes(b"drawn by hand")
    end = time.monotonic() + 10
    while IMAGE not in server.app.training.saved and time.monotonic() < end:
        time.sleep(0.05)
    assert server.app.training.saved == [IMAGE]
