"""One account's way to the API: signs in, retries, throttles; all but a 200 is a typed error."""

import contextlib
import time
from datetime import UTC, datetime
from importlib.metadata import version

import httpx
import structlog

from etl import config, errors
from etl.domain.counters import Counters
from etl.retrying import FailedTry, Retries
from etl.stopping import Stop
from etl.twilio.bodies import read_body
from etl.twilio.deadlines import time_limit
from etl.twilio.proxies import environment_proxy
from etl.twilio.responses import ApiResponse, error_for, request_id_in, retry_after
from etl.twilio.signin import sign_in
from etl.twilio.throttle import SharedSlots, Throttle
from etl.twilio.transport import GetRequest, HttpTransport
from etl.twilio.unreachable import HTTPX_ERRORS, unreachable

log = structlog.get_logger()

# What the server is asked for when it refuses the size (docs/api.md §2.3).
_SMALLER_PAGES = (100, 50)

_GOOD_PAGES_BETWEEN = 100

_SHORTEST_EXCHANGE_SECONDS = 0.5


class OneOffRetry:
    """Whether an odd 401 or 404 amid good pages is tried once more (docs/promises.md §7)."""

    def __init__(self) -> None:
        self._good_pages = _GOOD_PAGES_BETWEEN

    def note_page(self) -> None:
        """Count a good page: the refusal before it, if there was one, was a slip of the API."""
        self._good_pages += 1

    def allows(self, error: errors.SourceError) -> bool:
        """Return whether this refusal is tried again; one in 100 good pages is."""
        if error.status not in (401, 404):
            return False
        allowed = self._good_pages >= _GOOD_PAGES_BETWEEN
        self._good_pages = 0
        return allowed


class RequestBudget:
    """The time that all tries of one request may take; waiting for our own slot does not count."""

    def __init__(self, policy: config.Retry) -> None:
        self._limit = policy.timeout_seconds
        self._until = time.monotonic() + policy.max_total_seconds
        self.tries = 0

    def begin_try(self, waited_for_slot: float) -> None:
        """Count a try, which waited so many seconds for a slot."""
        self._until += waited_for_slot
        self.tries += 1

    def left_for_exchange(self) -> float:
        """Return the seconds that the next request and its answer may take."""
        return min(self._limit, self._until - time.monotonic())

    def left_for_waiting(self) -> float:
        """Return the seconds that a wait may take, so that there is time for an answer after it."""
        return self._until - time.monotonic() - min(self._limit, _SHORTEST_EXCHANGE_SECONDS)


class Client:
    """Fetches from one account. Safe to share between the threads of its scans."""

    def __init__(
        self,
        account: config.Account,
        policy: config.Retry,
        stop: Stop,
        transport: httpx.BaseTransport | None = None,
        shared: SharedSlots | None = None,
    ) -> None:
        self.account = account
        self.origin = account.origin
        self.throttle = Throttle(account.concurrency, shared)
        self._page_sizes: dict[str, int] = {}
        self._stop = stop
        self._retries = Retries(policy, stop, _is_transient, self._log_retry, _requested_wait)
        self._sign_in = sign_in(account)
        self._last_headers = ("", _headers(self.origin, ""))
        proxy = environment_proxy(self.origin)
        self._through_proxy = proxy is not None
        self._transport = transport or HttpTransport(self.origin, proxy)

    def fetch(
        self, url: str, counters: Counters, one_off: OneOffRetry | None = None
    ) -> ApiResponse:
        """Return the 200 that a GET of `url`, which begins with this client's origin, gets.

        In the middle of a listing, `one_off` lets an odd refusal be tried once more.

        Raises:
            SourceError: there is no 200 within the retry policy; typed, with the request id.
            Interrupted: the run is to stop.
        """
        budget = RequestBudget(self._retries.policy)
        return self._retries.call_with_retries(
            lambda: self._try(url, counters, budget, one_off), seconds_left=budget.left_for_waiting
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
        """Ask for smaller pages from now on; return False when there is no smaller size."""
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

    def _try(
        self, url: str, counters: Counters, budget: RequestBudget, one_off: OneOffRetry | None
    ) -> ApiResponse:
        self._stop.check()
        asked_at = time.monotonic()
        with self.throttle.slot(self._stop) as sent_at:
            budget.begin_try(sent_at - asked_at)
            counters.retries += budget.tries > 1
            response = self._ask(url, counters, budget)
        self.throttle.report(response.headers.get("twilio-concurrent-requests"))
        if response.status == 200:
            self.throttle.grow()
            return response
        if response.status == 429:
            self.throttle.cut(sent_at)
        error = error_for(response)
        error.retry_after = retry_after(response, datetime.now(UTC))
        error.transient = response.transient or (one_off is not None and one_off.allows(error))
        raise error

    def _ask(self, url: str, counters: Counters, budget: RequestBudget) -> ApiResponse:
        """Return one answer; where a token is refused, that to the next one."""
        while True:
            authorization = self._sign_in.header(budget.left_for_exchange())
            counters.requests += 1
            response = self._exchange(url, authorization, budget.left_for_exchange())
            if response.status == 200:
                self._sign_in.accepted(authorization)
            if not _is_refused(response) or not self._sign_in.replaces(authorization):
                return response

    def _exchange(self, url: str, authorization: str, limit: float) -> ApiResponse:
        request_id: str | None = None
        request = GetRequest(self.origin, url, self._headers_with(authorization))
        try:
            with (
                time_limit(limit),
                contextlib.closing(self._transport.handle_request(request)) as response,
            ):
                request_id = request_id_in(response.headers)
                return ApiResponse(response.status_code, read_body(response), response.headers)
        except HTTPX_ERRORS as cause:
            raise unreachable(
                cause, self.origin, through_proxy=self._through_proxy, request_id=request_id
            ) from cause

    def _headers_with(self, authorization: str) -> httpx.Headers:
        """Return the headers of all requests, which are made once for each token."""
        made_for, headers = self._last_headers
        if made_for != authorization:
            headers = _headers(self.origin, authorization)
            self._last_headers = (authorization, headers)
        return headers

    def _log_retry(self, failed: FailedTry) -> None:
        log.warning(
            "retry.scheduled",
            account=self.account.name,
            reason=type(failed.error).__name__,
            message=str(failed.error),
            status=getattr(failed.error, "status", None),
            attempt=failed.number,
            wait_seconds=round(failed.wait_seconds, 3),
            limit=self.throttle.limit,
            twilio_request_id=getattr(failed.error, "request_id", None),
        )


def _headers(origin: str, authorization: str) -> httpx.Headers:
    return httpx.Headers(
        {
            "Host": httpx.URL(origin).netloc.decode("ascii"),
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
            "Authorization": authorization,
            "User-Agent": f"bindings-etl/{version('bindings-etl')} httpx/{httpx.__version__}",
        }
    )


def _is_refused(response: ApiResponse) -> bool:
    """Return whether the credentials are refused, and it is not a right that they lack."""
    return response.status == 401 and isinstance(error_for(response), errors.CredentialsRefused)


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, errors.SourceError) and error.transient


def _requested_wait(error: BaseException) -> float | None:
    return error.retry_after if isinstance(error, errors.SourceError) else None
