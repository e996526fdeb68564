"""SIGINT and SIGTERM: what they ask of a command that works for long, and how it leaves afterwards."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from etl.stopping import Stop

_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@contextmanager
def listening_to_signals(stop: Stop) -> Iterator[None]:
    """The first signal asks to stop, the second one ends at once; what is committed is whole either way."""

    def on_signal(number: int, _frame: FrameType | None) -> None:
        code = _EXIT_CODES[signal.Signals(number)]
        if stop.requested and stop.exit_code is not None:
            os._exit(code)
        stop.request(f"{signal.Signals(number).name} was received", code)

    before = {number: signal.signal(number, on_signal) for number in _EXIT_CODES}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(code: int) -> NoReturn:
    """End the process after a stop: threads may still hang on a socket, and everything worth keeping is committed."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
