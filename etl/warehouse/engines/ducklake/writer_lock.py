"""Processes that share a catalog write one after the other, by a lock in its PostgreSQL.

Two that write at once would harm nothing: one of them is undone at its COMMIT, and has to do all of
its work again. So a lock that is lost, or not had in time, costs time and no more.
"""

import time
from contextlib import suppress
from typing import Any

import duckdb

from etl.warehouse.engines.base import DbErrorKind
from etl.warehouse.engines.ducklake.attaching import Place, literal, why_closed
from etl.warehouse.engines.reaching import Unreached

_DATABASE = "writer_lock"
_LONGEST = 600.0
"""Seconds after which the server takes the lock back."""
_LOCK = 5_217_386_021_094_671  # of the program; locks of others have other numbers
_ACQUIRE = f"FROM postgres_query('{_DATABASE}', 'SELECT pg_advisory_xact_lock({_LOCK})')"


class WriterLock:
    """The lock that a session upon a lake holds while it writes."""

    def __init__(self, session: Any, place: Place) -> None:
        self._cursor = session.duplicate()
        self._place = place
        self._is_attached = False

    def acquire(self) -> None:
        """Wait until no other process writes, and keep others from it.

        Raises:
            Unreached: it took too long, or the catalog's server is gone.
        """
        self._attach()
        began = time.monotonic()
        try:
            self._cursor.execute("BEGIN TRANSACTION")
            self._cursor.execute(_ACQUIRE).fetchall()
        except duckdb.Error as error:
            self.detach()
            late = time.monotonic() - began >= self._place.limits.lock
            kind = DbErrorKind.CONFLICT if late else DbErrorKind.LOST
            raise Unreached(kind, type(error).__name__) from error

    def _attach(self) -> None:
        if self._is_attached:
            return
        # Who is frozen while it holds the lock must not hold up the others for ever.
        catalog = self._place.catalog(idle_in_transaction_session_timeout=_LONGEST)
        try:
            self._cursor.execute(
                f"ATTACH {literal(catalog)} AS {_DATABASE} (TYPE postgres, READ_ONLY)"
            )
        except duckdb.Error as error:
            raise why_closed(self._place, type(error).__name__) from None
        self._is_attached = True

    def detach(self) -> None:
        """Give the lock's connection back; the next `acquire` opens another one."""
        self.release()
        with suppress(duckdb.Error):  # it was never opened
            self._cursor.execute(f"DETACH {_DATABASE}")
        self._is_attached = False

    def close(self) -> None:
        """Give the connection back for good."""
        self.detach()
        self._cursor.close()

    def release(self) -> None:
        """Let the next one write."""
        with suppress(duckdb.Error):  # none is held, or the server has taken it back
            self._cursor.execute("ROLLBACK")
