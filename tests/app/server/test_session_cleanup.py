"""`lib.server.session_cleanup`: scans that were sent for a session do not stay."""

from __future__ import annotations

import os
import time
import uuid

import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed (pip install 'mnseg[app]')")
from lib.server.session_cleanup import remove_expired  # noqa: E402
from monailabel.utils.sessions import Sessions  # noqa: E402

HOUR = 3600


@pytest.fixture
def folder(tmp_path):
    """Of sessions."""
    (tmp_path / "sessions").mkdir()
    return tmp_path / "sessions"


def add(folder, expiry=0):
    """A session as MONAI Label makes it."""
    scan = folder.parent / "scan.nii.gz"
    scan.write_bytes(b"a patient")
    return Sessions(str(folder), HOUR).add_session(str(scan), expiry)[0]


def add_without_facts(folder, age, facts=None):
    """What a server leaves that is killed before the facts are written, or while they are."""
    path = folder / str(uuid.uuid1())
    path.mkdir()
    (path / "scan.nii.gz").write_bytes(b"a patient")
    if facts is not None:
        (path / "meta.info").write_bytes(facts)
    for one in (*path.iterdir(), path):
        os.utime(one, (time.time() - age,) * 2)
    return path.name


def removed(folder, later=0.0):
    """Names that a server removes which has made no session itself."""
    before = set(os.listdir(folder))
    count = remove_expired(Sessions(str(folder), HOUR), clock=lambda: time.time() + later)
    gone = before - set(os.listdir(folder))
    assert count == len(gone)
    return gone


def test_sessions_of_a_server_that_was_stopped(folder):
    short, long = add(folder, 100), add(folder)
    assert removed(folder) == set()
    assert removed(folder, 200) == {short} and removed(folder, HOUR + 100) == {long}


@pytest.mark.parametrize("facts", [None, b"", b'{"name": ', b"[1]", b'{"last_access_ts": "x"}', b"\xff\xfe\x00"])
def test_sessions_without_facts_go_by_their_age(folder, facts):
    old, new = (add_without_facts(folder, age, facts) for age in (HOUR + 100, 100))
    expired = add(folder, 1)
    assert removed(folder, 50) == {old, expired} and removed(folder, HOUR) == {new}


def test_a_session_that_cannot_be_removed_stops_nothing(folder, monkeypatch, caplog):
    names = [add(folder, 1), add(folder, 1)]
    remove = Sessions.remove_session

    def stays(self, session_id):
        if session_id == names[0]:
            raise PermissionError("not yours")
        remove(self, session_id)

    monkeypatch.setattr(Sessions, "remove_session", stays)
    assert removed(folder, 50) == {names[1]} and names[0] in caplog.text
    monkeypatch.setattr(Sessions, "remove_session", lambda self, session_id: None)
    assert removed(folder, 50) == set() and "still there" in caplog.text


def test_what_is_no_session_is_left_alone(folder):
    (folder / "of somebody else").mkdir()
    (folder / "notes.txt").write_text("x")
    assert removed(folder, 1e9) == set()
    assert remove_expired(Sessions(str(folder / "none"), HOUR)) == 0


def test_the_server_looks_although_it_has_made_no_session(server, monkeypatch):
    sessions = server.workspace / "sessions"
    sessions.mkdir(exist_ok=True)
    left = add_without_facts(sessions, server.app.sessions().expiry + 100)
    monkeypatch.setattr(server.app, "_sessions", Sessions(str(sessions), HOUR))
    server.app.cleanup_sessions()
    assert not (sessions / left).exists()
    monkeypatch.setattr(server.app, "_sessions", None)  # they may be switched off
    server.app.cleanup_sessions()
