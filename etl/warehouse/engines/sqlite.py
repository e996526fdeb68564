"""SQLite: one file, one writer, everything else as elsewhere."""

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.types import TypeEngine

from etl.domain.binding import HashedRow, Row
from etl.errors import ConfigurationError
from etl.warehouse.engines.base import ColumnKind, DbErrorKind, Engine, Limits
from etl.warehouse.engines.files import FileEngine
from etl.warehouse.engines.upserts import OnConflictEngine
from etl.warehouse.statements import matching
from etl.warehouse.tables import CARRIED, scan_seen

_BY_CODE = {
    sqlite3.SQLITE_BUSY: DbErrorKind.CONFLICT,
    sqlite3.SQLITE_LOCKED: DbErrorKind.CONFLICT,
    sqlite3.SQLITE_FULL: DbErrorKind.FULL,
    sqlite3.SQLITE_IOERR: DbErrorKind.FULL,
    sqlite3.SQLITE_READONLY: DbErrorKind.READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: DbErrorKind.UNOPENED,
    sqlite3.SQLITE_NOTADB: DbErrorKind.FOREIGN,
    sqlite3.SQLITE_PERM: DbErrorKind.DENIED,
}

_JOURNALS = ("wal", "delete", "truncate", "persist")

_INSERT_STAGED = (
    f"INSERT INTO scan_staged (stage_id, batch, {', '.join(CARRIED)}) "  # noqa: S608 - our names
    f"VALUES (?, ?{', ?' * len(CARRIED)})"
)


class Sqlite(OnConflictEngine, FileEngine):
    """See `Engine`."""

    insert = staticmethod(insert)
    drivers: ClassVar[frozenset[str]] = frozenset({"pysqlite"})
    harmless_options: ClassVar[frozenset[str]] = frozenset({"mode", "uri"})
    has_schemas: ClassVar[bool] = False
    advice: ClassVar[Mapping[DbErrorKind, str]] = {
        DbErrorKind.FOREIGN: "is no SQLite database; check the path in warehouse.url, "
        "and keep that file as it is",
    }

    def open(self, url: sa.URL, schema: str | None, limits: Limits) -> sa.Engine:
        journal = _journal_of(url)
        engine = sa.create_engine(
            url.difference_update_query(["journal_mode"]),
            connect_args={"check_same_thread": False, "timeout": limits.lock},
            poolclass=sa.pool.StaticPool,
            hide_parameters=True,
        )

        @sa.event.listens_for(engine, "connect")
        def _prepare_session(connection: sqlite3.Connection, _record: Any) -> None:
            # The driver's own transactions begin late and only around some statements; `begin`
            # below does it right.
            connection.isolation_level = None

        @sa.event.listens_for(engine, "begin")
        def _begin(conn: sa.Connection) -> None:
            if conn.get_execution_options().get("reading"):
                conn.exec_driver_sql("BEGIN")
                return
            if not conn.info.get("journal"):
                conn.info["journal"] = _keep_journal(conn.connection.driver_connection, journal)
            # At once and for writing, so that two processes queue up here instead of failing half
            # way.
            conn.exec_driver_sql("BEGIN IMMEDIATE")

        return engine

    def column_type(
        self, kind: ColumnKind, length: int | None, dialect: sa.Dialect
    ) -> TypeEngine[Any] | None:
        # It counts up columns of this type only.
        return sa.Integer() if kind is ColumnKind.IDENTIFIER else None

    def batch_table(self) -> sa.FromClause:
        entries = sa.func.json_each(sa.bindparam("batch_keys", type_=sa.Text)).table_valued(
            "key", "value", name="entries"
        )
        return sa.select(entries.c.key.label("sid"), entries.c.value.label("source_hash")).subquery(
            "batch"
        )

    def batch_parameters(self, hashed: Collection[HashedRow]) -> dict[str, str]:
        return {
            "batch_keys": msgspec.json.encode({one.sid: one.source_hash for one in hashed}).decode()
        }

    def seen_sids(self) -> sa.FromClause:
        entries = sa.func.json_each(scan_seen.c.sids).table_valued(
            "value", name="entries", joins_implicitly=True
        )
        sids = sa.select(scan_seen.c.batch, entries.c.value.label("sid")).where(
            matching(scan_seen, "stage_id")
        )
        return sids.subquery("seen")

    def json_object(
        self, name: sa.ColumnElement[str], value: sa.ColumnElement[str]
    ) -> sa.ColumnElement[str]:
        return sa.func.json_group_object(name, value)

    def has_member(self, document: sa.Column[str], name: str) -> sa.ColumnElement[bool]:
        entries = sa.func.json_each(document).table_valued("key", name="entries")
        return sa.literal(name).in_(sa.select(entries.c.key))

    def has_item(self, document: sa.Column[str], item: str) -> sa.ColumnElement[bool]:
        entries = sa.func.json_each(document).table_valued("value", name="entries")
        return sa.literal(item).in_(sa.select(entries.c.value))

    def stage(self, conn: sa.Connection, stage_id: int, batch: int, rows: Sequence[Row]) -> None:
        conn.exec_driver_sql(_INSERT_STAGED, [(stage_id, batch, *row) for row in rows])

    def error_kind(self, error: sa.exc.DBAPIError) -> DbErrorKind:
        code = getattr(error.orig, "sqlite_errorcode", None)
        return DbErrorKind.OTHER if code is None else _BY_CODE.get(code & 0xFF, DbErrorKind.OTHER)

    def error_code(self, error: sa.exc.DBAPIError) -> str:
        return getattr(error.orig, "sqlite_errorname", None) or super().error_code(error)


ENGINE: Engine = Sqlite()


def _journal_of(url: sa.URL) -> str:
    mode = str(url.query.get("journal_mode", "wal")).lower()
    if mode not in _JOURNALS:
        raise ConfigurationError(
            f"warehouse.url: journal_mode is one of {', '.join(_JOURNALS)}; correct what follows "
            "the ?"
        )
    return mode


def _keep_journal(connection: Any, mode: str) -> bool:
    """Try to set the journal mode; return False for a file of another program, left as it is.

    It does not work while others use the file, or where the file system has no shared memory;
    then everything goes on by the journal that is there.
    """
    ours = "SELECT 1 FROM sqlite_master WHERE name = 'sync_leases'"
    if connection.execute(ours).fetchone() is None:
        return False
    (patience,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute("PRAGMA busy_timeout = 0")
    with suppress(sqlite3.OperationalError):
        connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()
    connection.execute(f"PRAGMA busy_timeout = {patience}")
    return True
