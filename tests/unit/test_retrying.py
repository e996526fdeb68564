"""Trying again: bounded in number and time, given up when the run stops (docs/promises.md §7)."""

import types
from collections.abc import Callable
from typing import Any

import pytest

from etl import retrying
from etl.config import Retry
from etl.errors import Interrupted
from etl.retrying import FailedTry, Retries
from etl.stopping import Stop


class TransientError(Exception):
    pass


class LastingError(Exception):
    pass


class Clock(Stop):
    """Time that passes only by waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.check()
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(retrying, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def attempt(
    clock: Clock,
    policy: Retry,
    work: Callable[[int], Any],
    *,
    seconds_left: Callable[[], float] | None = None,
    **options: Any,
) -> Any:
    """Do `work`, which is told the number of the try."""
    options = {"on_retry": lambda _failed: None} | options
    tries = 0

    def once() -> Any:
        nonlocal tries
        tries += 1
        return work(tries)

    retries = Retries(policy, clock, lambda error: isinstance(error, TransientError), **options)
    return retries.call_with_retries(once, seconds_left=seconds_left)


def failing(times: int, error: type[Exception] = TransientError) -> Callable[[int], str]:
    def work(number: int) -> str:
        if number <= times:
            raise error(f"try {number}")
        return f"done on try {number}"

    return work


def test_what_goes_well_is_done_once(clock: Clock) -> None:
    """The usual case waits for nothing."""
    assert attempt(clock, Retry(), failing(0)) == "done on try 1"
    assert clock.waits == []


def test_what_passes_is_tried_again(clock: Clock) -> None:
    """One 503 must not cost a service its run."""
    assert attempt(clock, Retry(), failing(3)) == "done on try 4"
    assert len(clock.waits) == 3


@pytest.mark.parametrize("attempts", [1, 2, 6])
def test_attempts_bound_the_tries(attempts: int, clock: Clock) -> None:
    """`retry.attempts` counts the first one too; the last error comes out as it was."""
    with pytest.raises(TransientError, match=f"try {attempts}$"):
        attempt(clock, Retry(attempts=attempts), failing(99))
    assert len(clock.waits) == attempts - 1


def test_what_lasts_is_not_tried_again(clock: Clock) -> None:
    """A refusal comes out at once."""
    with pytest.raises(LastingError, match=r"try 1$"):
        attempt(clock, Retry(), failing(99, LastingError))
    assert clock.waits == []


def test_waits_are_jittered_grow_and_are_bounded(clock: Clock) -> None:
    """Runs that fail together must not come back together, nor wait longer than allowed."""
    for _ in range(40):
        with pytest.raises(TransientError):
            attempt(
                clock, Retry(attempts=8, max_wait_seconds=4, max_total_seconds=10_000), failing(99)
            )
    by_try = [clock.waits[place::7] for place in range(7)]
    for place, waits in enumerate(by_try):
        assert all(0 <= wait <= min(4, 0.5 * 2**place) for wait in waits)
        assert len(set(waits)) > 1
    assert max(by_try[6]) > 2


def test_the_total_bounds_all_tries_together(clock: Clock) -> None:
    """Without it, a hundred attempts of half a minute would be most of an hour for one request."""
    with pytest.raises(TransientError):
        attempt(
            clock,
            Retry(attempts=100, max_total_seconds=60, max_wait_seconds=1),
            failing(99),
            requested_wait=lambda _: 7.0,
        )
    assert len(clock.waits) in (7, 8)
    assert sum(clock.waits) < 60


def test_time_spent_in_the_tries_counts(clock: Clock) -> None:
    """A request that times out slowly uses up the total as a wait does."""

    def slow(number: int) -> None:
        clock.now += 25
        raise TransientError(f"try {number}")

    with pytest.raises(TransientError, match=r"try 3$"):
        attempt(clock, Retry(max_total_seconds=60), slow, requested_wait=lambda _: 0.0)


def test_a_hinted_wait_is_obeyed(clock: Clock) -> None:
    """Retry-After is the server's word, even beyond the longest wait of our own."""
    hints = iter([45.0, 4.0])
    attempt(clock, Retry(max_wait_seconds=1), failing(2), requested_wait=lambda _: next(hints))
    long, short = clock.waits
    assert 45 <= long <= 46
    assert 4 <= short <= 4.4


def test_those_who_were_told_the_same_do_not_come_back_together(clock: Clock) -> None:
    """An account's scans are refused together; coming back in step they would be refused again."""
    for _ in range(10):
        attempt(clock, Retry(max_wait_seconds=1), failing(1), requested_wait=lambda _: 5.0)
    assert len(set(clock.waits)) > 1


def test_a_hint_of_nothing_is_no_reason_to_hurry(clock: Clock) -> None:
    """`Retry-After: 0`, or a date that is past, would use up all tries within milliseconds."""
    for _ in range(10):
        with pytest.raises(TransientError):
            attempt(clock, Retry(attempts=6), failing(99), requested_wait=lambda _: 0.0)
    assert sum(clock.waits) > 10


def test_who_counts_the_time_otherwise_is_asked(clock: Clock) -> None:
    """Our own queue's time is not the server's; a wait must leave time for an answer."""

    def slow(_number: int) -> None:
        clock.now += 1000
        raise TransientError

    lefts = iter([5.0, 5.0, 4.0])
    with pytest.raises(TransientError):
        attempt(
            clock,
            Retry(max_wait_seconds=1),
            slow,
            requested_wait=lambda _: 4.0,
            seconds_left=lambda: next(lefts),
        )
    assert len(clock.waits) == 2


def test_a_hinted_wait_beyond_the_total_is_not_begun(clock: Clock) -> None:
    """Waiting for what cannot be done in time any more would only delay the bad news."""
    with pytest.raises(TransientError, match=r"try 1$"):
        attempt(clock, Retry(max_total_seconds=60), failing(99), requested_wait=lambda _: 61.0)
    assert clock.waits == []


def test_the_hint_is_asked_of_the_error(clock: Clock) -> None:
    """Each answer may ask for another wait, or for none."""
    attempt(
        clock, Retry(), failing(2), requested_wait=lambda error: 9.0 if "1" in str(error) else None
    )
    assert clock.waits[0] >= 9.0 > clock.waits[1]


def test_a_stop_ends_the_retries(clock: Clock) -> None:
    """A stopped run must not go on trying."""

    def work(number: int) -> None:
        if number == 2:
            clock.request("asked to")
        raise TransientError

    with pytest.raises(Interrupted):
        attempt(clock, Retry(), work)
    assert len(clock.waits) == 1


def test_each_wait_is_announced_before_it_begins(clock: Clock) -> None:
    """Whoever reads the log of a slow run must see what it waits for."""
    announced: list[tuple[FailedTry, int]] = []

    def note(failed: FailedTry) -> None:
        announced.append((failed, len(clock.waits)))

    attempt(clock, Retry(), failing(2), on_retry=note, requested_wait=lambda _: 3.0)
    told = [
        (str(failed.error), failed.number, failed.wait_seconds, waits)
        for failed, waits in announced
    ]
    first, second = clock.waits
    assert told == [("try 1", 1, first, 0), ("try 2", 2, second, 1)]
