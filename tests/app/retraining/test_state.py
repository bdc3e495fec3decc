"""The policy's state survives the server, and faults of its file."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from lib.retraining.policy import PolicyState
from lib.retraining.state import StateStore


def test_the_state_survives(tmp_path):
    store = StateStore(tmp_path / "state.json")
    assert store.load() == PolicyState()
    state = PolicyState().label_saved("a", "b").started().label_saved("ü/c").asked("anna", True)
    state = state.ended(5.0, "failed").switched(False)
    store.save(state)
    assert StateStore(tmp_path / "state.json").load() == state


@pytest.mark.parametrize("content", [
    b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"waiting": "abc"}', b'{"waiting": [1]}', b'{"last_end": "now"}',
    b'{"last_end": NaN}', b'{"last_end": 1e300}', b'{"last_end": Infinity}', b'{"failures": -1}', b'{"on": 1}',
    b"[" * 100_000,
])
def test_a_broken_file_is_set_aside_and_told(tmp_path, content):
    told = []
    path = tmp_path / "state.json"
    path.write_bytes(content)
    store = StateStore(path, told.append)
    assert store.load() == PolicyState(on=False), "it may have been off before"
    assert len(told) == 1 and "is off until somebody switches it on, the old file is state.broken.json" in told[0]
    assert StateStore(path, told.append).load() == PolicyState(on=False) and len(told) == 1, "after a restart, too"
    assert (tmp_path / "state.broken.json").read_bytes() == content
    assert store.change(lambda state: state.label_saved("a")).waiting == ("a",)
    assert store.load().waiting == ("a",) and len(told) == 1


def test_a_file_that_cannot_be_read_for_a_moment_is_not_forgotten(tmp_path, monkeypatch):
    told, path = [], tmp_path / "state.json"
    state = PolicyState(on=False, waiting=("a", "b"), last_end=1.0)
    StateStore(path).save(state)
    known, fresh = StateStore(path, told.append), StateStore(path, told.append)
    assert known.load() == state
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", too_many_files)
        assert known.load() == state
        with pytest.raises(OSError, match="Too many open files"):
            fresh.load()
        assert known.change(lambda state: state.label_saved("c")).waiting == ("a", "b", "c")
    assert not told and fresh.load() == known.load() == state.label_saved("c")
    assert [file.name for file in tmp_path.iterdir()] == ["state.json"]


def too_many_files(path):
    raise OSError(24, "Too many open files")


def test_a_file_that_vanished_is_what_it_was(tmp_path):
    store = StateStore(tmp_path / "state.json")
    store.save(PolicyState(on=False, waiting=("a",)))
    (tmp_path / "state.json").unlink()
    assert store.change(lambda state: state.label_saved("b")).waiting == ("a", "b")
    assert StateStore(tmp_path / "state.json").load() == PolicyState(on=False, waiting=("a", "b"))


def test_keys_of_another_version_are_passed_over(tmp_path):
    path = tmp_path / "state.json"
    path.write_text(json.dumps({"waiting": ["a"], "later": {"x": 1}}))
    assert StateStore(path).load() == PolicyState(waiting=("a",))


def test_eight_threads_lose_no_label(tmp_path):
    store = StateStore(tmp_path / "state.json")

    def work(thread):
        for number in range(10):
            store.change(lambda state, image=f"{thread}/{number}": state.label_saved(image))

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.load().waiting) == 80
