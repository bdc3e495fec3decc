"""The status page: its files and pictures, and the page itself in a headless Chromium."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

REFUSED = "status of 404"  # what Chromium says of a refusal, which one test provokes


def get(url):
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read(), answer.headers


def test_the_page_is_whole_and_needs_no_other_server(server):
    html, headers = get(f"{server.url}/mnseg/")
    assert headers["Content-Type"].startswith("text/html")
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    for name, kind in (("page.js", "text/javascript"), ("page.css", "text/css")):
        text, headers = get(f"{server.url}/mnseg/{name}")
        assert name.encode() in html and headers["Content-Type"].startswith(kind)
        assert b"//" not in text.replace(b"http://www.w3.org/2000/svg", b"").replace(b"\n//", b"").replace(b" //", b"")
    assert b"http" not in html
    assert get(f"{server.url}/mnseg")[0] == html  # without the slash


def test_a_thumbnail_shows_the_newest_mask(server, published, tmp_path):
    from matplotlib.image import imread

    def picture(image):
        file = tmp_path / "picture.png"
        file.write_bytes(get(f"{server.url}/mnseg/thumbnail/{image}")[0])
        return imread(file)[..., :3]

    plain = picture("003")
    assert np.ptp(plain, axis=-1).max() < 0.02, "a scan is gray"
    file, _ = server.client("page", tmp_path).infer("mnseg", "003", {"result_extension": ".nrrd"})
    assert file and server.app.provenance.served_mask("003").is_file()
    assert np.ptp(picture("003"), axis=-1).max() > 0.2, "a mask is in color"


def test_a_thumbnail_of_no_scan_is_refused(server):
    for image in ("nobody", "..%2F..%2Fetc%2Fpasswd"):
        with pytest.raises(urllib.error.HTTPError) as error:
            get(f"{server.url}/mnseg/thumbnail/{image}")
        assert error.value.code == 404 and "There is no image" in json.load(error.value)["detail"]


@pytest.fixture
def page(chromium, server):
    """The status page, filled; a test fails by what the browser's console says."""
    complaints = []
    opened = chromium.new_page(viewport={"width": 1100, "height": 1000})
    opened.on("console", lambda line: complaints.append(line.text) if line.type == "error" and REFUSED not in line.text
              else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: complaints.append(request.url) if server.url not in request.url else None)
    opened.on("dialog", lambda dialog: dialog.accept())
    opened.goto(f"{server.url}/mnseg/")
    opened.wait_for_selector("body[data-ready]")
    yield opened
    opened.close()
    assert not complaints


@pytest.mark.e2e
def test_the_buttons_do_what_they_say(server, versions, published, page, tmp_path):
    first, second = versions
    assert f"{first.name} is served" in page.inner_text("#published-text")
    assert "2 of 6 scans labeled" in page.inner_text("#labels-text")
    page.click("tr:has-text('0002') >> text=Publish")
    page.wait_for_selector(f"#published-text:has-text('{second.name} is served')")
    assert server.app.registry.published().id == second.id
    page.click("#rollback")
    page.wait_for_selector(f"#published-text:has-text('{first.name} is served')")
    page.click("text=Pin >> visible=true")
    page.wait_for_selector("#published-text:has-text('pinned')")
    page.click("#unpin")
    page.wait_for_selector("#unpin", state="hidden")
    assert server.app.registry.pinned is None
    page.click("#train")
    page.wait_for_selector("#training-text:has-text('epoch 1 of 9')")
    assert "80 s left" in page.inner_text("#training-more")
    page.click("#stop")
    page.wait_for_selector("#train:enabled")
    page.click("#off")
    page.wait_for_selector("#on:visible")
    page.click("#on")
    page.wait_for_selector("#off:visible")
    page.screenshot(path=str(tmp_path / "page.png"), full_page=True)


@pytest.mark.e2e
def test_what_clients_send_is_shown_as_text(server, published, page):
    name = "<img src=x onerror=alert(1)>"
    server.app.registry.record("note", by=name, reason="A <b>name</b> that is no name.")
    page.wait_for_selector("#history li:has-text('<img src=x')")
    assert page.locator("#history img").count() == 0


@pytest.mark.e2e
def test_pictures_are_drawn(page):
    # Not wait_for_function: it evaluates a text in the page, which the page's own policy forbids.
    drawn = "[...document.querySelectorAll('#queue img')].some(i => i.complete && i.naturalWidth > 0)"
    end = time.monotonic() + 30
    while not page.evaluate(drawn) and time.monotonic() < end:
        page.wait_for_timeout(100)
    assert page.evaluate(drawn)
    assert page.locator("#queue li").count() == 6


@pytest.mark.e2e
def test_a_refusal_is_shown(server, published, page):
    page.evaluate("post('publish/9999')")
    page.wait_for_selector("#message:has-text('9999')")


@pytest.mark.e2e
@pytest.mark.parametrize(("path", "told"), [
    ("status", "The server does not answer."), ("off", "The server has not answered to off"),
])
def test_a_server_that_hangs_is_told(server, published, page, path, told):
    asked = []
    page.route(f"**/mnseg/{path}", lambda route: asked.append(route))  # never answered
    page.evaluate("patience = 0.2")
    if path == "off":
        page.click("#off")
    page.wait_for_selector(f"#message:has-text('{told}')", timeout=10_000)
    assert asked
    page.unroute_all(behavior="ignoreErrors")
    if path == "status":
        page.evaluate("patience = 10")
        page.wait_for_selector("#message", state="hidden")


@pytest.mark.e2e
def test_a_pending_segmentation_waits_for_a_decision(server, published, page):
    assert page.is_hidden("#pending-section")
    entry = {"uid": "1.2.3", "image": "003", "author": "Doe", "reason": "It has a label."}
    page.evaluate("entry => showPending([entry])", entry)
    assert "003 · Doe · It has a label." in page.inner_text("#pending li")
    with page.expect_request("**/mnseg/pending/1.2.3/accept"):
        page.click("#pending >> text=Accept")


@pytest.mark.e2e
def test_without_a_model_the_page_says_what_is_missing(page):
    def said(labeled, running=False):
        status = {"scans": {"labeled": labeled}, "min_labels": 3, "training": {"running": running}}
        return page.evaluate("status => noModel(status)", status)

    assert said(2) == "No model yet: label at least 3 scans."
    assert said(3) == "No model yet: 3 scans labeled, no training is running."
    assert said(4, True) == "No model yet: 4 scans labeled, a training is running."
