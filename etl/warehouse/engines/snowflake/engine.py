"""Snowflake, by its own SQLAlchemy dialect: JSON documents unpacked there, rows bound as arrays."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any, ClassVar

import sqlalchemy as sa

from etl.config import is_loopback
from etl.domain.binding import Row
from etl.errors import ConfigurationError, WarehouseOutdated
from etl.warehouse.engines.base import DbErrorKind, Engine, Limits
from etl.warehouse.engines.merging import KeylessEngine
from etl.warehouse.engines.relations import batch_of, seen_of
from etl.warehouse.engines.servers import ServerEngine, pool_options, try_idle_connections
from etl.warehouse.portions import portions
from etl.warehouse.tables import CARRIED

sa.dialects.registry.register("snowflake", "etl.warehouse.engines.snowflake.dialect", "Dialect")

# By the numbers in the vendor's documentation, and in reports where that gives none.
_BY_NUMBER = {
    4: DbErrorKind.LOST,  # of the driver: the network
    14: DbErrorKind.LOST,  # of the driver: it took too long
    604: DbErrorKind.CANCELLED,
    606: DbErrorKind.NO_DATABASE,  # no warehouse
    625: DbErrorKind.CONFLICT,  # a lock was not had in time, or too many wait for it
    630: DbErrorKind.CANCELLED,
    2003: DbErrorKind.MISSING,
    2043: DbErrorKind.NO_DATABASE,
    3001: DbErrorKind.DENIED,
    3003: DbErrorKind.DENIED,
    90105: DbErrorKind.NO_DATABASE,
    90106: DbErrorKind.NO_DATABASE,
    250002: DbErrorKind.LOST,
    250003: DbErrorKind.LOST,
    390100: DbErrorKind.LOGIN,
    390101: DbErrorKind.LOGIN,
    390102: DbErrorKind.ACCOUNT,
    390110: DbErrorKind.LOST,
    390111: DbErrorKind.LOST,
    390112: DbErrorKind.LOST,
    390113: DbErrorKind.LOST,
    390114: DbErrorKind.LOST,
    390115: DbErrorKind.LOST,
    390144: DbErrorKind.LOGIN,
    390189: DbErrorKind.ACCOUNT,
    390195: DbErrorKind.LOST,
    390201: DbErrorKind.NO_DATABASE,
    390318: DbErrorKind.LOGIN,
    390420: DbErrorKind.ACCOUNT,
    390422: DbErrorKind.ACCOUNT,
}
_BY_STATE = {
    "40001": DbErrorKind.CONFLICT,
    "40P01": DbErrorKind.CONFLICT,
    "42501": DbErrorKind.DENIED,
    "42S02": DbErrorKind.MISSING,
    "57014": DbErrorKind.CANCELLED,
}

_ROWS_A_REQUEST = 2500
_CARRIED = ", ".join(CARRIED)
_INSERT_STAGED = (
    f"INSERT INTO scan_staged (stage_id, batch, {_CARRIED}) "  # noqa: S608 - our names
    f"VALUES (?, ?{', ?' * len(CARRIED)})"
)


class Snowflake(KeylessEngine, ServerEngine):
    """See `Engine`."""

    url_form: ClassVar[str] = (
        "must be {engine}://user:password@account/database/schema?warehouse=…&role=…, "
        "with other signs of the password as %40, %3A …"
    )
    harmless_options: ClassVar[frozenset[str]] = frozenset(
        {"account", "authenticator", "protocol", "role", "warehouse"}
    )
    usual_port: ClassVar[int] = 443
    conflicts_at_commit: ClassVar[bool] = True  # there are no locks of rows that are only read
    commits_each_ddl: ClassVar[bool] = True
    advice: ClassVar[Mapping[DbErrorKind, str]] = {
        DbErrorKind.UNKNOWN_HOST: "cannot be reached: there is no such host; check the account in "
        "warehouse.url (as in its own address, before .snowflakecomputing.com) and the name server",
        DbErrorKind.STRANGER: "lets nobody in, and gives no number for it: check the account in "
        "warehouse.url, and that nothing between here and Snowflake answers in its place",
        DbErrorKind.LOGIN: "does not take the user or the password (or token, or key); check them "
        "in warehouse.url or what password_command prints",
        DbErrorKind.ACCOUNT: "does not let this user in: it is locked, its network policy does not "
        "know this host, or the role in warehouse.url is not granted to it; ask its administrator",
        DbErrorKind.NO_DATABASE: "has no such database, schema or warehouse for this role; check "
        "the names in warehouse.url, and USAGE on all three",
        DbErrorKind.MISSING: "refused the work: a table or view is missing, or the role may not "
        "see it; run `bindings-etl migrate`, or see the GRANTs in docs/engines/snowflake.md",
        DbErrorKind.DENIED: "refused the work: the role lacks a privilege; see the GRANTs in "
        "docs/engines/snowflake.md",
        DbErrorKind.CANCELLED: "cancelled a statement: it took longer than "
        "STATEMENT_TIMEOUT_IN_SECONDS of the warehouse allows, or somebody stopped it; find out "
        "what kept it, and run again",
    }

    def accepts(self, url: sa.URL) -> bool:
        parts = (url.database or "").split("/")
        is_plain = url.query.get("protocol", "https") == "http"
        return (
            super().accepts(url)
            and bool(url.host and url.username)
            and len(parts) <= 2
            and all(parts)
            and (not is_plain or is_loopback(url.host or ""))
        )

    def open(self, url: sa.URL, schema: str | None, limits: Limits) -> sa.Engine:
        try:
            from etl.warehouse.engines.snowflake import dialect, sessions  # noqa: F401
        except ImportError:
            raise ConfigurationError(
                "Snowflake needs a driver: pip install 'bindings-etl[snowflake]'"
            ) from None
        protocol = url.query.get("protocol", "https")
        engine = sa.create_engine(url.difference_update_query(["protocol"]), **pool_options(limits))
        sessions.prepare(engine, schema, limits, str(protocol))
        try_idle_connections(engine)
        return engine

    def socket_of(self, session: Any) -> int | None:
        return None  # each request is one of its own, and the driver ends one that takes too long

    def error_kind(self, error: sa.exc.DBAPIError) -> DbErrorKind:
        number = getattr(error.orig, "errno", None)
        if error.connection_invalidated:
            return DbErrorKind.LOST
        if number in _BY_NUMBER:
            return _BY_NUMBER[number]
        return _BY_STATE.get(getattr(error.orig, "sqlstate", None) or "", DbErrorKind.OTHER)

    def error_code(self, error: sa.exc.DBAPIError) -> str:
        number = getattr(error.orig, "errno", None)
        return f"{number:06d}" if isinstance(number, int) else super().error_code(error)

    def migration_lock(self, conn: sa.Connection) -> AbstractContextManager[None]:
        return nullcontext()  # each DDL ends the transaction, and with it any lock

    def prepare_migrations(self) -> None:
        from etl.warehouse.engines.snowflake import migrating  # noqa: F401 - being there is enough

    def why_unfit(self, conn: sa.Connection) -> str | None:
        return None

    def schema_sql(self, schema: str) -> str:
        name = '"' + schema.replace('"', '""') + '"'
        return f"CREATE SCHEMA IF NOT EXISTS {name};\n\nUSE SCHEMA {name};\n\n"

    def create_schema(self, conn: sa.Connection, schema: str) -> None:
        if not sa.inspect(conn).has_schema(schema):
            conn.execute(sa.schema.CreateSchema(schema))
        name = conn.dialect.identifier_preparer.quote(schema)
        conn.exec_driver_sql(f"USE SCHEMA {name}")

    def require_schema(self, conn: sa.Connection) -> None:
        if conn.scalar(sa.text("SELECT CURRENT_SCHEMA()")) is None:
            raise WarehouseOutdated(
                "there is no such schema in the database, or the role may not use it; check "
                "warehouse.url and warehouse.schema, GRANT USAGE ON SCHEMA to the role, or create "
                "it: `bindings-etl migrate`"
            )

    def now(self, conn: sa.Connection) -> datetime:
        moment: datetime = conn.scalar(sa.text("SELECT SYSDATE()"))
        return moment.replace(tzinfo=UTC)

    def batch_table(self) -> sa.FromClause:
        return batch_of(
            "SELECT entry.value[0]::VARCHAR AS sid, entry.value[1]::VARCHAR AS source_hash "
            "FROM TABLE(FLATTEN(INPUT => PARSE_JSON(:batch_keys))) AS entry"
        )

    def seen_sids(self) -> sa.FromClause:
        return seen_of(
            "SELECT scan_seen.batch, entry.value::VARCHAR AS sid "
            "FROM scan_seen, LATERAL FLATTEN(INPUT => PARSE_JSON(scan_seen.sids)) AS entry "
            "WHERE scan_seen.stage_id = :of_stage_id"
        )

    def json_object(
        self, name: sa.ColumnElement[str], value: sa.ColumnElement[str]
    ) -> sa.ColumnElement[str]:
        # OBJECT_AGG leaves members out whose value is NULL, and takes no name twice.
        known = sa.func.coalesce(_as_json(value), _constant("null"))
        member = _as_json(name).concat(_constant(":")).concat(known)
        members = sa.func.listagg(member, _constant(","))
        return _constant("{").concat(members).concat(_constant("}"))

    def has_member(self, document: sa.Column[str], name: str) -> sa.ColumnElement[bool]:
        names = sa.func.object_keys(sa.func.parse_json(document))
        return sa.func.array_contains(sa.func.to_variant(name), names, type_=sa.Boolean)

    def has_item(self, document: sa.Column[str], item: str) -> sa.ColumnElement[bool]:
        items = sa.func.to_array(sa.func.parse_json(document))
        return sa.func.array_contains(sa.func.to_variant(item), items, type_=sa.Boolean)

    def stage(self, conn: sa.Connection, stage_id: int, batch: int, rows: Sequence[Row]) -> None:
        # The driver binds a column's values as one array, within the request.
        for some in portions(rows, _ROWS_A_REQUEST):
            conn.exec_driver_sql(_INSERT_STAGED, [(stage_id, batch, *row) for row in some])


ENGINE: Engine = Snowflake()


def _constant(text: str) -> sa.ColumnElement[str]:
    """Return a text that stands in the statement: LISTAGG takes no other one between its items."""
    return sa.literal_column(f"'{text}'", sa.String)


def _as_json(text: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    return sa.func.to_json(sa.func.to_variant(text), type_=sa.String)
