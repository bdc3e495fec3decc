"""Labels that somebody puts into the folder, or changes there, are told; those that came through the server are not."""

from __future__ import annotations

import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed (pip install 'mnseg[app]')")

from lib.datastores.local import LocalScans  # noqa: E402


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


def test_what_was_found_by_a_start_that_did_not_get_through_is_told_by_the_next(by_hand, folder, scans):
    by_hand("a", b"label")
    LocalScans(folder, auto_reload=False).refresh()  # a server that looks, and ends before it trains anything
    again, told = LocalScans(folder, auto_reload=False), []
    assert again.get_labeled_images() == ["a"]
    again.on_changed = told.extend
    again.refresh()
    LocalScans(folder, auto_reload=False)
    assert told == ["a"] and "sha256" in (folder / "datastore_v2.json").read_text()


def test_a_start_that_did_not_get_through_costs_no_author(by_hand, folder, scans, tmp_path_factory):
    saved(scans, "a", b"label", tmp_path_factory)
    label, away = folder / "labels" / "final" / "a.nii.gz", folder / "away"
    label.rename(away)
    scans.refresh()
    away.rename(label)
    by_hand("b", b"label")
    LocalScans(folder, auto_reload=False).refresh()
    assert LocalScans(folder, auto_reload=False).get_label_info("a", "final")["author"] == "anna"


def test_whatever_writes_the_index_tells_what_was_found(by_hand, folder, scans):
    by_hand("a", b"label")
    again, told = LocalScans(folder, auto_reload=False), []
    again.on_changed = told.extend
    again.update_image_info("b", {"ward": "3"})
    assert told == ["a"], "killed now, the next server would take the label for a known one"
    again.refresh()
    assert told == ["a"]


def full(images):
    raise OSError(28, "No space left on device")


def test_what_could_not_be_told_is_told_again(scans, by_hand, folder):
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
    by_hand("a", b"label")
    scans.on_changed = full
    with pytest.raises(OSError, match="No space"):
        scans.refresh()
    assert "sha256" not in (folder / "datastore_v2.json").read_text()
    scans.on_changed = lambda images: None
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
