"""What clients write about a scan: no key of it breaks or changes what the server does."""

from __future__ import annotations

import json

import pytest
import requests

IMAGE = "003"


@pytest.fixture
def untouched(server):
    """The scan's info is as before behind a test, whatever that wrote."""
    info = server.app.datastore()._datastore.objects[IMAGE].image.info
    before = json.loads(json.dumps(info))
    yield before
    info.clear()
    info.update(before)


def put(server, info, image=IMAGE):
    return requests.put(f"{server.url}/datastore/image/info", {"info": json.dumps(info)}, params={"image": image})


def known(server):
    return requests.get(f"{server.url}/datastore/image/info", {"image": IMAGE}).json()


@pytest.mark.parametrize(("info", "hint"), [
    ({"strategy": "abc"}, "strategy in info must be a JSON object, not 'abc'"),
    ({"strategy": None}, "strategy in info"),
    ({"id": "002"}, "id in info is the server's own: it says which scan it is"), ({"path": "/x"}, "path in info"),
    ({"reason": "x"}, "reason in info"), ({"reserved_until": 1}, "reserved_until"), ({"note": "x"}, "note in info"),
    ({"PatientID": "Q"}, "PatientID in info"), ({"label_info": 7}, "label_info must be a list"),
    ({"ward": "3", "sha256": "0"}, "sha256 in info"),
])  # fmt: skip
def test_keys_that_the_server_reads(server, untouched, info, hint):
    before = known(server)
    scan = (server.studies / f"{IMAGE}.nii.gz").read_bytes()
    sent = requests.put(f"{server.url}/datastore/image", {"params": json.dumps(info)}, params={"image": "new"},
                        files={"file": ("new.nii.gz", scan)})
    for answer in (put(server, info), sent):
        assert answer.status_code == 400 and hint in answer.json()["detail"]
    assert known(server) == before and "new" not in server.app.datastore().list_images()


def test_keys_of_clients_are_kept(server, untouched):
    info = {"ward": "3", "strategy": {"first": {"ts": 1, "client_id": "ann"}}, "level": {"of": ["difficulty"]}}
    assert put(server, info).status_code == 200
    assert known(server).items() >= info.items()


def test_next_sample_after_whatever_was_written(server, untouched, unlabeled, monkeypatch):
    monkeypatch.setattr(server.app.reservations, "_open", {})
    monkeypatch.setattr(server.app.datastore(), "get_unlabeled_images", lambda *tags: [IMAGE])
    for value in ("abc", {}, 5):
        put(server, {"strategy": value, "id": "002", "path": "/etc/passwd"})
        put(server, {"strategy": value})
    answer = requests.post(f"{server.url}/activelearning/first", json={"client_id": "ann"})
    assert answer.status_code == 200 and answer.json()["id"] == IMAGE
    assert answer.json()["path"].endswith(f"{IMAGE}.nii.gz")
    assert known(server)["strategy"]["first"]["client_id"] == "ann"  # as MONAI Label writes it


def test_the_older_path_for_a_labels_info(server, unlabeled):
    truth = (server.studies / "truth" / f"{IMAGE}.nii.gz").read_bytes()
    requests.put(f"{server.url}/datastore/label", params={"image": IMAGE}, files={"label": ("l.nii.gz", truth)})
    query = {"label": IMAGE, "tag": "final"}
    for info, status in (({"sha256": "0"}, 400), ({"level": "easy"}, 200)):
        answer = requests.put(f"{server.url}/datastore/updatelabelinfo", {"params": json.dumps(info)}, params=query)
        assert answer.status_code == status
