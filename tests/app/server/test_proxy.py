"""The DICOMweb proxy, which has the DICOM server's password: what it passes on."""

from __future__ import annotations

import functools
import http.server
import threading

import pytest
import requests
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lib.datastores.pacs import CONNECT_SECONDS, READ_SECONDS
from lib.server.errors import install_error_answers
from lib.server.threads import move_proxy_into_threads

DICOMWEB = "/dicom-web"


@pytest.fixture
def asked():
    """Paths that a DICOM server was asked for; see `client`."""
    return []


@pytest.fixture
def client(asked, monkeypatch):
    """A proxy in front of a server that notes what it is asked for."""
    pytest.importorskip("monailabel", reason="MONAI Label is not installed (pip install 'mnseg[app]')")
    from monailabel.config import settings
    from monailabel.endpoints import proxy

    class Pacs(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *args):
            pass

    pacs = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pacs)
    threading.Thread(target=pacs.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", f"http://127.0.0.1:{pacs.server_port}{DICOMWEB}")
    for name in ("proxy_dicom", "requests"):
        monkeypatch.setattr(proxy, name, getattr(proxy, name))  # as it was, behind the test
    move_proxy_into_threads(proxy, True)
    api = FastAPI()
    api.include_router(proxy.router)
    install_error_answers(api)
    yield TestClient(api, raise_server_exceptions=False)
    pacs.shutdown()
    pacs.server_close()


@pytest.mark.parametrize("operation", ["", "wado/", "qido/", "stow/"])
def test_dicomweb_is_passed_on(client, asked, operation):
    paths = ["studies", "studies/1.2.840/series/1.3/metadata", "studies/1.2/series/1.3/instances/1.4/frames/1,2",
             "series", "studies/1.2/series/1.3/instances/1.4/bulk/00420011"]
    for path in paths:
        assert client.get(f"/proxy/dicom/{operation}{path}").status_code == 200
    assert client.post(f"/proxy/dicom/{operation}studies").status_code == 200
    assert asked == [f"{DICOMWEB}/{path}" for path in [*paths, "studies"]]


def test_a_server_that_hangs_is_given_up_and_takes_no_thread_of_other_routes(client, asked, monkeypatch):
    from monailabel.endpoints import proxy

    go_on, waiting = threading.Event(), threading.Barrier(2)

    def hangs(url, **options):
        assert options["timeout"] == (CONNECT_SECONDS, READ_SECONDS)
        waiting.wait(20)
        go_on.wait(20)
        raise requests.ReadTimeout("Read timed out.")

    get = functools.partial(hangs, **proxy.requests.get.keywords)
    monkeypatch.setattr(proxy.requests, "get", get)
    answers = []
    reader = threading.Thread(target=lambda: answers.append(client.get("/proxy/dicom/qido/studies")))
    reader.start()
    waiting.wait(20)
    go_on.set()
    reader.join()
    assert answers[0].status_code == 503 and "does not answer (ReadTimeout)" in answers[0].json()["detail"]


@pytest.mark.parametrize("path", [
    "..%2f..%2fpatients", "%2e%2e/patients", "%2e%2e%2ftools%2fbulk-delete", "studies/..%2f..%2fpatients",
    "%252e%252e%252fpatients", "studies/%252e%252e/%252e%252e/patients", "studies/%25252e%25252e/patients",
    "studies/%2e/x", "..;/patients", "studies/..;x/..;x/patients", "studies\\..\\..\\patients",
    "studies/..%5c..%5cpatients", "studies%3fx=1", "studies%23x", "studies/..%09/x", "studies/%0dX-A: b",
    "studies%00", "studies/a%20b", "servers/other/stow", "patients", "", "%2fpatients", "studiesx",
])  # fmt: skip
@pytest.mark.parametrize("operation", ["", "wado/", "qido/", "stow/"])
def test_nothing_else_of_the_dicom_server_is_reached(client, asked, operation, path):
    for method in ("GET", "POST"):
        answer = client.request(method, f"/proxy/dicom/{operation}{path}")
        assert answer.status_code == 400 and "studies, series and instances" in answer.json()["detail"]
    assert asked == []
