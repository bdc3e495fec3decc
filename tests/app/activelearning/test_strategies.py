"""Next sample, as MONAI Label asks for it."""

from __future__ import annotations

import json
import random
import threading

import pytest

pytest.importorskip("monailabel")
from lib.activelearning.reservations import Reservations  # noqa: E402
from lib.activelearning.strategies import Disagreement, First, Random, all_strategies  # noqa: E402
from lib.errors import RequestError  # noqa: E402
from monailabel.datastore.local import LocalDatastore  # noqa: E402
from monailabel.interfaces.tasks.strategy import Strategy  # noqa: E402


class Store:
    """The part of MONAI Label's datastore that is asked."""

    def __init__(self, images, labeled=()):
        self.images, self.labeled, self.asked = list(images), set(labeled), None

    def list_images(self):
        return list(self.images)

    def get_unlabeled_images(self, label_tag=None, labels=None):
        self.asked = (label_tag, labels)
        return [image for image in reversed(self.images) if image not in self.labeled]


def write(path, values, at=None):
    scans = {name: {"disagreement": value, "features": [float((at or {}).get(name, 100 * i)), 0.0]}
             for i, (name, value) in enumerate(values.items())}  # fmt: skip
    path.write_text(json.dumps({"scans": scans}))
    return path


@pytest.fixture
def make(tmp_path):
    """Strategies on scores.json with the given disagreement; None: nothing trained."""

    def made(values=None, at=None):
        source = (lambda: None) if values is None else lambda: ("mnseg 0003", path)
        path = None if values is None else write(tmp_path / "scores.json", values, at)
        return all_strategies(Reservations(), source)

    return made


def ask(strategy, store, client="ann", **more):
    return strategy({"strategy": "x", "client_id": client, **more}, store)


def test_scans_that_a_training_left_out_come_last_with_the_reason(tmp_path):
    path = write(tmp_path / "scores.json", {"a": 0.9, "b": 0.1})
    strategies = all_strategies(Reservations(), lambda: ("mnseg 0003", path), lambda: {"c": "it is empty", "d": "NaN"})
    for strategy in strategies.values():
        rows = strategy.queue(Store("cdab"))
        assert sorted(row["id"] for row in rows[:2]) == ["a", "b"]
        assert [(row["id"], row["reason"]) for row in rows[2:]] == [
            ("c", "cannot be trained on: it is empty"), ("d", "cannot be trained on: NaN")]
    assert [ask(strategies["disagreement"], Store("cdab"), client)["id"] for client in "xyzw"] == ["a", "b", "c", "d"]


def test_they_are_monai_labels_and_disagreement_is_first(make):
    strategies = make()
    assert list(strategies) == ["disagreement", "random", "first"]
    assert all(isinstance(strategy, Strategy) and strategy.info()["description"] for strategy in strategies.values())


def test_largest_disagreement_first_with_reason(make):
    strategy, store = make({"a": 0.1, "b": 0.314, "c": 0.2})["disagreement"], Store("abc")
    answer = ask(strategy, store)
    assert answer["id"] == "b" and answer["reason"] == "disagreement 0.31, rank 1 of 3"
    assert (answer["disagreement"], answer["rank"], answer["of"], answer["version"]) == (0.314, 1, 3, "mnseg 0003")
    assert answer["reserved_until"] > 0 and "note" not in answer
    json.dumps(answer)
    assert ask(strategy, store, "ben")["reason"] == "disagreement 0.20, rank 2 of 3"


def test_look_alikes_of_labeled_and_open_scans_wait(make):
    """b2 is a copy of b; l is labeled, and a copy of it stands highest."""
    at = {"a": 0, "b": 50, "b2": 50, "l": 90, "l2": 90}
    strategy = make({"a": 0.1, "b": 0.4, "b2": 0.39, "l": 0.5, "l2": 0.49}, at)["disagreement"]
    store = Store(["a", "b", "b2", "l", "l2"], {"l"})
    first, second = ask(strategy, store), ask(strategy, store, "ben")
    assert [first["id"], second["id"]] == ["b", "a"]
    assert first["reason"].startswith("disagreement 0.40, rank 2 of 4; those above it look like")
    assert second["rank"] == 4


def test_scans_that_arrived_later_come_in_between(make):
    """Half of 40 scans have no score: among the first half of the queue are about half of those."""
    values = {f"s{i:02d}": 0.01 * i for i in range(20)}
    strategy = make(values)["disagreement"]
    store = Store([*values, *(f"new{i:02d}" for i in range(20))])
    queue = strategy.queue(store, 40)
    early = [row for row in queue[:20] if row["id"].startswith("new")]
    assert len({row["id"] for row in queue}) == 40 and 5 <= len(early) <= 15
    assert early[0]["reason"] == "not scored yet; its place is drawn"
    assert [row["id"] for row in strategy.queue(store, 40)] == [row["id"] for row in queue], "the order stands still"


def test_empty_and_unreadable_scans(tmp_path):
    scans = {"a": {"disagreement": 0.0, "features": [0.0]}, "empty": {"disagreement": None, "features": [9.0]},
             "bad": {"fault": "bad.nii.gz is damaged"}}  # fmt: skip
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({"scans": scans}))
    strategy = all_strategies(Reservations(), lambda: ("0003", path))["disagreement"]
    rows = strategy.queue(Store(["bad", "empty", "a"]))
    assert rows[-1]["id"] == "bad" and rows[-1]["reason"] == "could not be scored (bad.nii.gz is damaged)"
    reasons = {row["id"]: row["reason"] for row in rows}
    assert reasons["empty"].startswith("neither network sees anything in it")


def test_before_anything_is_trained(make):
    strategy, store = make()["disagreement"], Store("abcdefghi")
    answer = ask(strategy, store)
    assert answer["id"] == "a" and "there are no scores to go by" in answer["note"]
    assert ask(strategy, store, "ben")["id"] == "i", "far in the list from what is open"


def test_asking_again_and_all_open_and_none_left(make):
    strategy, store = make({"a": 0.2, "b": 0.1})["disagreement"], Store("ab")
    assert [ask(strategy, store)["id"] for _ in range(2)] == ["a", "b"]
    assert "had this scan before" in ask(strategy, store)["note"]
    assert ask(strategy, store, "ben")["id"] == "b"
    late = ask(strategy, store, "cem")
    assert late["id"] == "a" and "every scan is open" in late["note"] and late["reason"].startswith("disagreement 0.20")
    store.labeled = {"a", "b"}
    assert ask(strategy, store) == {}


def test_queue_shows_open_scans_first(make):
    strategy, store = make({"a": 0.3, "b": 0.2, "c": 0.1})["disagreement"], Store("abc")
    ask(strategy, store)
    rows = strategy.queue(store)
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["client"] == "ann" and rows[0]["reason"] == "open" and rows[1]["rank"] == 2
    assert [row["id"] for row in strategy.queue(store, 2)] == ["a", "b"]


def test_first_and_random():
    store = Store(["c", "a", "b"])
    assert ask(First(Reservations()), store)["id"] == "a"
    rng, counts = random.Random(0), dict.fromkeys("abc", 0)
    for _ in range(300):
        counts[ask(Random(Reservations(), rng), store)["id"]] += 1
    assert all(70 < count < 130 for count in counts.values())
    assert sorted(row["id"] for row in Random(Reservations(), rng).queue(store)) == ["a", "b", "c"]


def test_keys_of_a_request(make):
    strategy, store = make()["first"], Store("ab")
    assert ask(strategy, store, label_tag="final", labels="heart", max_epochs=5)["id"] == "a"
    assert store.asked == ("final", ["heart"])
    ask(strategy, store, labels={"heart": 1, "lung": 2})
    assert store.asked == (None, ["heart", "lung"])
    assert strategy({}, store)["id"]
    for wrong in ({"client_id": 3}, {"client_id": "x" * 300}, {"label_tag": ["final"]}, {"labels": 3}, {"labels": [1]}):
        with pytest.raises(RequestError) as caught:
            strategy(wrong, store)
        assert caught.value.status == 400 and next(iter(wrong)) in caught.value.sentence


def test_eight_readers_at_once_get_different_scans(make):
    values = {f"{i:02d}": i / 50 for i in range(40)}
    strategies, store = make(values), Store(values)
    start, got = threading.Barrier(8), []

    def read(k: int) -> None:
        strategy = strategies[["disagreement", "random", "first"][k % 3]]
        start.wait()
        got.append(ask(strategy, store, f"client {k}")["id"])

    threads = [threading.Thread(target=read, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(got) == len(set(got)) == 8


def test_monai_labels_own_store(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.nii.gz").write_bytes(b"")
    store = LocalDatastore(str(tmp_path), extensions=["*.nii.gz"], auto_reload=False)
    strategy = Disagreement(Reservations(), lambda: None)
    assert ask(strategy, store)["id"] == "a"
    assert [row["id"] for row in strategy.queue(store)] == ["a", "b"]
