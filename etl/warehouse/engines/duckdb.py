"""DuckDB: one file, one process, bulk work by JSON documents that it unpacks itself."""

import contextlib
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from etl.domain.binding import Key, Row
from etl.errors import ConfigurationError, WarehouseRefused
from etl.warehouse.engines.contract import Fault, Limits
from etl.warehouse.tables import CARRIED

_UNPACKED = ", ".join(f"entry[{place}]" for place in range(1, len(CARRIED) + 1))
_INSERT_STAGED = (
    f"INSERT INTO scan_staged (stage_id, batch, {', '.join(CARRIED)}) SELECT $1, $2, {_UNPACKED} "  # noqa: S608 - our own names
    """FROM (SELECT unnest(from_json($3, '[["VARCHAR"]]')) AS entry)"""
)

# There is no conflict: one process at a time, and in it one writer. A commit that fails is a disk that does not take it.
_BY_CLASS = {
    "TransactionException": Fault.FULL,
    "FatalException": Fault.FULL,
    "IOException": Fault.FULL,
    "OutOfMemoryException": Fault.FULL,
    "PermissionException": Fault.DENIED,
    "CatalogException": Fault.MISSING,
}


class Duckdb:
    """See `Engine`."""

    single_writer: ClassVar[bool] = True

    def open(self, url: sa.URL, schema: str | None, limits: Limits) -> sa.Engine:
        try:
            import duckdb
            import duckdb_sqlalchemy  # noqa: F401 - said here in a sentence, where SQLAlchemy would only raise
        except ImportError:
            raise ConfigurationError(
                "DuckDB needs a driver: pip install 'bindings-etl[duckdb]'"
            ) from None
        if schema and "." in schema:
            raise ConfigurationError(
                "warehouse.schema: DuckDB takes a name with a dot for a database and a schema; choose one without"
            )
        engine = sa.create_engine(url, poolclass=sa.pool.StaticPool, hide_parameters=True)

        @sa.event.listens_for(engine, "connect")
        def _prepare_session(connection: Any, _record: Any) -> None:
            # At the usual 16 MB every publication rewrites the file's tables and indexes: 3 s of a first load of 100,000 rows.
            connection.execute("SET checkpoint_threshold = '128MB'")
            # Batches hold times as text without a zone.
            connection.execute("SET TimeZone = 'UTC'")
            if schema:
                with contextlib.suppress(
                    duckdb.CatalogException
                ):  # before the first migration, which makes it
                    connection.execute(f"SET schema = '{schema_path(schema)}'")

        failed: list[str] = []

        @sa.event.listens_for(engine, "handle_error")
        def _remember(context: sa.engine.ExceptionContext) -> None:
            if (
                context.connection is not None
                and _BY_CLASS.get(type(context.original_exception).__name__) is Fault.FULL
            ):
                failed.append(type(context.original_exception).__name__)

        @sa.event.listens_for(engine, "begin")
        def _begin(_conn: sa.Connection) -> None:
            # After a commit that failed, DuckDB 1.5 has damaged indexes in memory; should the next one fail too, it ends the process.
            if failed:
                raise WarehouseRefused(
                    f"the warehouse could not be written a moment ago ({failed[0]}); nothing more was tried"
                )

        return engine

    def migrating_alone(self, conn: sa.Connection) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def unfit(self, conn: sa.Connection) -> str | None:
        return None

    def now(self, conn: sa.Connection) -> datetime:
        return datetime.now(UTC)

    def relation(self) -> sa.FromClause:
        table = sa.text(
            "SELECT entry[1] AS sid, entry[2] AS source_hash "
            """FROM (SELECT unnest(from_json(:batch_keys, '[["VARCHAR"]]')) AS entry)"""
        )
        return table.columns(
            sa.column("sid", sa.String), sa.column("source_hash", sa.String)
        ).subquery("batch")

    def parameters(self, keys: Collection[Key]) -> dict[str, str]:
        return {
            "batch_keys": msgspec.json.encode([(key.sid, key.source_hash) for key in keys]).decode()
        }

    def pack(self, sids: Collection[str]) -> str:
        return msgspec.json.encode(list(sids)).decode()

    def unpack(self, stage_id: int) -> sa.FromClause:
        table = sa.text(
            """SELECT batch, unnest(from_json(sids, '["VARCHAR"]')) AS sid FROM scan_seen WHERE stage_id = :stage_id"""
        ).bindparams(stage_id=stage_id)
        return table.columns(
            sa.column("batch", sa.BigInteger), sa.column("sid", sa.String)
        ).subquery("met")

    def as_object(
        self, name: sa.ColumnElement[str], value: sa.ColumnElement[str]
    ) -> sa.ColumnElement[str]:
        return sa.cast(sa.func.json_group_object(name, value), sa.Text)

    def insert_unless_there(
        self, table: sa.Table, columns: Sequence[str], rows: sa.Select[Any]
    ) -> sa.Executable:
        return insert(table).from_select(list(columns), rows).on_conflict_do_nothing()

    def insert_or_update(
        self, table: sa.Table, columns: Sequence[str], rows: sa.Select[Any]
    ) -> sa.Executable:
        statement = insert(table).from_select(list(columns), rows)
        kept = {column.name for column in table.primary_key} | {"first_seen_at"}
        overwritten = {name: statement.excluded[name] for name in columns if name not in kept}
        return statement.on_conflict_do_update(
            index_elements=list(table.primary_key), set_=overwritten
        )

    def stage(self, conn: sa.Connection, stage_id: int, batch: int, rows: Sequence[Row]) -> None:
        conn.exec_driver_sql(_INSERT_STAGED, (stage_id, batch, msgspec.json.encode(rows).decode()))

    def fault(self, error: sa.exc.DBAPIError) -> Fault:
        kind = type(error.orig).__name__
        if kind == "IOException" and error.statement is None:
            return Fault.LOCKED  # the file could not even be opened
        return _BY_CLASS.get(kind, Fault.OTHER)


def schema_path(schema: str) -> str:
    """A schema's name as DuckDB's `SET schema` takes it, between single quotes."""
    return '"' + schema.replace('"', '""').replace("'", "''") + '"'
