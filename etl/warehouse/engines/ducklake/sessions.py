"""How sessions upon a lake begin their transactions."""

from contextlib import suppress
from typing import Any

import duckdb
import sqlalchemy as sa

from etl.warehouse.engines.base import Limits
from etl.warehouse.engines.ducklake.attaching import LAKE, Place, attach, load_extensions

# Every transaction that writes changes this one row, whatever else it writes: so of any two at once
# the later one is undone at its COMMIT, and tried again upon what the other has left. Without keys,
# two who each find a row missing would both put it in.
_CLAIM = "UPDATE bindings_etl_version SET version_num = version_num"


def prepare(engine: sa.Engine, place: Place, limits: Limits) -> None:
    """Let each connection attach the lake when it first begins a transaction."""

    @sa.event.listens_for(engine, "connect")
    def _connect(session: Any, _record: Any) -> None:
        load_extensions(session, place)
        session.execute("SET TimeZone = 'UTC'")  # batches hold times as text without a zone

    @sa.event.listens_for(engine, "begin")
    def _begin(conn: sa.Connection) -> None:
        options = conn.get_execution_options()
        session: Any = conn.connection.dbapi_connection
        migrates = bool(options.get("migrating"))
        if not conn.info.get("attached"):
            attach(session, place, limits.login(), create=migrates)
            _enter(session, place)
            conn.info["attached"] = True
        conn.exec_driver_sql("BEGIN TRANSACTION")
        if not (place.is_file or migrates or options.get("reading")):
            with suppress(sa.exc.ProgrammingError):  # before the first migration
                conn.exec_driver_sql(_CLAIM)


def _enter(session: Any, place: Place) -> None:
    session.execute(f"USE {LAKE}")
    if place.schema:
        with suppress(duckdb.CatalogException):  # before the first migration, which makes it
            session.execute(enter_schema(place.schema))


def enter_schema(schema: str) -> str:
    """Return the statement that goes into a schema of the lake."""
    return f"USE {LAKE}." + '"' + schema.replace('"', '""') + '"'
