"""Signs of life of a warehouse, for each thread that works with it."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Signs:
    """A sign is an answer that came whole, or the server's word that it is at work on one."""

    def __init__(self) -> None:
        self._seen_at: dict[int, float] = {}
        self._sockets: dict[int, socket.socket] = {}
        self._lock = threading.Lock()

    @contextmanager
    def awaited(self, descriptor: int) -> Iterator[None]:
        """Register this thread, and its socket by descriptor, while the block runs."""
        thread = threading.get_ident()
        # A descriptor of our own: the driver's may be closed, and be somebody else's by then.
        with socket.socket(fileno=os.dup(descriptor)) as ours:
            self._seen_at[thread] = time.monotonic()
            with self._lock:
                self._sockets[thread] = ours
            try:
                yield
            finally:
                with self._lock:
                    del self._sockets[thread]

    def give(self, *_: object) -> None:
        """Note that this thread has heard from the server just now."""
        self._seen_at[threading.get_ident()] = time.monotonic()

    def cut_off(self, seconds: float) -> int:
        """Shut down connections without a sign of life for `seconds`; return how many.

        A thread that waits on one of them gets an error of a lost connection.
        """
        latest = time.monotonic() - seconds
        with self._lock:
            silent = [thread for thread in self._sockets if self._seen_at[thread] < latest]
            for thread in silent:
                with contextlib.suppress(OSError):  # it has ended by itself
                    self._sockets[thread].shutdown(socket.SHUT_RDWR)
        return len(silent)
