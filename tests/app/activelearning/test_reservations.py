"""Several readers get different scans."""

from __future__ import annotations

import threading

import pytest
from lib.activelearning.reservations import Reservations
from lib.errors import RequestError

IMAGES = ["a", "b", "c"]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def first(free, others):
    return min(free)


def test_two_clients_and_the_time_of_a_reservation(clock):
    book = Reservations(30, clock)
    offer = book.offer("ann", IMAGES, first)
    assert (offer.image, offer.note, offer.until) == ("a", "", 1000 + 30 * 60)
    assert book.offer("ben", IMAGES, first).image == "b"
    clock.now += 30 * 60
    assert book.current() == {}
    assert book.offer("cem", IMAGES, first).image == "a"


def test_asking_again_puts_the_scan_back_for_others_and_last_for_oneself(clock):
    book = Reservations(30, clock)
    assert [book.offer("ann", IMAGES, first).image for _ in range(3)] == ["a", "b", "c"]
    assert set(book.current()) == {"c"}
    assert book.offer("ben", IMAGES, first).image == "a"
    again = book.offer("ann", IMAGES, first)
    assert again.image == "b" and "had this scan before" in again.note


def test_choose_sees_what_others_have_open(clock):
    book = Reservations(30, clock)
    book.offer("ann", IMAGES, first)
    seen = []
    book.offer("ben", IMAGES, lambda free, others: seen.append((free, others)) or free[0])
    assert seen == [(["b", "c"], ["a"])]


def test_all_open_gives_the_one_that_has_been_open_longest(clock):
    book = Reservations(30, clock)
    for name in ("ann", "ben", "cem"):
        book.offer(name, IMAGES, first)
        clock.now += 60
    offer = book.offer("dan", IMAGES, first)
    assert offer.image == "a" and "3 min" in offer.note
    assert book.offer("eva", IMAGES, first).image == "b", "a is dan's now, and b the oldest"


def test_shared_names_keep_every_scan(clock):
    """Two Slicers whose users have not set a name."""
    for name in ("user-xyz", ""):
        book = Reservations(30, clock)
        assert [book.offer(name, IMAGES, first).image for _ in range(3)] == IMAGES
        assert len(book.current()) == 3


def test_a_saved_label_ends_it_even_for_a_list_that_was_read_before(clock):
    book = Reservations(30, clock)
    book.offer("ann", IMAGES, first)
    book.release("a")
    assert book.current() == {}
    assert book.offer("ben", IMAGES, first).image == "b"
    assert book.offer("ann", ["a"], first) is None
    clock.now += 61
    assert book.offer("ann", ["a"], first).image == "a", "its label was removed"


def test_a_clock_that_was_set_back_keeps_nothing_longer(clock):
    clock.now = 1000.0 + 365 * 86400
    book = Reservations(30, clock)
    book.offer("ann", IMAGES, first), book.offer("ann", IMAGES, first)  # "a" is passed over, "b" is open
    book.release("c")
    clock.now = 1000.0
    kept = book.current()["b"]
    assert (kept.since, kept.until) == (1000, 1000 + 30 * 60)
    clock.now += 31 * 60
    assert book.current() == {}
    assert book.offer("ben", ["c"], first).image == "c", "its label was deleted since"
    clock.now += 24 * 3600
    assert book.offer("ann", ["a", "b"], first).note == "", "a day has passed since it was passed over"


def test_using_a_scan_holds_it_unless_somebody_has_it(clock):
    book = Reservations(30, clock)
    assert book.hold("b", "ann")
    clock.now += 1500
    assert book.hold("b", "ann") and not book.hold("b", "ben")
    assert book.current()["b"].until == 1000 + 1500 + 1800 and book.current()["b"].since == 1000
    assert book.offer("ben", ["b", "c"], first).image == "c"


def test_nothing_left():
    assert Reservations().offer("ann", [], first) is None


def test_kept_over_a_restart_and_a_broken_file_is_ignored(clock, tmp_path):
    path = tmp_path / "open.json"
    Reservations(30, clock, path).offer("ann", IMAGES, first)
    assert Reservations(30, clock, path).offer("ben", IMAGES, first).image == "b"
    for content in ("[{", '[{"image": "a"}]', '{"a": 1}', '[{"image": "a", "client": 1, "since": "x", "until": 2}]'):
        path.write_text(content)
        assert Reservations(30, clock, path).offer("ben", IMAGES, first).image == "a"


@pytest.mark.parametrize(("key", "value"), [
    ("client", '"\\ud800"'), ("client", "null"), ("image", '"\\udcff"'), ("image", '["b"]'), ("since", "NaN"),
    ("until", "Infinity"), ("until", "1e999"), ("until", "1" + "0" * 400),
])
def test_of_a_broken_file_the_sound_entries_are_taken(clock, tmp_path, key, value):
    path = tmp_path / "open.json"
    entry = {"image": '"b"', "client": '"ben"', "since": "1", "until": "5000", key: value}
    broken = ", ".join(f'"{key}": {value}' for key, value in entry.items())
    path.write_text(f'[{{{broken}}}, {{"image": "a", "client": "ann", "since": 1, "until": 1e300}}]')
    book = Reservations(30, clock, path)
    assert list(book.current()) == ["a"]
    assert book.current()["a"].until == 1000 + 30 * 60, "no longer than from now on"
    path.write_text("[" * 100_000)
    assert Reservations(30, clock, path).current() == {}


def test_a_name_that_cannot_be_stored_is_refused(clock, tmp_path):
    book = Reservations(30, clock, tmp_path / "open.json")
    for use in (lambda: book.offer("\ud800", IMAGES, first), lambda: book.hold("a", "\ud800")):
        with pytest.raises(RequestError, match="no character"):
            use()
    assert book.current() == {}


def test_eight_threads_get_different_scans():
    """Each takes four scans at the same time as the others: 32 different ones, none lost, none twice."""
    book = Reservations()
    images = [f"{i:02d}" for i in range(32)]
    got: list[str] = []
    start = threading.Barrier(8)

    def read(client: str) -> None:
        start.wait()
        for _ in range(4):
            image = book.offer(client, images, first).image
            got.append(image)
            book.release(image)

    threads = [threading.Thread(target=read, args=(f"client {k}",)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(got) == images
