"""How many requests one account may have in flight: halves at each 429, grows back slowly.

Twilio limits concurrency, not rate, and the customer's live traffic counts too (docs/api.md §3.4).
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from etl.stopping import Stop

_LOOK_FOR_STOP_SECONDS = 0.5

SharedSlots = Callable[[Stop], AbstractContextManager[Any]]
"""Waits for a place in flight that several processes share, and holds it."""


class Throttle:
    """Additive increase, multiplicative decrease, between 1 and `most`; shared by all scans."""

    def __init__(self, most: int, shared: SharedSlots | None = None) -> None:
        """Allow `most` in this process, and as many as `shared` does in all of them together."""
        self._shared = shared or (lambda _stop: nullcontext())
        self._most = most
        self._limit = float(most)
        self._in_flight = 0
        self._last_cut = 0.0
        self._free = threading.Condition()
        self.highest_seen = 0
        """The highest `Twilio-Concurrent-Requests` that the API reported."""

    @property
    def limit(self) -> int:
        """Requests that may be in flight now."""
        return int(self._limit)

    @contextmanager
    def slot(self, stop: Stop) -> Iterator[float]:
        """Wait for a place in flight and hold it; yields the moment at which it was taken."""
        with self._free:
            while self._in_flight >= self.limit:
                stop.check()
                self._free.wait(_LOOK_FOR_STOP_SECONDS)
            self._in_flight += 1
        try:
            with self._shared(stop):
                yield time.monotonic()
        finally:
            with self._free:
                self._in_flight -= 1
                self._free.notify()

    def cut(self, sent_at: float) -> None:
        """Halve the limit after a 429; several 429 for requests in flight together count once."""
        with self._free:
            if sent_at >= self._last_cut:
                self._limit = max(1.0, self._limit / 2)
                self._last_cut = time.monotonic()

    def grow(self) -> None:
        """Count a success; as many as there are places add one place."""
        if self._limit < self._most:
            with self._free:
                self._limit = min(float(self._most), self._limit + 1 / self._limit)
                self._free.notify()

    def report(self, concurrent: str | None) -> None:
        """Note what the API said of how many requests were in flight."""
        if concurrent is not None and re.fullmatch(r"[0-9]{1,9}", concurrent):
            self.highest_seen = max(self.highest_seen, int(concurrent))
