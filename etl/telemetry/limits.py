"""What is told to others gets so much time and no more (docs/promises.md §15)."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

LONGEST_SECONDS = 5.0

T = TypeVar("T")


class Overdue(Exception):
    """It did not end in time; its thread is left behind."""


class Undelivered(Exception):
    """Nobody took it. The message never holds the address, which may be a secret."""


def start(work: Callable[[], T], name: str) -> Future[T]:
    """Begin `work` in a thread that keeps no process alive."""
    promise: Future[T] = Future()

    def do() -> None:
        try:
            promise.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            promise.set_exception(error)

    threading.Thread(target=do, name=name, daemon=True).start()
    return promise


def within(seconds: float, work: Callable[[], T], name: str) -> T:
    """Return the result of `work`, which is left behind when it takes longer.

    Raises:
        Overdue: it takes longer.
    """
    promise = start(work, name)
    try:
        return promise.result(seconds)
    except TimeoutError:
        if promise.done():
            raise
        raise Overdue(f"it did not end within {seconds:.1f} s") from None
