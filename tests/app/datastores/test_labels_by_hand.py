"""Labels that somebody puts into the folder, or changes there, are told; those that came through the server are not."""

from __future__ import annotations

import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed (pip install 'mnseg[app]')")

from lib.datastores.local import LocalScans  # noqa: E402


@pytest.fixture
def folder(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "labels" / "final").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def scans(folder):
    return LocalScans(folder, auto_reload=False)


@pytest.fixture
def told(scans):
    images = []
    scans.on_changed = images.extend
    return images


@pytest.fixture
def by_hand(folder):
    return lambda image, content, tag="final": (folder / "labels" / tag / f"{image}.nii.gz").write_bytes(content)


def saved(scans, image, content, tmp_path_factory):
    file = tmp_path_factory.mktemp("uploads") / "label.nii.gz"
    file.write_bytes(content)
    scans.save_label(image, str(file), "final", {"author": "anna"})


def test_a_label_that_is_put_there_or_changed_is_told_once(scans, told, by_hand, tmp_path_factory):
    by_hand("a", b"first")
    scans.refresh()
    scans.refresh()
    assert told == ["a"]
    by_hand("a", b"second")
    scans.refresh()
    scans.refresh()
    assert told == ["a", "a"]
    saved(scans, "a", b"third", tmp_path_factory)
    scans.refresh()
    assert told == ["a", "a"], "the server's own are told by who saves them"
    by_hand("a", b"over the server's")
    scans.refresh()
    assert told == ["a", "a", "a"]
    by_hand("b", b"a draft", "original")
    scans.refresh()
    assert told == ["a", "a", "a"]


def test_a_label_that_was_only_away_is_no_news_but_another_in_its_place_is(scans, told, by_hand, folder):
    by_hand("a", b"first")
    scans.refresh()
    told.clear()
    label, away = folder / "labels" / "final" / "a.nii.gz", folder / "away"
    for comes_back, news in ((b"first", []), (b"another", ["a"])):
        label.rename(away)
        scans.refresh()
        assert scans.get_labeled_images() == []
        away.write_bytes(comes_back)
        away.rename(label)
        scans.refresh()
        assert scans.get_labeled_images() == ["a"] and told == news


def test_what_was_put_there_or_changed_while_no_server_ran_is_told(scans, by_hand, folder, tmp_path_factory):
    saved(scans, "a", b"label", tmp_path_factory)
    by_hand("a", b"changed")
    by_hand("b", b"new")
    again, told = LocalScans(folder, auto_reload=False), []
    again.on_changed = told.extend
    again.refresh()
    assert sorted(told) == ["a", "b"]


def test_what_could_not_be_told_is_told_again(scans, by_hand, folder):
    def full(images):
        raise OSError(28, "No space left on device")

    by_hand("a", b"label")
    scans.on_changed = full
    with pytest.raises(OSError, match="No space"):
        scans.refresh()
    again, told = LocalScans(folder, auto_reload=False), []
    again.on_changed = told.extend
    again.refresh()
    assert told == ["a"], "the index did not yet say that it is known"
    scans.on_changed = told.extend
    scans.refresh()
    assert told == ["a", "a"]


def test_a_label_that_could_not_be_told_at_first_is_in_the_index_in_the_end(scans, by_hand, folder):
    def full(images):
        raise OSError(28, "No space left on device")

    by_hand("a", b"label")
    scans.on_changed = full
    with pytest.raises(OSError, match="No space"):
        scans.refresh()
    assert "sha256" not in (folder / "datastore_v2.json").read_text()
    scans.on_changed = None
    scans.refresh()
    assert "sha256" in (folder / "datastore_v2.json").read_text()


def test_a_label_of_an_older_servers_index_is_told_when_it_changes(scans, told, by_hand):
    by_hand("a", b"label")
    scans.refresh()
    del scans._datastore.objects["a"].labels["final"].info["sha256"]
    told.clear()
    scans.refresh()
    assert told == []
    by_hand("a", b"changed")
    scans.refresh()
    assert told == ["a"]
