"""SIGINT and SIGTERM: what they ask of a command that works for long, and how it leaves afterwards."""

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
    """The first signal asks to stop, the second one ends at once; what is committed is whole either way.

    Some seconds after a stop, also one by the deadline, `leave_late` is called, which is to end the process.
    """
    # Signals are taken in a thread of their own: the main one may hang in a driver that does not give way to Python.
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    vigil = _Vigil(
        stop, ours, leave_late or (lambda: leave(stop.exit_code or _EXIT_CODE_OF_DEADLINE))
    )
    before = {number: signal.signal(number, lambda _number, _frame: None) for number in _EXIT_CODES}
    descriptor_before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=vigil.keep, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.close()  # which ends the vigil
        thread.join()
        ours.close()


class _Vigil:
    """Waits for signals, and for the end of patience after a stop, until the other side of its socket is closed."""

    def __init__(
        self, stop: Stop, signals: socket.socket, leave_late: Callable[[], NoReturn]
    ) -> None:
        self._stop = stop
        self._signals = signals
        self._leave_late = leave_late
        self._received = 0
        self._late_at: float | None = None

    def keep(self) -> None:
        """Until the other side is closed, or the process has ended."""
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
    """End the process after a stop: threads may still hang on a socket, and everything worth keeping is committed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
