"""``GET /datastore/dataset``: scans and labels in one ZIP, of which nothing stays on the server's disk."""

from __future__ import annotations

import errno
import io
import json
import os
import tempfile
import zipfile

import pytest
import requests
from fakes import until

IMAGES = ("001", "002")


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The server's temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def labeled(server, unlabeled):
    for image in IMAGES:
        server.app.submissions.take(image, server.studies / "truth" / f"{image}.nii.gz", "final", {}, "ada")


def download(server, **query):
    answer = requests.get(f"{server.url}/datastore/dataset", query)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/zip"
    assert int(answer.headers["content-length"]) == len(answer.content)
    return zipfile.ZipFile(io.BytesIO(answer.content))


def open_files(folder):
    """Files of a folder that this process has open, also without a name."""
    links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
    return [link for link in links if os.path.islink(link) and os.readlink(link).startswith(str(folder))]


def test_scans_and_labels_of_people(server, labeled):
    found = download(server)
    assert sorted(found.namelist()) == [*(f"image/{image}.nii.gz" for image in IMAGES),
                                        *(f"label/{image}.nii.gz" for image in IMAGES), "metadata.json"]
    assert found.read("image/001.nii.gz") == (server.studies / "001.nii.gz").read_bytes()
    stored = server.app.datastore().get_label_uri("002", "final")
    with open(stored, "rb") as label:
        assert found.read("label/002.nii.gz") == label.read()
    index = json.loads(found.read("metadata.json"))
    assert index["objects"]["001"]["labels"]["final"]["info"]["author"] == "ada"
    assert str(server.studies) not in json.dumps(index)


def test_links_are_packed_under_the_names_of_the_scans(server, labeled, tmp_path):
    """As in a folder of patients, in each of which the scan has one name."""
    for image in IMAGES:
        scan, original = server.studies / f"{image}.nii.gz", tmp_path / image / "volume.nii.gz"
        original.parent.mkdir()
        scan.rename(original)
        scan.symlink_to(original)
    try:
        found = download(server)
    finally:
        for image in IMAGES:
            (tmp_path / image / "volume.nii.gz").replace(server.studies / f"{image}.nii.gz")
    assert {f"image/{image}.nii.gz" for image in IMAGES} <= set(found.namelist())


def test_a_file_without_a_time_is_packed(server, labeled):
    scan = server.studies / "001.nii.gz"
    before = os.stat(scan)
    os.utime(scan, (0, 0))
    try:
        assert "image/001.nii.gz" in download(server).namelist()
    finally:
        os.utime(scan, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (2, 2), (5, 2), (0, 2), (-1, 2)])
def test_fewer_of_them(server, labeled, limit, count):
    assert len(download(server, limit_cases=limit).namelist()) == 2 * count + 1


@pytest.mark.parametrize("headers", [{}, {"range": "bytes=0-9"}, {"range": "bytes=x"}])
def test_nothing_stays_on_the_disk(server, labeled, temporary, headers):
    for _ in range(3):
        assert requests.get(f"{server.url}/datastore/dataset", headers=headers).status_code == 200
    assert list(temporary.iterdir()) == []
    assert until(lambda: not open_files(temporary)), "closed, a moment behind the last byte"


def test_nothing_stays_when_the_disk_is_full(server, labeled, temporary, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    assert requests.get(f"{server.url}/datastore/dataset").status_code == 507
    assert list(temporary.iterdir()) == []


def test_nothing_is_labeled(server):
    answer = requests.get(f"{server.url}/datastore/dataset")
    assert answer.status_code == 404 and answer.json()["detail"].startswith("No scan has a final label yet")
