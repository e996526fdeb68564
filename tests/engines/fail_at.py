"""Mishaps at an exact place: something is done just before a statement that the program sends, in the program's own process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

Act = Callable[[sa.Connection], Any]


class Hits:
    """How often it was done."""

    def __init__(self) -> None:
        self.count = 0


@contextmanager
def before(fragment: str, act: Act, *, times: int | None = 1) -> Iterator[Hits]:
    """Act before each statement that holds `fragment` (`COMMIT`: before each commit), so many times (None: always)."""
    hits = Hits()
    lock = threading.Lock()
    acting = threading.local()

    def hit(conn: sa.Connection) -> None:
        if getattr(acting, "now", False):
            return
        with lock:
            if times is not None and hits.count >= times:
                return
            hits.count += 1
        acting.now = True
        try:
            act(conn)
        finally:
            acting.now = False

    def on_statement(conn: sa.Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if fragment in statement:
            hit(conn)

    target, listener = (
        ("commit", hit) if fragment == "COMMIT" else ("before_cursor_execute", on_statement)
    )
    sa.event.listen(sa.Engine, target, listener)
    try:
        yield hits
    finally:
        sa.event.remove(sa.Engine, target, listener)
