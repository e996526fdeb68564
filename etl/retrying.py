"""One way to try again: bounded in number and in time, with full jitter, given up at once when the run stops."""

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import tenacity

from etl.config import Retry
from etl.stopping import Stop

T = TypeVar("T")
Hint = Callable[[BaseException], float | None]

_FIRST_WAIT_SECONDS = 0.5
_MOST_ADDED_SECONDS = 1.0


def persist(
    attempt: Callable[[], T],
    policy: Retry,
    stop: Stop,
    *,
    on: Callable[[BaseException], bool],
    announce: Callable[[tenacity.RetryCallState], Any],
    hint: Hint = lambda _error: None,
    left: Callable[[], float] | None = None,
) -> T:
    """Give what `attempt` gives, trying again by `policy`; see `retrying`.

    `left` tells how many seconds of the total are left, where not all time counts.

    The first try stands outside of tenacity, whose set-up costs every request and leaves a ring of references round what was tried,
    which for a batch of rows is some megabytes until the next collection.
    """
    give_up_at = time.monotonic() + policy.max_total_seconds
    try:
        return attempt()
    except Exception as error:  # noqa: BLE001 - what is not to be tried again comes out of `retrying` as it is
        past = [error]

    def replay_then_try() -> T:
        if past:
            raise past.pop()
        return attempt()

    left = left or (lambda: give_up_at - time.monotonic())
    result: T = retrying(policy, stop, on=on, announce=announce, hint=hint, left=left)(
        replay_then_try
    )
    return result


def retrying(
    policy: Retry,
    stop: Stop,
    *,
    on: Callable[[BaseException], bool],
    announce: Callable[[tenacity.RetryCallState], Any],
    hint: Hint = lambda _error: None,
    left: Callable[[], float] | None = None,
) -> tenacity.Retrying:
    """A tenacity controller for `policy`.

    `on` tells which errors deserve another try, `hint` how long the other side asked to wait (seconds), `announce` is called
    before each wait. A hinted wait is obeyed even beyond `max_wait_seconds`, as long as the total allows; a little is added, so that
    those who were told the same do not come back together, and a hint of nothing does not use up all tries at once. `left` tells how
    many seconds of the total are left, if not by the clock. The last error comes out as it is.
    """
    jittered = tenacity.wait_random_exponential(
        multiplier=_FIRST_WAIT_SECONDS, max=policy.max_wait_seconds
    )

    def wait(state: tenacity.RetryCallState) -> float:
        hinted = hint(failure(state)) or 0.0
        added = random.uniform(0, min(hinted / 10, _MOST_ADDED_SECONDS))  # noqa: S311 - no secret
        return max(jittered(state), hinted + added)

    def has_had_enough(state: tenacity.RetryCallState) -> bool:
        remaining = (
            policy.max_total_seconds - (state.seconds_since_start or 0.0)
            if left is None
            else left()
        )
        return state.attempt_number >= policy.attempts or state.upcoming_sleep >= remaining

    return tenacity.Retrying(
        sleep=stop.sleep,
        stop=has_had_enough,
        wait=wait,
        retry=tenacity.retry_if_exception(on),
        before_sleep=announce,
        reraise=True,
    )


def failure(state: tenacity.RetryCallState) -> BaseException:
    """The error of the try that just failed."""
    error = state.outcome.exception() if state.outcome else None
    assert error is not None  # noqa: S101 - retried on exceptions only
    return error


def upcoming_wait(state: tenacity.RetryCallState) -> float:
    """Seconds until the next try."""
    return state.next_action.sleep if state.next_action else 0.0
