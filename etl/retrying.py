"""One way to try again: bounded in number and in time, with full jitter, given up at once when the run stops."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import tenacity

from etl.config import Retry
from etl.stopping import Stop

T = TypeVar("T")
Hint = Callable[[BaseException], float | None]

_FIRST_WAIT_SECONDS = 0.5


def persist(
    attempt: Callable[[], T],
    policy: Retry,
    stop: Stop,
    *,
    on: Callable[[BaseException], bool],
    announce: Callable[[tenacity.RetryCallState], Any],
    hint: Hint = lambda _error: None,
) -> T:
    """Give what `attempt` gives, trying again by `policy`; see `retrying`.

    The first try stands outside of tenacity, whose set-up costs every request and leaves a ring of references round what was tried,
    which for a batch of rows is some megabytes until the next collection.
    """
    began = time.monotonic()
    try:
        return attempt()
    except Exception as error:  # noqa: BLE001 - what is not to be tried again comes out of `retrying` as it is
        past = [error]

    def replay_then_try() -> T:
        if past:
            raise past.pop()
        return attempt()

    left = policy.model_copy(update={"max_total_seconds": max(0.001, policy.max_total_seconds - (time.monotonic() - began))})
    result: T = retrying(left, stop, on=on, announce=announce, hint=hint)(replay_then_try)
    return result


def retrying(
    policy: Retry,
    stop: Stop,
    *,
    on: Callable[[BaseException], bool],
    announce: Callable[[tenacity.RetryCallState], Any],
    hint: Hint = lambda _error: None,
) -> tenacity.Retrying:
    """A tenacity controller for `policy`.

    `on` tells which errors deserve another try, `hint` how long the other side asked to wait (seconds), `announce` is called
    before each wait. A hinted wait is obeyed even beyond `max_wait_seconds`, as long as the total allows. The last error comes
    out as it is.
    """
    jittered = tenacity.wait_random_exponential(multiplier=_FIRST_WAIT_SECONDS, max=policy.max_wait_seconds)

    def wait(state: tenacity.RetryCallState) -> float:
        hinted = hint(failure(state))
        return jittered(state) if hinted is None else hinted

    return tenacity.Retrying(
        sleep=stop.sleep,
        stop=tenacity.stop_after_attempt(policy.attempts) | tenacity.stop_before_delay(policy.max_total_seconds),
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
