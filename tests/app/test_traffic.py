"""Training stands still while somebody waits for a mask."""

from __future__ import annotations

import threading
import time

from lib.infers.traffic import Traffic


def recorded(traffic):
    events = []
    traffic.listen(lambda: events.append("stop"), lambda: events.append("go"))
    return events


def test_first_stops_and_last_lets_go():
    traffic = Traffic()
    events = recorded(traffic)
    with traffic.inference():
        assert traffic.busy and events == ["stop"]
        with traffic.inference():
            assert events == ["stop"]
        assert events == ["stop"]
    assert events == ["stop", "go"] and not traffic.busy


def test_goes_on_after_an_inference_that_failed():
    traffic = Traffic()
    events = recorded(traffic)
    try:
        with traffic.inference():
            raise RuntimeError("no memory")
    except RuntimeError:
        pass
    assert events == ["stop", "go"]


def test_a_listener_that_fails_costs_nobody_a_mask(caplog):
    traffic = Traffic()
    traffic.listen(lambda: 1 / 0, lambda: 1 / 0)
    events = recorded(traffic)
    with traffic.inference():
        pass
    assert events == ["stop", "go"] and "listener" in caplog.text


def test_who_comes_during_an_inference_is_told_at_once():
    traffic = Traffic()
    with traffic.inference():
        assert recorded(traffic) == ["stop"]


def test_events_keep_their_order_among_many_threads():
    traffic = Traffic()
    events = recorded(traffic)

    def reader():
        for _ in range(200):
            with traffic.inference():
                pass

    threads = [threading.Thread(target=reader) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert events[::2] == ["stop"] * (len(events) // 2) and events[1::2] == ["go"] * (len(events) // 2)


def test_training_gets_a_turn_when_the_readers_never_pause():
    traffic = Traffic(patience=0.1, turn=0.1)
    events = recorded(traffic)
    with traffic.inference():
        time.sleep(0.55)
    assert events[:4] == ["stop", "go", "stop", "go"]
    seen = len(events)
    assert events[-1] == "go"
    time.sleep(0.25)
    assert len(events) == seen  # no timer goes on behind the last inference
