"""When the server trains by itself: a pure decision on a state."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta

from mnseg.errors import UserError

__all__ = ["Decision", "PolicySettings", "PolicyState", "decide", "quiet_hours"]

# A training that fails again and again waits twice as long each time, up to this.
LONGEST_PAUSE = timedelta(days=1)


def quiet_hours(text: str | None) -> tuple[time, time] | None:
    """``"22:00-06:30"`` as begin and end of the hours in which no training starts by itself; None and "" are none.

    Raises:
        UserError: no two different times of day.
    """
    if not text:
        return None
    try:
        begin, end = (datetime.strptime(part.strip(), "%H:%M").time() for part in text.split("-"))
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"quiet_hours {text!r} is no span of hours; write it like 22:00-06:00.") from error
    if begin == end:
        raise UserError(f"quiet_hours {text!r} begins and ends at the same time; leave it out, or switch retraining "
                        "off.")
    return begin, end


@dataclass(frozen=True)
class PolicySettings:
    """When a training starts by itself.

    Args:
        after_labels: scans labeled, or labeled again, since the last training began.
        pause_minutes: least time between the end of a training and the start of the next.
        quiet_hours: begin and end, times of day in the server's time zone; the end may lie on the next day.
        min_labels: labeled scans without which nothing is trained, not even when somebody asks; the first training
            starts as soon as there are so many.

    Raises:
        UserError: a number that cannot be meant.
    """

    after_labels: int = 3
    pause_minutes: float = 10.0
    quiet_hours: tuple[time, time] | None = None
    min_labels: int = 3

    def __post_init__(self) -> None:
        if self.after_labels < 1:
            raise UserError(f"retrain_after is {self.after_labels}; it must be at least 1.")
        if self.min_labels < 1:
            raise UserError(f"min_labels is {self.min_labels}; it must be at least 1.")
        if not 0 <= self.pause_minutes < math.inf:
            raise UserError(f"retrain_pause is {self.pause_minutes}; it must be a number of minutes from 0 on.")


@dataclass(frozen=True)
class PolicyState:
    """What the policy must remember. Every method returns the next state; nothing is changed in place.

    Args:
        on: whether trainings start by themselves.
        waiting: scans labeled, or labeled again, since the last training began; a scan counts once.
        in_run: those that the training under way has taken over.
        last_end: when the last training ended, in seconds since 1970; None before the first.
        asked_by: who asked for a training that has not started yet.
        from_scratch: that training shall not start from the published version.
        failures: trainings that failed since the last one that ended well.
        again: the last training failed or was killed, so its labels were not used: it is repeated without new ones.
    """

    on: bool = True
    waiting: tuple[str, ...] = ()
    in_run: tuple[str, ...] = ()
    last_end: float | None = None
    asked_by: str | None = None
    from_scratch: bool = False
    failures: int = 0
    again: bool = False

    def label_saved(self, *image_ids: str) -> PolicyState:
        """Final labels came, the first of their scans or newer ones."""
        return replace(self, waiting=_joined(self.waiting, image_ids))

    def with_labels(self, labeled: Collection[str]) -> PolicyState:
        """Without scans whose label is gone. To be decided on, not to be saved: a share may only be away."""
        labeled = set(labeled)
        return replace(self, waiting=tuple(image_id for image_id in self.waiting if image_id in labeled))

    def at(self, now: float) -> PolicyState:
        """As of now: an end that lies in the future, because the clock was set back, counts as an end now. It must be
        saved, or the pause behind it would begin anew with every look."""
        return self if self.last_end is None or self.last_end <= now else replace(self, last_end=now)

    def asked(self, by: str, from_scratch: bool = False) -> PolicyState:
        """Somebody wants a training now; while one runs, it starts when that one ends."""
        return replace(self, asked_by=by, from_scratch=from_scratch)

    def withdrawn(self) -> PolicyState:
        """Nobody wants a training any more."""
        return replace(self, asked_by=None, from_scratch=False)

    def switched(self, on: bool) -> PolicyState:
        """Trainings start by themselves, or do not."""
        return replace(self, on=on)

    def started(self) -> PolicyState:
        """A training began: it takes over what waited; labels that come from now on wait for the next one."""
        return replace(self, waiting=(), in_run=_joined(self.in_run, self.waiting), asked_by=None, from_scratch=False,
                       again=False)

    def ended(self, now: float, outcome: str) -> PolicyState:
        """The training ended.

        Args:
            now: seconds since 1970.
            outcome: "done"; "stopped" by a person: new labels are waited for; "failed": it is tried again, after a
                pause that doubles with every failure in a row; "killed" together with the server: it is tried again,
                and no pause begins.
        """
        if outcome not in ("done", "stopped", "failed", "killed"):
            raise ValueError(f"a training cannot end as {outcome!r}")
        again = outcome in ("failed", "killed")
        unused = self.in_run if again else ()
        failures = {"done": 0, "failed": self.failures + 1}.get(outcome, self.failures)
        last_end = self.last_end if outcome == "killed" else now
        return replace(self, waiting=_joined(unused, self.waiting), in_run=(), last_end=last_end, failures=failures,
                       again=again)


def _joined(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))


@dataclass(frozen=True)
class Decision:
    """Whether a training starts.

    Args:
        start: it starts now.
        reason: why, or why not, in a sentence.
        not_before: only time is missing: it starts then, unless something changes. None: something else is.
    """

    start: bool
    reason: str
    not_before: datetime | None = None


def decide(settings: PolicySettings, state: PolicyState, now: datetime, running: bool, labeled: int) -> Decision:
    """Whether a training starts. Pure: equal arguments, equal decision.

    Args:
        settings: the user's wishes.
        state: what has happened.
        now: the time in the server's time zone; ``quiet_hours`` are compared with its time of day.
        running: a training is under way.
        labeled: scans that have a final label.
    """
    if running:
        return Decision(False, "A training is running; the next one can start when it has ended.")
    if labeled < settings.min_labels:
        missing = settings.min_labels - labeled
        return Decision(False, f"{_scans(labeled)} of at least {settings.min_labels} labeled; label {missing} more.")
    if state.asked_by is not None:
        return Decision(True, f"{state.asked_by} asked for it.")
    if not state.on:
        return Decision(False, "Retraining by itself is switched off.")
    # Before the first training every label is news, also one that lay in the folder when the server started.
    is_first = state.last_end is None
    new, wanted = (labeled, settings.min_labels) if is_first else (len(state.waiting), settings.after_labels)
    if new < wanted and not state.again:
        return Decision(False, f"{new} of {wanted} scans labeled since the last training began.")
    start = _earliest(settings, state, now)
    news = f"{_scans(new)} labeled{'' if is_first else ' since the last training began'}"
    if state.again:
        news = "The last training did not end well and is repeated"
    if start > now:
        return Decision(False, f"{news}; the training starts at {start:%H:%M} ({_obstacle(settings, now)}).", start)
    return Decision(True, f"{news}.")


def _scans(count: int) -> str:
    return f"{count} scan{'' if count == 1 else 's'}"


def _obstacle(settings: PolicySettings, now: datetime) -> str:
    return "quiet hours" if _end_of_quiet(settings.quiet_hours, now) is not None else "pause after the last one"


def _earliest(settings: PolicySettings, state: PolicyState, now: datetime) -> datetime:
    """The first moment from ``now`` on that lies behind the pause and outside of the quiet hours."""
    start = now
    if state.last_end is not None:
        # 2**30 minutes are more than any pause; a larger power would overflow.
        pause = timedelta(minutes=min(settings.pause_minutes * 2 ** min(state.failures, 30), 2**30))
        longest = max(LONGEST_PAUSE, timedelta(minutes=min(settings.pause_minutes, 2**30)))
        # An end in the future (see PolicyState.at) must not postpone the next training by years.
        end = min(now, datetime.fromtimestamp(state.last_end, now.tzinfo))
        start = max(now, end + min(pause, longest))
    return _end_of_quiet(settings.quiet_hours, start) or start


def _end_of_quiet(hours: tuple[time, time] | None, moment: datetime) -> datetime | None:
    """When the quiet hours that ``moment`` lies in are over; None outside of them. The end itself is not quiet."""
    if hours is None:
        return None
    begin, end = hours
    clock = moment.time()
    inside = begin <= clock < end if begin < end else clock >= begin or clock < end
    if not inside:
        return None
    day = moment.date() + timedelta(days=begin > end and clock >= begin)
    return datetime.combine(day, end, moment.tzinfo)
