"""The routes of `lib.server.pacs`."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lib.server.errors import install_error_answers
from lib.server.pacs import pacs_routes


@pytest.fixture
def client(bench):
    bench.app.pacs_sync = bench.sync
    api = FastAPI()
    api.include_router(pacs_routes(bench.app))
    install_error_answers(api)
    return TestClient(api, raise_server_exceptions=False)


def test_what_was_found_and_what_waits(bench, client):
    assert client.get("/mnseg/segs").json()["reports"] == []
    uid = bench.draw(bench.one, bench.mask(bench.one))
    found = client.post("/mnseg/segs").json()
    assert [entry["uid"] for entry in found["found"]] == [uid] and found["reports"][0]["state"] == "taken"
    assert found["server"] == "http://pacs" and client.get("/mnseg/pending").json() == []


def test_a_decision(bench, client):
    bench.submit(bench.one, bench.mask(bench.one))
    first = bench.draw(bench.one, bench.mask(bench.one, shift=1))
    second = bench.draw(bench.one, bench.mask(bench.one, shift=2))
    client.post("/mnseg/segs")
    pending = client.get("/mnseg/pending").json()
    assert {entry["uid"] for entry in pending} == {first, second}
    assert {entry["patient"] for entry in client.get("/mnseg/segs").json()["pending"]} == {"patient of a"}
    assert client.post(f"/mnseg/pending/{first}/accept", json={"by": "berta"}).json()["by"] == "berta"
    assert client.post(f"/mnseg/pending/{second}/reject").json()["state"] == "rejected"
    assert (bench.label(bench.one) == bench.mask(bench.one, shift=1)).all()


@pytest.mark.parametrize(("path", "body", "status", "words"), [
    ("/mnseg/pending/1.2.3/accept", None, 404, "waits for a decision"),
    ("/mnseg/pending/1.2.3/burn", None, 404, "accepted or rejected"),
    ("/mnseg/pending/1.2.3/accept", {"by": 3}, 400, "by must be a text"),
    ("/mnseg/masks/1.2.3", None, 404, "no image"),
    ("/mnseg/masks/..%2f..%2fetc", None, 404, ""),
])  # fmt: skip
def test_refusals_say_why(client, path, body, status, words):
    answer = client.post(path, json=body)
    assert answer.status_code == status and words in answer.json()["detail"]


def test_a_server_that_does_not_answer_is_said(bench, client):
    bench.pacs.is_down = True
    answer = client.post("/mnseg/segs")
    assert answer.status_code == 503 and "does not answer" in answer.json()["detail"]
    assert "does not answer" in client.get("/mnseg/segs").json()["fault"]


def test_a_folder_has_no_dicom_server(bench, client):
    bench.app.pacs_sync = None
    for answer in (client.get("/mnseg/segs"), client.post("/mnseg/segs"), client.post("/mnseg/masks/a")):
        assert answer.status_code == 404 and "folder" in answer.json()["detail"]
