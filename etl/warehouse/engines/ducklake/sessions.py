"""How sessions upon a lake begin their transactions, and what their errors mean."""

from contextlib import suppress
from functools import partial
from typing import Any

import duckdb
import sqlalchemy as sa

from etl.warehouse.engines.base import DbErrorKind
from etl.warehouse.engines.duckdb import refuse_after_failure
from etl.warehouse.engines.ducklake.attaching import (
    LAKE,
    Place,
    attach,
    load_extensions,
    sign_in,
)
from etl.warehouse.engines.ducklake.claim import CLAIM
from etl.warehouse.engines.ducklake.ownership import require_free, require_own
from etl.warehouse.engines.ducklake.writer_lock import WriterLock
from etl.warehouse.engines.reaching import Unreached

# What a shared catalog's errors mean; that a commit fails because its server is gone looks the same
# as a conflict, and is tried again likewise.
_OF_SHARED = {
    "TransactionException": DbErrorKind.CONFLICT,
    "IOException": DbErrorKind.LOST,
    "HTTPException": DbErrorKind.LOST,
    "Error": DbErrorKind.LOST,
}


def prepare(engine: sa.Engine, place: Place) -> None:
    """Let each connection attach the lake when it first begins a transaction."""

    @sa.event.listens_for(engine, "connect")
    def _connect(session: Any, _record: Any) -> None:
        load_extensions(session, place)
        if place.is_bucket:
            sign_in(session)
        session.execute("SET TimeZone = 'UTC'")  # batches hold times as text without a zone
        if not place.is_file:
            session.writer_lock = WriterLock(session, place)

    if place.is_file:
        refuse_after_failure(engine)
    else:
        sa.event.listen(engine, "close", _detach)
        sa.event.listen(engine, "handle_error", _translate)

    @sa.event.listens_for(engine, "begin")
    def _begin(conn: sa.Connection) -> None:
        options = conn.get_execution_options()
        session: Any = conn.connection.dbapi_connection
        reads, migrates = bool(options.get("reading")), bool(options.get("migrating"))
        if session.writer_lock and not reads:
            session.writer_lock.acquire()  # first: a catalog is made by one process
        _enter(conn, place, reads=reads, migrates=migrates)
        conn.exec_driver_sql("BEGIN TRANSACTION")
        if session.writer_lock and not (reads or migrates):
            with suppress(sa.exc.ProgrammingError):  # before the first migration
                conn.exec_driver_sql(CLAIM)


def _enter(conn: sa.Connection, place: Place, *, reads: bool, migrates: bool) -> None:
    """Attach the lake if this connection has not; who writes has to be in a folder of its own."""
    session: Any = conn.connection.dbapi_connection
    if "require_own" not in conn.info:
        if migrates:
            require_free(session, place)
        folder = attach(session, place, create=migrates)
        conn.info["require_own"] = partial(require_own, session, place, folder)
    if "is_own" not in conn.info and not reads:
        conn.info["require_own"](claim=migrates)
        conn.info["is_own"] = True


def _translate(context: sa.engine.ExceptionContext) -> None:
    code = type(context.original_exception).__name__
    if code not in _OF_SHARED:
        return
    # The next try is a new session, which logs in with the password of the moment.
    context.is_disconnect = _OF_SHARED[code] is DbErrorKind.LOST
    raise Unreached(_OF_SHARED[code], code) from context.original_exception


def _detach(session: Any, _record: Any) -> None:
    """Give the catalog's connections back."""
    with suppress(duckdb.Error):  # it was not attached, or is gone
        session.execute("USE memory")
        session.execute(f"DETACH {LAKE}")
    session.writer_lock.close()
