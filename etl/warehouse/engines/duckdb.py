"""DuckDB: one file, one process, bulk work by JSON documents that it unpacks itself."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.types import TypeEngine

from etl.domain.binding import Row
from etl.errors import ConfigurationError, WarehouseRefused
from etl.warehouse.engines.base import ColumnKind, DbErrorKind, Engine, Limits
from etl.warehouse.engines.files import FileEngine
from etl.warehouse.engines.relations import batch_of, seen_of
from etl.warehouse.engines.upserts import OnConflictEngine
from etl.warehouse.tables import CARRIED

_UNPACKED = ", ".join(f"entry[{place}]" for place in range(1, len(CARRIED) + 1))
_INSERT_STAGED = (
    f"INSERT INTO scan_staged (stage_id, batch, {', '.join(CARRIED)}) "  # noqa: S608 - our names
    f"SELECT $1, $2, {_UNPACKED} "
    """FROM (SELECT unnest(from_json($3, '[["VARCHAR"]]')) AS entry)"""
)

# There is no conflict: one process at a time, and in it one writer. A commit that fails is a disk
# that does not take it. A fatal error may be that too, or damage to the file: no code tells them
# apart.
_BY_CLASS = {
    "TransactionException": DbErrorKind.FULL,
    "FatalException": DbErrorKind.BROKEN,
    "IOException": DbErrorKind.FULL,
    "OutOfMemoryException": DbErrorKind.FULL,
    "PermissionException": DbErrorKind.DENIED,
    "CatalogException": DbErrorKind.MISSING,
}


_UNWRITTEN = (DbErrorKind.FULL, DbErrorKind.BROKEN)


class Duckdb(OnConflictEngine, FileEngine):
    """See `Engine`."""

    insert = staticmethod(insert)
    harmless_options: ClassVar[frozenset[str]] = frozenset({"memory_limit"})
    keeps_zones: ClassVar[bool] = True
    advice: ClassVar[Mapping[DbErrorKind, str]] = {
        DbErrorKind.LOCKED: "cannot be opened: its folder is missing, it is no DuckDB file, or "
        "another "
        "process holds the file (DuckDB lets one process in at a time; close the other one)",
    }

    def open(self, url: sa.URL, schema: str | None, limits: Limits) -> sa.Engine:
        try:
            import duckdb
            import duckdb_sqlalchemy  # noqa: F401 - its absence is told in a sentence
        except ImportError:
            raise ConfigurationError(
                "DuckDB needs a driver: pip install 'bindings-etl[duckdb]'"
            ) from None
        if schema and "." in schema:
            raise ConfigurationError(
                "warehouse.schema: DuckDB takes a name with a dot for a database and a schema; "
                "choose one without"
            )
        engine = sa.create_engine(url, poolclass=sa.pool.StaticPool, hide_parameters=True)

        @sa.event.listens_for(engine, "connect")
        def _prepare_session(connection: Any, _record: Any) -> None:
            # At the usual 16 MB every publication rewrites the file's tables and indexes: 3 s of a
            # first load of 100,000 rows.
            connection.execute("SET checkpoint_threshold = '128MB'")
            # Batches hold times as text without a zone.
            connection.execute("SET TimeZone = 'UTC'")
            if schema:
                with contextlib.suppress(
                    duckdb.CatalogException
                ):  # before the first migration, which makes it
                    connection.execute(_enter(schema))

        refuse_after_failure(engine)
        return engine

    def column_type(
        self, kind: ColumnKind, length: int | None, dialect: sa.Dialect
    ) -> TypeEngine[Any] | None:
        return sa.DateTime(timezone=True) if kind is ColumnKind.MOMENT else None

    def prepare_migrations(self) -> None:
        # The dialect makes itself known to Alembic only where that was loaded first.
        import duckdb_sqlalchemy.alembic_impl  # noqa: F401 - being there is enough

    def schema_sql(self, schema: str) -> str:
        name = '"' + schema.replace('"', '""') + '"'
        return f"CREATE SCHEMA IF NOT EXISTS {name};\n\n{_enter(schema)};\n\n"

    def create_schema(self, conn: sa.Connection, schema: str) -> None:
        if not sa.inspect(conn).has_schema(schema):
            conn.execute(sa.schema.CreateSchema(schema))
            conn.exec_driver_sql(_enter(schema))

    def batch_table(self) -> sa.FromClause:
        return batch_of(
            "SELECT entry[1] AS sid, entry[2] AS source_hash "
            """FROM (SELECT unnest(from_json(:batch_keys, '[["VARCHAR"]]')) AS entry)"""
        )

    def seen_sids(self) -> sa.FromClause:
        return seen_of(
            """SELECT batch, unnest(from_json(sids, '["VARCHAR"]')) AS sid """
            "FROM scan_seen WHERE stage_id = :of_stage_id"
        )

    def json_object(
        self, name: sa.ColumnElement[str], value: sa.ColumnElement[str]
    ) -> sa.ColumnElement[str]:
        return sa.cast(sa.func.json_group_object(name, value), sa.Text)

    def has_member(self, document: sa.Column[str], name: str) -> sa.ColumnElement[bool]:
        return sa.func.list_contains(sa.func.json_keys(document), name, type_=sa.Boolean)

    def has_item(self, document: sa.Column[str], item: str) -> sa.ColumnElement[bool]:
        items = sa.func.from_json(document, '["VARCHAR"]')
        return sa.func.list_contains(items, item, type_=sa.Boolean)

    def stage(self, conn: sa.Connection, stage_id: int, batch: int, rows: Sequence[Row]) -> None:
        conn.exec_driver_sql(_INSERT_STAGED, (stage_id, batch, msgspec.json.encode(rows).decode()))

    def error_kind(self, error: sa.exc.DBAPIError) -> DbErrorKind:
        kind = type(error.orig).__name__
        if kind == "IOException" and error.statement is None:
            return DbErrorKind.LOCKED  # the file could not even be opened
        return _BY_CLASS.get(kind, DbErrorKind.OTHER)


ENGINE: Engine = Duckdb()


def refuse_after_failure(engine: sa.Engine) -> None:
    """Begin nothing more once the file could not be written."""
    failed: list[str] = []

    @sa.event.listens_for(engine, "handle_error")
    def _remember(context: sa.engine.ExceptionContext) -> None:
        if (
            context.connection is not None
            and _BY_CLASS.get(type(context.original_exception).__name__) in _UNWRITTEN
        ):
            failed.append(type(context.original_exception).__name__)

    @sa.event.listens_for(engine, "begin")
    def _begin(_conn: sa.Connection) -> None:
        # After a commit that failed, DuckDB 1.5 has damaged indexes in memory; should the next
        # one fail too, it ends the process.
        if failed:
            raise WarehouseRefused(
                f"the warehouse could not be written a moment ago ({failed[0]}); nothing "
                "more was tried"
            )


def _enter(schema: str) -> str:
    """Return the statement that goes into a schema; it takes a path between single quotes."""
    path = '"' + schema.replace('"', '""').replace("'", "''") + '"'
    return f"SET schema = '{path}'"
