"""`lib.server.origins`, `lib.server.names`: what pages in a browser may ask."""

from __future__ import annotations

import pytest
import requests
from fastapi import FastAPI
from fastapi.testclient import TestClient
from lib.server.origins import only_origins


@pytest.fixture
def ask(monkeypatch):
    """Status and sentence of a request to a server on the computer ``ws1``, called by a name."""
    monkeypatch.setattr("lib.server.names.socket.gethostname", lambda: "ws1")
    monkeypatch.setattr("lib.server.names.socket.getfqdn", lambda: "ws1.hospital.example")

    def ask(host, method="GET", origins=(), **headers):
        api = FastAPI()
        api.add_api_route("/", lambda: "scans", methods=["GET", "DELETE"])
        only_origins(api, origins)
        answer = TestClient(api).request(method, "/", headers={"host": host, **headers})
        return answer.status_code, "" if answer.status_code == 200 else answer.json()["detail"]

    return ask


@pytest.mark.parametrize("host", [
    "localhost", "localhost:8000", "LOCALHOST:8000", "localhost.:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]",
    "192.168.1.5:8000", "[fe80::1]:8000", "ws1:8000", "WS1:8000", "ws1.local:8000", "ws1.hospital.example",
])  # fmt: skip
def test_addresses_and_own_names(ask, host):
    assert ask(host) == (200, "") and ask(host, "DELETE", origin=f"http://{host}") == (200, "")


@pytest.mark.parametrize("host", ["gpu", "gpu:8000", "gpu.local", "gpu.hospital.example"])
def test_a_computer_that_was_told_its_whole_name(ask, monkeypatch, host):
    monkeypatch.setattr("lib.server.names.socket.gethostname", lambda: "GPU.hospital.example")
    assert ask(host) == (200, "") and ask("hospital.example")[0] == 403


@pytest.mark.parametrize("host", [
    "evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "ws1.evil.example",
    "evillocalhost", "[::1", "[evil]:8000", ":8000", "evil.example:8000@127.0.0.1.evil.example",
])  # fmt: skip
def test_a_name_that_a_page_gave_the_server(ask, host):
    """DNS rebinding: page and server are of one origin, and a browser would let the page read and delete."""
    for method in ("GET", "DELETE"):
        status, sentence = ask(host, method, origin=f"http://{host}")
        assert status == 403 and repr(host) in sentence and f"--conf origins http://{host}" in sentence


def test_a_proxy_whose_name_the_server_is_told(ask):
    origins = ("https://labels.example", "http://pacs:3000")
    for host, origin in (("labels.example", "https://labels.example"), ("127.0.0.1:8000", "https://labels.example"),
                         ("pacs:3000", "http://pacs:3000")):  # the second: a proxy that does not pass the name on
        assert ask(host, "DELETE", origins, origin=origin) == (200, "")
    assert ask("labels.example.evil.example", "GET", origins)[0] == 403


def test_pages_of_other_origins(ask):
    status, sentence = ask("127.0.0.1:8000", "DELETE", origin="http://127.0.0.1:9000")
    assert status == 403 and sentence.startswith("Pages of http://127.0.0.1:9000")
    assert ask("127.0.0.1:8000", "GET", origin="http://127.0.0.1:9000") == (200, "")  # which the page cannot read


def test_the_server_asks_for_its_name(server):
    name = server.url.replace("http://127.0.0.1", "evil.example")
    for path in ("/info/", "/mnseg/status", "/datastore/image?image=000", "/ohif/"):
        assert requests.get(server.url + path, headers={"host": name}).status_code == 403
    assert requests.get(server.url + "/info/", headers={"host": name.replace("evil.example", "localhost")}).ok
