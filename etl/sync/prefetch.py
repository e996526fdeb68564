"""Pages are fetched in a thread of their own, so that the warehouse's work holds up no request.

They are handed on in batches: each hand-over costs both threads a turn of the interpreter lock.
"""

import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

from etl.domain.chains import ChainStart
from etl.domain.counters import Counters
from etl.errors import Interrupted
from etl.stopping import Stop
from etl.twilio.paging import FetchedPage

# Of four services at once; 5,000 take 131 MB of memory where these take 112, and spare a repeat 2 %
# of its CPU (measured). Behind a real network BATCH_SECONDS comes first.
BATCH_ROWS = 2_500
BATCH_PAGES = 50
BATCH_BYTES = 8 * 2**20
# A slow chain is committed this often all the same, so that little is lost when it is killed.
BATCH_SECONDS = 1.0
_LOOK_FOR_STOP_SECONDS = 0.25


class Batch(NamedTuple):
    """Some pages of one chain, in their order."""

    rows: list[bytes]
    pages: int
    next_link: str | None
    """Where the chain goes on; None when this batch is its last."""
    chain: int = 0
    """Which of several chains; the first one begins at the first page."""
    start: ChainStart | None = None
    """Where that chain began; None for the first one."""


class Prefetcher:
    """Reads the pages of one chain in a thread, at most one batch ahead of its consumer."""

    def __init__(
        self, pages: Callable[[], Iterator[FetchedPage]], counters: Counters, stop: Stop
    ) -> None:
        self._pages = pages
        self._counters = counters
        self._stop = stop
        self._changed = threading.Condition()
        self._waiting: list[FetchedPage] = []
        self._rows = 0
        self._bytes = 0
        self._first_at = 0.0
        self._ended = False
        self._abandoned = False
        self._error: Exception | None = None
        self.saw_a_page_again = False
        """Rows moved while they were read, so the listing proves no absence."""

    def __enter__(self) -> Self:
        # A daemon: a socket that never answers must not keep a stopped process alive.
        threading.Thread(target=self._fetch, name="prefetch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def batches(self) -> Iterator[Batch]:
        """Yield batches until the chain ends; what was read before an error or a stop comes first.

        Raises:
            SourceError: the chain broke.
            Interrupted: the run is to stop.
        """
        while True:
            batch, last = self._take()
            if batch is not None:
                yield batch
            if last:
                break
        if self._error is not None:
            raise self._error

    def _take(self) -> tuple[Batch | None, bool]:
        with self._changed:
            while not (self._is_due() or self._ended or self._stop.requested):
                self._changed.wait(_LOOK_FOR_STOP_SECONDS)
            pages, self._waiting, self._rows, self._bytes = self._waiting, [], 0, 0
            last = self._ended or self._stop.requested
            if not self._ended and last:
                self._abandoned, self._error = True, self._interruption()
            self._changed.notify_all()
        if not pages:
            return None, last
        return Batch(
            [row for fetched in pages for row in fetched.page.rows], len(pages), pages[-1].next_link
        ), last

    def _interruption(self) -> Exception | None:
        try:
            self._stop.check()
        except Interrupted as interruption:
            return interruption
        return None

    def _is_due(self) -> bool:
        return bool(self._waiting) and (
            self._is_full() or time.monotonic() - self._first_at >= BATCH_SECONDS
        )

    def _is_full(self) -> bool:
        return (
            self._rows >= BATCH_ROWS
            or len(self._waiting) >= BATCH_PAGES
            or self._bytes >= BATCH_BYTES
        )

    def _fetch(self) -> None:
        try:
            for fetched in self._pages():
                if not self._put(fetched):
                    return
        except Exception as error:  # noqa: BLE001 - the consumer's thread raises it
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _put(self, fetched: FetchedPage) -> bool:
        with self._changed:
            while self._is_full() and not self._abandoned:
                self._changed.wait()
            if self._abandoned:
                return False
            if not self._waiting:
                self._first_at = time.monotonic()
            self._waiting.append(fetched)
            self.saw_a_page_again |= fetched.repeated
            self._rows += len(fetched.page.rows)
            self._bytes += sum(map(len, fetched.page.rows))
            self._counters.pages += 1
            self._counters.fetched += len(fetched.page.rows)
            if self._is_full():
                self._changed.notify_all()
            return True
