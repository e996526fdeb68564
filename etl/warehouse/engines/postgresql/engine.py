"""PostgreSQL 14 and newer, through psycopg 3: a batch as arrays, staged by COPY."""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.types import TypeDecorator, TypeEngine

from etl.domain.binding import HashedRow, Row
from etl.errors import ConfigurationError, WarehouseOutdated, WarehouseRefused
from etl.warehouse.engines.base import ColumnKind, DbErrorKind, Engine, Limits
from etl.warehouse.engines.servers import ServerEngine, pool_options, try_idle_connections
from etl.warehouse.engines.upserts import OnConflictEngine
from etl.warehouse.portions import portions
from etl.warehouse.statements import matching
from etl.warehouse.tables import CARRIED, scan_seen

_BY_STATE = {
    "40001": DbErrorKind.CONFLICT,
    "40P01": DbErrorKind.CONFLICT,
    "55P03": DbErrorKind.CONFLICT,
    "25P03": DbErrorKind.LOST,  # it was idle in a transaction for too long
    "23505": DbErrorKind.CONFLICT,  # two put in one key at once; when tried again it is found
    "57014": DbErrorKind.CANCELLED,
    "25006": DbErrorKind.READ_ONLY,
    "53300": DbErrorKind.CROWDED,
    "53100": DbErrorKind.FULL,
    "53400": DbErrorKind.FULL,  # more temporary files than the role may make
    "53200": DbErrorKind.OTHER,  # no memory or locks left: the statement is at fault
    "42501": DbErrorKind.DENIED,
    "28P01": DbErrorKind.LOGIN,
    "28000": DbErrorKind.LOGIN,
    "42P01": DbErrorKind.MISSING,
    "3F000": DbErrorKind.MISSING,
    "3D000": DbErrorKind.NO_DATABASE,
}
_LOST_CLASSES = (
    "08",
    "57",
    "53",
)  # connection exception, operator intervention (restart), too many connections


_OLDEST = (14,)
_LONGEST_NAME = 63
_PATIENCE_SECONDS = 600
_CLOCK = sa.select(sa.func.clock_timestamp())
_ROWS_A_WRITE = 500
_COPY_STAGED = f"COPY scan_staged (stage_id, batch, {', '.join(CARRIED)}) FROM STDIN"


class Postgresql(OnConflictEngine, ServerEngine):
    """See `Engine`."""

    insert = staticmethod(insert)
    drivers: ClassVar[frozenset[str]] = frozenset({"psycopg"})
    harmless_options: ClassVar[frozenset[str]] = frozenset(
        {"sslmode", "connect_timeout", "application_name"}
    )
    keeps_zones: ClassVar[bool] = True
    usual_port: ClassVar[int] = 5432

    def open(self, url: sa.URL, schema: str | None, limits: Limits) -> sa.Engine:
        try:
            import psycopg

            from etl.warehouse.engines.postgresql import sessions
            from etl.warehouse.engines.postgresql.diagnosis import diagnose
        except ImportError:
            raise ConfigurationError(
                "PostgreSQL needs a driver: pip install 'bindings-etl[postgres]'"
            ) from None
        if schema and len(schema.encode()) > _LONGEST_NAME:
            raise ConfigurationError(
                f"warehouse.schema: PostgreSQL cuts names after {_LONGEST_NAME} bytes; choose a "
                "shorter one"
            )
        asked_for = sessions.defaults(limits)
        engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            connect_args={
                name: value for name, value in asked_for.items() if name not in url.query
            },
            **pool_options(limits),
        )

        @sa.event.listens_for(engine, "do_connect")
        def _connect(_dialect: Any, _record: Any, _args: Any, parameters: Any) -> Any:
            parameters = {**parameters, **limits.login()}
            try:
                return sessions.connect(parameters, limits)
            except psycopg.OperationalError as error:
                raise diagnose(parameters, error, _by_state) from None

        @sa.event.listens_for(engine, "connect")
        def _look_at_encoding(connection: Any, _record: Any) -> None:
            _require_utf8(connection.info.parameter_status("server_encoding"))

        @sa.event.listens_for(engine, "begin")
        def _begin(conn: sa.Connection) -> None:
            session: Any = conn.connection.driver_connection
            options = conn.get_execution_options()
            begin = sessions.beginning(
                schema,
                limits,
                session.tag,
                migrates=bool(options.get("migrating")),
                snapshot=bool(options.get("snapshot")),
            )
            conn.exec_driver_sql(begin, execution_options={"no_parameters": True})

        try_idle_connections(engine)
        return engine

    def has_savepoints(self, conn: sa.Connection) -> bool:
        return True

    def column_type(
        self, kind: ColumnKind, length: int | None, dialect: sa.Dialect
    ) -> TypeEngine[Any] | None:
        if kind is ColumnKind.MOMENT:
            return sa.DateTime(timezone=True)
        if kind is ColumnKind.CODE:  # by a language's rules each look into an index would be slower
            return sa.String(length, collation="C")
        return JsonbAsText() if kind is ColumnKind.JSON else None

    def migration_lock(self, conn: sa.Connection) -> AbstractContextManager[None]:
        # Another's migration is waited for longer than a lock that somebody forgot.
        limit = conn.scalar(sa.select(sa.func.current_setting("lock_timeout")))
        conn.exec_driver_sql(f"SET LOCAL lock_timeout TO '{_PATIENCE_SECONDS}s'")
        conn.execute(
            sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext("bindings-etl migrate")))
        )
        conn.exec_driver_sql(f"SET LOCAL lock_timeout TO '{limit}'")
        return nullcontext()

    def why_unfit(self, conn: sa.Connection) -> str | None:
        version = conn.dialect.server_version_info or _OLDEST
        if version >= _OLDEST:
            return None
        return f"it is PostgreSQL {version[0]}; use {_OLDEST[0]} or newer"

    def schema_sql(self, schema: str) -> str:
        name = '"' + schema.replace('"', '""') + '"'
        return f"CREATE SCHEMA IF NOT EXISTS {name};\n\nSET search_path TO {name};\n\n"

    def create_schema(self, conn: sa.Connection, schema: str) -> None:
        if not sa.inspect(conn).has_schema(schema):
            conn.execute(sa.schema.CreateSchema(schema))

    def require_schema(self, conn: sa.Connection) -> None:
        # It says so little of a missing or closed one that only its tables seem not to be there.
        if conn.scalar(sa.select(sa.func.current_schema())) is not None:
            return
        path = conn.scalar(sa.select(sa.func.current_setting("search_path")))
        raise WarehouseOutdated(
            f"there is no schema {path}, or the role may not use it; check warehouse.schema, "
            "GRANT USAGE ON SCHEMA to the role, or create it: `bindings-etl migrate`"
        )

    def unusable_sequences(self, conn: sa.Connection, sequences: Collection[str]) -> list[str]:
        may_use = sa.func.has_sequence_privilege
        return [one for one in sequences if not conn.scalar(sa.select(may_use(one, "USAGE")))]

    def now(self, conn: sa.Connection) -> datetime:
        moment: datetime = conn.scalar(_CLOCK)  # type: ignore[assignment]
        return moment.astimezone(UTC)

    def batch_table(self) -> sa.FromClause:
        # As array literals: SIDs and hashes hold nothing that needs quoting, and a join costs less
        # than binding lists.
        texts = ARRAY(sa.Text)
        sids, hashes = (
            sa.cast(sa.bindparam(name, type_=sa.Text), texts)
            for name in ("batch_sids", "batch_hashes")
        )
        arrays = sa.func.unnest(sids, hashes)
        return arrays.table_valued(
            sa.column("sid", sa.Text), sa.column("source_hash", sa.Text), name="batch"
        ).render_derived()

    def batch_parameters(self, hashed: Collection[HashedRow]) -> dict[str, str]:
        return {
            "batch_sids": self.encode_sids([one.sid for one in hashed]),
            "batch_hashes": self.encode_sids([one.source_hash for one in hashed]),
        }

    def encode_sids(self, sids: Collection[str]) -> str:
        return "{" + ",".join(sids) + "}"

    def seen_sids(self) -> sa.FromClause:
        sid = sa.func.unnest(sa.cast(scan_seen.c.sids, ARRAY(sa.Text))).label("sid")
        return (
            sa.select(scan_seen.c.batch, sid)
            .where(matching(scan_seen, "stage_id"))
            .subquery("seen")
        )

    def json_object(
        self, name: sa.ColumnElement[str], value: sa.ColumnElement[str]
    ) -> sa.ColumnElement[str]:
        return sa.cast(sa.func.json_object_agg(name, value), sa.Text)

    def has_member(self, document: sa.Column[str], name: str) -> sa.ColumnElement[bool]:
        return document.bool_op("?")(sa.literal(name, sa.Text))

    def has_item(self, document: sa.Column[str], item: str) -> sa.ColumnElement[bool]:
        return document.bool_op("?")(sa.literal(item, sa.Text))

    def stage(self, conn: sa.Connection, stage_id: int, batch: int, rows: Sequence[Row]) -> None:
        import psycopg

        driver: Any = conn.connection.driver_connection
        try:
            with driver.cursor() as cursor, cursor.copy(_COPY_STAGED) as copy:
                for some in portions(rows, _ROWS_A_WRITE):
                    _write(copy, stage_id, batch, some)
        except (
            psycopg.Error
        ) as error:  # COPY goes past SQLAlchemy, so its errors get their usual wrapping here
            raise sa.exc.DBAPIError(
                _COPY_STAGED,
                None,
                error,
                hide_parameters=True,
                connection_invalidated=driver.closed,
            ) from error

    def error_kind(self, error: sa.exc.DBAPIError) -> DbErrorKind:
        state = getattr(error.orig, "sqlstate", None)
        if error.connection_invalidated:
            return DbErrorKind.LOST
        if state is None:
            import psycopg

            # With a statement and a standing connection it is the driver that takes no such
            # statement.
            is_lost = error.statement is None and isinstance(error.orig, psycopg.OperationalError)
            return DbErrorKind.LOST if is_lost else DbErrorKind.OTHER
        return _by_state(state)


ENGINE: Engine = Postgresql()


class JsonbAsText(TypeDecorator[str]):
    """`jsonb` that takes JSON text as it is, without parsing it in Python."""

    impl = JSONB
    cache_ok = True

    def bind_expression(self, bindvalue: sa.BindParameter[str]) -> sa.ColumnElement[Any]:
        return sa.cast(sa.type_coerce(bindvalue, sa.Text), JSONB)


def _by_state(state: str) -> DbErrorKind:
    usual = DbErrorKind.LOST if state[:2] in _LOST_CLASSES else DbErrorKind.OTHER
    return _BY_STATE.get(state, usual)


def _require_utf8(encoding: str) -> None:
    if encoding != "UTF8":
        raise WarehouseRefused(
            f"the database's encoding is {encoding}, which cannot hold every text; "
            "create another one for the warehouse: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE "
            "template0"
        )


def _write(copy: Any, stage_id: int, batch: int, rows: Sequence[Row]) -> None:
    """Write rows in COPY's text form; by the driver where a value needs escaping.

    That takes 2.2 µs a row, and column by column 0.6.
    """
    columns = [_unescaped(column) for column in zip(*rows, strict=True)]
    if None in columns:
        for row in rows:
            copy.write_row((stage_id, batch, *row))
    else:
        key = f"{stage_id}\t{batch}"
        lines = map("\t".join, zip([key] * len(rows), *columns, strict=True))
        copy.write("\n".join(lines) + "\n")


def _unescaped(column: Sequence[Any]) -> Sequence[str] | None:
    """Return values as COPY reads them as they are; None where one of them needs escaping."""
    text = "".join(filter(None, column))
    if any(sign in text for sign in "\t\n\r\\"):
        return None
    if None not in column:
        return column
    return [r"\N" if value is None else value for value in column]
