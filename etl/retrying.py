"""Trying again: bounded in number and in time, with full jitter, given up when the run stops."""

import random
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import msgspec
import tenacity

from etl.config import Retry
from etl.stopping import Stop

T = TypeVar("T")

_FIRST_WAIT_SECONDS = 0.5
_MOST_ADDED_SECONDS = 1.0


class FailedTry(NamedTuple):
    """A try that failed and is followed by another one."""

    error: BaseException
    number: int
    """Counted from 1."""
    wait_seconds: float
    """How long the next one waits."""


def _nothing_requested(_error: BaseException) -> float | None:
    """Return no wait, for services that never ask for one."""
    return None


class Retries(msgspec.Struct, frozen=True):
    """What is tried again, and when; built once per client and per warehouse."""

    policy: Retry
    stop: Stop
    is_transient: Callable[[BaseException], bool]
    """Whether an error deserves another try."""
    on_retry: Callable[[FailedTry], None]
    """Called before each wait."""
    requested_wait: Callable[[BaseException], float | None] = _nothing_requested
    """Seconds that the other side asked to wait, if it did."""

    def call_with_retries(
        self, attempt: Callable[[], T], *, seconds_left: Callable[[], float] | None = None
    ) -> T:
        """Return what `attempt` returns, calling it again while its errors are transient.

        `seconds_left` tells what is left of the total; by default all time since the call counts.
        The last error comes out as it is.

        Raises:
            Interrupted: the run is to stop.
        """
        # The first try stands outside of tenacity, whose set-up costs every request and leaves a
        # ring of references round a batch's megabytes until the next collection.
        give_up_at = time.monotonic() + self.policy.max_total_seconds
        try:
            return attempt()
        except Exception as error:  # noqa: BLE001 - tenacity raises it again
            past = [error]

        def replay_then_try() -> T:
            if past:
                raise past.pop()
            return attempt()

        left = seconds_left or (lambda: give_up_at - time.monotonic())
        result: T = self._controller(left)(replay_then_try)
        return result

    def _controller(self, seconds_left: Callable[[], float]) -> tenacity.Retrying:
        def is_used_up(state: tenacity.RetryCallState) -> bool:
            too_late = state.upcoming_sleep >= seconds_left()
            return too_late or state.attempt_number >= self.policy.attempts

        return tenacity.Retrying(
            sleep=self.stop.sleep,
            stop=is_used_up,
            wait=self._wait,
            retry=tenacity.retry_if_exception(self.is_transient),
            before_sleep=self._announce,
            reraise=True,
        )

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """Return a random wait, or the requested one, even beyond `max_wait_seconds`.

        A little is added, so that those who were told the same do not come back together, and
        `Retry-After: 0` does not use up all tries at once.
        """
        jittered = tenacity.wait_random_exponential(
            multiplier=_FIRST_WAIT_SECONDS, max=self.policy.max_wait_seconds
        )
        requested = self.requested_wait(_error(state)) or 0.0
        added = random.uniform(0, min(requested / 10, _MOST_ADDED_SECONDS))  # noqa: S311
        return max(jittered(state), requested + added)

    def _announce(self, state: tenacity.RetryCallState) -> None:
        wait = state.next_action.sleep if state.next_action else 0.0
        self.on_retry(FailedTry(_error(state), state.attempt_number, wait))


def _error(state: tenacity.RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome else None
    assert error is not None  # noqa: S101 - retried on exceptions only
    return error
