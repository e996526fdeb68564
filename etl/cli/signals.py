"""SIGINT and SIGTERM during long commands: the first asks to stop, the second ends at once."""

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from etl.stopping import Stop

_EXIT_CODES: dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143}
_EXIT_CODE_OF_DEADLINE = 3


# A run is promised to end within 10 s of the signal. Whatever still hangs by then, in the database
# or on a socket, is left.
_PATIENCE_SECONDS = 9.0
_LOOK_SECONDS = 0.25


@contextmanager
def listening_to_signals(
    stop: Stop, leave_late: Callable[[], NoReturn] | None = None
) -> Iterator[None]:
    """Request `stop` at the first signal, and end the process at the second.

    Some seconds after a stop, also one by the deadline, `leave_late` is called, which has to end
    the process. What is committed is whole either way.
    """
    # A thread of its own takes signals: the main one may hang in a driver's C code.
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    watcher = _SignalWatcher(
        stop, ours, leave_late or (lambda: leave(stop.exit_code or _EXIT_CODE_OF_DEADLINE))
    )
    before = {number: signal.signal(number, lambda _number, _frame: None) for number in _EXIT_CODES}
    descriptor_before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=watcher.watch, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.close()  # which ends the watcher
        thread.join()
        ours.close()


class _SignalWatcher:
    """Turns signals from a socket into requests to stop, and ends a stop that takes too long."""

    def __init__(
        self, stop: Stop, signals: socket.socket, leave_late: Callable[[], NoReturn]
    ) -> None:
        self._stop = stop
        self._signals = signals
        self._leave_late = leave_late
        self._received = 0
        self._late_at: float | None = None

    def watch(self) -> None:
        """Return when the other side of the socket is closed."""
        while True:
            readable, _, _ = select.select([self._signals], [], [], _LOOK_SECONDS)
            if readable and not self._take(self._signals.recv(16)):
                return
            if self._stop.requested:
                self._late_at = self._late_at or time.monotonic() + _PATIENCE_SECONDS
                if time.monotonic() >= self._late_at:
                    self._leave()

    def _leave(self) -> NoReturn:
        try:
            self._leave_late()
        finally:  # whatever befalls the last words
            os._exit(self._stop.exit_code or _EXIT_CODE_OF_DEADLINE)

    def _take(self, numbers: bytes) -> bool:
        """Note signals; False when there will be no more."""
        for number in filter(_EXIT_CODES.__contains__, numbers):
            self._received += 1
            if self._received > 1:
                os._exit(_EXIT_CODES[number])
            self._stop.request(f"{signal.Signals(number).name} was received", _EXIT_CODES[number])
        return bool(numbers)


def leave(code: int) -> NoReturn:
    """End the process without waiting for threads, which may still hang on a socket."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
