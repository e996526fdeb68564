"""The log of requests, for tests that ask what a client really sent."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from starlette.types import Scope

KEPT = 100_000


@dataclass(frozen=True, slots=True)
class Logged:
    """One request. Whether it was authorized is kept, the credentials are not."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    time: float = field(default_factory=time.monotonic)

    @property
    def authorized(self) -> bool:
        """Tell whether it carried an Authorization header."""
        return "authorization" in self.headers

    @property
    def parameters(self) -> dict[str, list[str]]:
        """Read the query."""
        return parse_qs(self.query, keep_blank_values=True)


class RequestLog:
    """The latest requests, oldest first; safe to read while the server serves."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._kept: deque[Logged] = deque(maxlen=KEPT)
        self.total = 0

    def __len__(self) -> int:
        """Count the requests kept."""
        return len(self._kept)

    def __iter__(self) -> Iterator[Logged]:
        """Go through the requests as they stand at this moment."""
        with self._lock:
            return iter(list(self._kept))

    def __getitem__(self, index: int) -> Logged:
        """Give one request."""
        with self._lock:
            return self._kept[index]

    def clear(self) -> None:
        """Forget all requests."""
        with self._lock:
            self._kept.clear()
            self.total = 0

    def record(self, scope: Scope) -> None:
        """Keep a request."""
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        if "authorization" in headers:
            headers["authorization"] = "***"
        logged = Logged(
            scope["method"], scope["path"], scope["query_string"].decode("latin-1"), headers
        )
        with self._lock:
            self._kept.append(logged)
            self.total += 1
