"""One account's way to the API: signs in, retries, throttles, and turns everything but a 200 into a typed error."""

import contextlib
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version

import httpcore
import httpx
import structlog
import tenacity

from etl import config, errors
from etl.domain.counters import Counters
from etl.retrying import failure, persist, upcoming_wait
from etl.stopping import Stop
from etl.twilio.bodies import read_body
from etl.twilio.failures import Answer, error_for, retry_after
from etl.twilio.throttle import Throttle
from etl.twilio.transport import Transport, time_limit
from etl.twilio.unreachable import unreachable

log = structlog.get_logger()

# What the server is asked for when it refuses the size (docs/api.md §2.3).
_SMALLER_PAGES = (100, 50)

_GOOD_PAGES_FOR_A_SLIP = 100

_SHORTEST_EXCHANGE_SECONDS = 0.5

_NETWORK_ERRORS = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpx.TransportError,
    httpx.DecodingError,
    UnicodeError,  # a host name that cannot even be looked up
)


class Leniency:
    """One listing's odd 401s and 404s amid good pages: slips of the API (docs/promises.md §7)."""

    def __init__(self) -> None:
        self._good_pages = _GOOD_PAGES_FOR_A_SLIP

    def note_page(self) -> None:
        """A page was given: the refusal before it, if there was one, was a slip."""
        self._good_pages += 1

    def forgives(self, error: BaseException) -> bool:
        """Return whether this refusal is tried again: one among so many good pages is."""
        if not isinstance(error, errors.SourceError) or error.status not in (401, 404):
            return False
        forgiven = self._good_pages >= _GOOD_PAGES_FOR_A_SLIP
        self._good_pages = 0
        return forgiven


class Client:
    """Fetches from one account. Safe to share between the threads of its scans."""

    def __init__(self, account: config.Account, policy: config.Retry, stop: Stop) -> None:
        self.account = account
        self.origin = account.origin
        self._page_sizes: dict[str, int] = {}
        self.throttle = Throttle(account.concurrency)
        self._policy = policy
        self._stop = stop
        user, password = account.credentials
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
            "Authorization": "Basic " + b64encode(f"{user}:{password}".encode()).decode("ascii"),
            "User-Agent": f"bindings-etl/{version('bindings-etl')} httpx/{httpx.__version__}",
        }
        self._transport = Transport(self.origin, httpx.Headers(headers))

    def fetch(self, url: str, counters: Counters, leniency: Leniency | None = None) -> Answer:
        """GET `url`, which must be of this client's origin, until it answers 200 or the retry policy is used up.

        In the middle of a listing, `leniency` lets one odd refusal be tried once more.

        Raises:
            SourceError: typed, with the request id.
            Interrupted: the run is to stop.
        """
        allowance = _Allowance(self._policy)
        return persist(
            lambda: self._try(url, counters, allowance),
            self._policy,
            self._stop,
            on=lambda error: (
                _is_passing(error) or (leniency is not None and leniency.forgives(error))
            ),
            announce=self._announce(counters),
            hint=_hint,
            left=allowance.left_for_waiting,
        )

    def page_size(self, kind: str) -> int:
        """Return the size to ask for; it follows the server down for the rest of the run."""
        return self._page_sizes.get(kind, self.account.page_size)

    def follow_down(self, kind: str, page_size: int | None) -> None:
        """Ask for no more than the server gives; one kind of list says nothing of others."""
        asked = self.page_size(kind)
        if page_size is not None and 0 < page_size < asked:
            log.info(
                "page_size.lowered",
                account=self.account.name,
                listing=kind,
                asked=asked,
                given=page_size,
            )
            self._page_sizes[kind] = page_size

    def ask_for_smaller_pages(self, kind: str, refused: int) -> bool:
        """After a refusal: whether there is a smaller size left to ask for."""
        smaller = next((size for size in _SMALLER_PAGES if size < refused), None)
        self.follow_down(kind, smaller)
        return smaller is not None

    def close(self) -> None:
        """Close the connections."""
        if self.throttle.highest_seen:
            log.info(
                "account.closed",
                account=self.account.name,
                highest_concurrent_requests=self.throttle.highest_seen,
            )
        self._transport.close()

    def _try(self, url: str, counters: Counters, allowance: "_Allowance") -> Answer:
        self._stop.check()
        asked_at = time.monotonic()
        with self.throttle.slot(self._stop) as sent_at:
            allowance.extend(sent_at - asked_at)
            counters.requests += 1
            answer = self._exchange(url, allowance.left_for_exchange)
        self.throttle.report(answer.headers.get("twilio-concurrent-requests"))
        if answer.status == 200:
            self.throttle.grow()
            return answer
        if answer.status == 429:
            self.throttle.cut(sent_at)
        error = error_for(answer)
        error.passing, error.retry_after = answer.passing, retry_after(answer, datetime.now(UTC))
        raise error

    def _exchange(self, url: str, limit: float) -> Answer:
        head: Answer | None = None
        try:
            with time_limit(limit):
                response = self._transport.get(url)
                head = Answer(response.status_code, b"", response.headers)
                with contextlib.closing(response):
                    return replace(head, body=read_body(response, head))
        except _NETWORK_ERRORS as cause:
            raise unreachable(
                cause,
                self.origin,
                through_proxy=self._transport.through_proxy,
                request_id=head.request_id if head else None,
            ) from cause

    def _announce(self, counters: Counters) -> Callable[[tenacity.RetryCallState], None]:
        def announce(state: tenacity.RetryCallState) -> None:
            counters.retries += 1
            error = failure(state)
            log.warning(
                "retry.scheduled",
                account=self.account.name,
                reason=type(error).__name__,
                status=getattr(error, "status", None),
                attempt=state.attempt_number,
                wait_seconds=round(upcoming_wait(state), 3),
                limit=self.throttle.limit,
                twilio_request_id=getattr(error, "request_id", None),
            )

        return announce


class _Allowance:
    """The time that one request may take, all tries together. Waiting for a place among our own does not count."""

    def __init__(self, policy: config.Retry) -> None:
        self._limit = policy.timeout_seconds
        self._until = time.monotonic() + policy.max_total_seconds

    def extend(self, seconds: float) -> None:
        self._until += seconds

    @property
    def left_for_exchange(self) -> float:
        return min(self._limit, self._until - time.monotonic())

    def left_for_waiting(self) -> float:
        """So that a try after it still has the time for an answer."""
        return self._until - time.monotonic() - min(self._limit, _SHORTEST_EXCHANGE_SECONDS)


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, errors.SourceError) and error.passing


def _hint(error: BaseException) -> float | None:
    return error.retry_after if isinstance(error, errors.SourceError) else None
