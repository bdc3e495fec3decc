"""When a training starts by itself."""

from __future__ import annotations

from datetime import datetime, time, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lib.retraining.policy import PolicySettings, PolicyState, decide, quiet_hours

from mnseg.errors import UserError

ZONE = timezone(timedelta(hours=2))
NOON = datetime(2026, 3, 5, 12, 0, tzinfo=ZONE)
LONG_AGO = NOON.timestamp() - 86400
TRAINED = PolicyState(last_end=LONG_AGO)


def ask(state=TRAINED, now=NOON, running=False, labeled=5, **settings):
    values = {"after_labels": 2, "pause_minutes": 10, "quiet_hours": None, "min_labels": 3} | settings
    return decide(PolicySettings(**values), state, now, running, labeled)


def waiting(*images, state=TRAINED):
    for image in images:
        state = state.label_saved(image)
    return state


def test_new_labels_are_counted_by_scan():
    assert not ask(waiting("a")).start and "1 of 2" in ask(waiting("a")).reason
    assert not ask(waiting("a", "a")).start  # the same scan, saved twice
    decision = ask(waiting("a", "b"))
    assert decision.start and decision.not_before is None and decision.reason == (
        "2 scans labeled since the last training began.")


def test_a_label_that_was_trained_on_counts_again_when_it_is_edited():
    state = waiting("a", "b").started().ended(LONG_AGO, "done")
    assert not ask(state).start
    assert ask(waiting("a", "b", state=state)).start


def test_scans_whose_label_is_gone_do_not_count_until_it_is_back():
    state = waiting("a", "b", "a")
    assert not ask(state.with_labels(["b", "c"])).start and ask(state.with_labels(["a", "b"])).start
    assert state.with_labels(["b"]).waiting == ("b",)


def test_labels_that_come_during_a_run_start_the_next():
    state = waiting("a", "b").started()
    assert state.waiting == () and state.in_run == ("a", "b")
    state = waiting("c", "d", state=state)
    assert not ask(state, running=True).start
    state = state.ended(LONG_AGO, "done")
    assert state.in_run == () and ask(state).start


def test_never_two_at_once():
    state = waiting("a", "b", "c").asked("anna")
    decision = ask(state, running=True)
    assert not decision.start and "is running" in decision.reason


def test_the_first_training_waits_for_min_labels_alone():
    fresh = PolicyState()
    assert not ask(fresh, labeled=2, after_labels=50).start
    assert ask(fresh, labeled=2).reason == "2 scans of at least 3 labeled; label 1 more."
    assert ask(fresh, labeled=3, after_labels=50).start  # also labels that lay there before the server


def test_the_pause():
    ended = NOON.timestamp() - 5 * 60
    state = waiting("a", "b", state=PolicyState(last_end=ended))
    decision = ask(state)
    assert not decision.start and decision.not_before == NOON + timedelta(minutes=5)
    assert "12:05" in decision.reason and "pause" in decision.reason
    assert ask(state, now=NOON + timedelta(minutes=5)).start
    assert ask(state, pause_minutes=0).start
    future = waiting("a", "b", state=PolicyState(last_end=NOON.timestamp() + 1e8))  # the clock was set back
    assert ask(future).not_before == NOON + timedelta(minutes=10)


def test_an_end_in_the_future_counts_as_an_end_now():
    past, now = PolicyState(last_end=LONG_AGO), NOON.timestamp()
    assert past.at(now) is past and PolicyState().at(now) == PolicyState()
    state = waiting("a", "b", state=PolicyState(last_end=now + 1e8)).at(now)
    assert ask(state, now=NOON + timedelta(minutes=9)).not_before == NOON + timedelta(minutes=10)
    assert ask(state, now=NOON + timedelta(minutes=10)).start


@pytest.mark.parametrize(("hours", "clock", "end"), [
    ("22:00-06:00", (21, 59), None),
    ("22:00-06:00", (22, 0), (6, 6, 0)),
    ("22:00-06:00", (23, 59), (6, 6, 0)),
    ("22:00-06:00", (0, 0), (5, 6, 0)),
    ("22:00-06:00", (5, 59), (5, 6, 0)),
    ("22:00-06:00", (6, 0), None),
    ("08:00-18:30", (7, 59), None),
    ("08:00-18:30", (8, 0), (5, 18, 30)),
    ("08:00-18:30", (18, 29), (5, 18, 30)),
    ("08:00-18:30", (18, 30), None),
    ("18:00-00:00", (17, 0), None),
    ("18:00-00:00", (23, 0), (6, 0, 0)),
    ("18:00-00:00", (0, 0), None),
])
def test_quiet_hours(hours, clock, end):
    now = datetime(2026, 3, 5, *clock, tzinfo=ZONE)
    decision = ask(waiting("a", "b"), now=now, quiet_hours=quiet_hours(hours))
    assert decision.start is (end is None)
    if end:
        day, hour, minute = end
        assert decision.not_before == datetime(2026, 3, day, hour, minute, tzinfo=ZONE)
        assert "quiet hours" in decision.reason


def test_a_pause_that_ends_in_quiet_hours():
    now = datetime(2026, 3, 5, 21, 55, tzinfo=ZONE)
    state = waiting("a", "b", state=PolicyState(last_end=now.timestamp()))
    decision = ask(state, now=now, quiet_hours=quiet_hours("22:00-06:00"))
    assert decision.not_before == datetime(2026, 3, 6, 6, 0, tzinfo=ZONE)


def test_now_overrides_pause_quiet_hours_and_off_but_not_too_few_labels():
    night = datetime(2026, 3, 5, 23, 0, tzinfo=ZONE)
    state = PolicyState(on=False, last_end=night.timestamp()).asked("anna", from_scratch=True)
    decision = ask(state, now=night, quiet_hours=quiet_hours("22:00-06:00"))
    assert decision.start and decision.reason == "anna asked for it." and state.from_scratch
    assert not ask(state, labeled=2).start
    assert not ask(state, running=True).start
    assert not ask(state.withdrawn()).start
    begun = state.started()
    assert begun.asked_by is None and not begun.from_scratch


def test_off():
    state = waiting("a", "b").switched(False)
    assert not ask(state).start and "switched off" in ask(state).reason
    assert ask(state.switched(True)).start


def test_stopped_failed_killed():
    begun = waiting("a", "b").started()
    stopped = begun.ended(LONG_AGO, "stopped")
    assert not ask(stopped).start and not stopped.again

    killed = begun.ended(NOON.timestamp(), "killed")
    assert killed.last_end == LONG_AGO and killed.waiting == ("a", "b") and ask(killed).start

    failed = begun.ended(NOON.timestamp(), "failed")
    assert failed.failures == 1 and ask(failed).not_before == NOON + timedelta(minutes=20)
    twice = failed.started().ended(NOON.timestamp(), "failed")
    assert ask(twice).not_before == NOON + timedelta(minutes=40)
    for _ in range(60):
        twice = twice.started().ended(NOON.timestamp(), "failed")
    assert ask(twice).not_before == NOON + timedelta(days=1)
    assert twice.started().ended(LONG_AGO, "done").failures == 0

    first = PolicyState().started().ended(LONG_AGO, "failed")  # labels that nobody saved here: none waits
    assert ask(first).start and "repeated" in ask(first).reason
    with pytest.raises(ValueError, match="cannot end"):
        begun.ended(0, "exploded")


@given(st.integers(0, 9), st.integers(0, 1439), st.integers(0, 1439), st.integers(0, 2000), st.booleans(),
       st.booleans(), st.integers(0, 6))
def test_a_wait_ends_when_it_says(new, minute, length, since, on, asked, labeled):
    """Whoever waits until ``not_before`` is let through then, and was not a second earlier."""
    begin = time(minute // 60, minute % 60)
    end = (datetime.combine(NOON, begin) + timedelta(minutes=length)).time()
    settings = PolicySettings(2, 30, (begin, end) if begin != end else None, 3)
    state = PolicyState(on=on, waiting=tuple(map(str, range(new))), last_end=NOON.timestamp() - 60 * since,
                        asked_by="a" if asked else None)
    decision = decide(settings, state, NOON, False, labeled)
    assert decision.reason.endswith(".")
    if decision.not_before is not None:
        assert not decision.start and NOON < decision.not_before <= NOON + timedelta(days=1, minutes=30)
        assert decide(settings, state, decision.not_before, False, labeled).start
        assert not decide(settings, state, decision.not_before - timedelta(seconds=1), False, labeled).start
    else:
        assert decision.start is (labeled >= 3 and (asked or (on and new >= 2)))


@pytest.mark.parametrize("text", ["22:00", "22-6", "25:00-06:00", "22:00-22:00", "a-b", 7, "1:00-2:00-3:00"])
def test_wrong_quiet_hours(text):
    with pytest.raises(UserError, match="quiet_hours"):
        quiet_hours(text)


def test_right_quiet_hours():
    assert quiet_hours(" 22:00 - 6:30 ") == (time(22), time(6, 30))
    assert quiet_hours("") is None and quiet_hours(None) is None


@pytest.mark.parametrize("wrong", [{"after_labels": 0}, {"min_labels": 0}, {"pause_minutes": -1},
                                   {"pause_minutes": float("nan")}, {"pause_minutes": float("inf")}])
def test_wrong_settings(wrong):
    with pytest.raises(UserError):
        PolicySettings(**wrong)
