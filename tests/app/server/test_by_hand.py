"""Labels that somebody puts into the folder of a running server."""

from __future__ import annotations

import time

import nibabel as nib
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


def test_a_label_that_is_put_into_the_folder_counts_for_the_training(server, unlabeled):
    (server.studies / "labels" / "final" / f"{IMAGE}.nii.gz").write_bytes(b"drawn by hand")
    end = time.monotonic() + 10
    while IMAGE not in server.app.training.saved and time.monotonic() < end:
        time.sleep(0.05)
    assert server.app.training.saved == [IMAGE]
