"""Sessions of Snowflake: what they keep to, and why one could not be opened."""

import logging
import os
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from snowflake import connector

from etl.errors import WarehouseRefused
from etl.warehouse.engines.base import LONGEST_GREETING, DbErrorKind, Limits
from etl.warehouse.engines.reaching import Unreached, reach
from etl.warehouse.engines.snowflake.claim import CLAIM

_NOT_CONNECTED = frozenset({4, 14, 250001})
_NO_TABLE = frozenset({904, 2003, 2043, 90105, 90106})
"""Before the migrations; whoever needs the tables will be told."""
_LONGEST_POLL = 45.0
"""Seconds after which the server says, of a statement at work, that it is."""


def prepare(engine: sa.Engine, schema: str | None, limits: Limits, protocol: str) -> None:
    """Let each session keep to `limits`, look into `schema`, and speak UTC.

    Each of its transactions that writes takes its turn.
    """
    # What goes wrong is told in our words; the driver's own may quote hosts and statements.
    logging.getLogger("snowflake").setLevel(logging.CRITICAL)
    # Else the driver asks three clouds at each start whether it runs in them.
    os.environ.setdefault("SNOWFLAKE_DISABLE_PLATFORM_DETECTION", "true")
    asked_for = _parameters(limits) | {"protocol": protocol}
    if schema:
        asked_for["schema"] = engine.dialect.identifier_preparer.quote(schema)

    @sa.event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, _args: Any, parameters: Any) -> Any:
        parameters = {**parameters, **asked_for, **limits.login()}
        try:
            return connector.connect(**parameters)
        except connector.errors.Error as error:
            if error.errno in _NOT_CONNECTED:
                raise _diagnose(parameters, f"{error.errno:06d}") from None
            raise

    @sa.event.listens_for(engine, "begin")
    def _begin(conn: sa.Connection) -> None:
        options = conn.get_execution_options()
        if options.get("reading") or options.get("migrating"):
            return
        try:
            is_had = conn.exec_driver_sql(CLAIM).rowcount == 1
        except sa.exc.DBAPIError as error:
            if getattr(error.orig, "errno", None) not in _NO_TABLE:
                raise
            return
        if not is_had:
            raise WarehouseRefused(
                "the table sync_gates has no row '*', by which writers take turns; put it back: "
                "INSERT INTO sync_gates (chat_service_sid, passed) VALUES ('*', 0)"
            )


def _parameters(limits: Limits) -> dict[str, Any]:
    greeting = round(min(LONGEST_GREETING, limits.silence))
    return {
        "paramstyle": "qmark",
        "enable_server_session_keep_alive_auto_detection": False,  # whoever closes one means it
        "application": "bindings_etl",
        "login_timeout": greeting,
        "connect_timeout": greeting,
        "request_timeout": round(limits.silence),
        "retry_timeout": round(_LONGEST_POLL + limits.silence),
        "query_timeout": round(limits.statement + limits.lock + limits.silence),
        "session_parameters": {
            "TIMEZONE": "UTC",
            "TIMESTAMP_INPUT_FORMAT": "AUTO",  # batches hold times as text
            "QUERY_TAG": "bindings-etl",
            "LOCK_TIMEOUT": max(1, round(limits.lock)),
            "STATEMENT_TIMEOUT_IN_SECONDS": round(limits.statement),
            "ABORT_DETACHED_QUERY": True,  # nobody waits for what a killed process has asked
            "CLIENT_TELEMETRY_ENABLED": False,
            # Else the driver makes a stage for many values, and a DDL would end the transaction.
            "CLIENT_STAGE_ARRAY_BINDING_THRESHOLD": 0,
        },
    }


def _diagnose(parameters: Mapping[str, Any], code: str) -> Unreached:
    """Return why nothing came of a login: the driver has one number for it, and words."""
    try:
        reach(parameters["host"], int(parameters["port"]), LONGEST_GREETING).close()
    except Unreached as unreached:
        return Unreached(unreached.kind, code)
    return Unreached(DbErrorKind.STRANGER, code)
