"""Warehouses as released versions left them, with data in every table."""

from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from etl.warehouse import migration
from etl.warehouse.connection import Warehouse

V0_1 = "20261123_02"
_ENGINES = ("sqlite", "postgresql", "mariadb", "duckdb")

Rows = dict[str, list[dict[str, Any]]]
"""All tables, each row by its columns."""

# The tables of 0.1.0, and what each row of them is known by.
_TABLES = {
    "bindings": "sid",
    "binding_versions": "id",
    "sync_runs": "id",
    "sync_scans": "id",
    "rejected_bindings": "id",
    "sync_leases": "scope",
    "sync_gates": "chat_service_sid",
    "scan_progress": "stage_id",
    "scan_seen": "stage_id",
    "scan_staged": "stage_id",
}

_CONTENT = (
    "account, account_sid, chat_service_sid, credential_sid, binding_type, identity, endpoint, \
message_types, date_created, date_updated, url, extra, content_hash"
)


def _content(service: str, endpoint: str) -> str:
    return (
        f"'main', 'AC1', '{service}', NULL, 'apn', 'zoë ', '{endpoint}', '[\"new_message\"]', "
        "'2023-05-04 09:42:00.000000', '2023-05-04 09:42:00.123456', 'https://x', NULL, 'c1'"
    )


# In SQL that every engine takes. Nothing here follows `tables.py`, which goes on.
_ROWS = (
    f"""INSERT INTO bindings (sid, {_CONTENT}, source_hash, first_seen_at, changed_at, deleted_at, run_id)
    VALUES ('BS1', {_content("IS1", "now")}, 's1', '2026-10-25 00:59:59.999999',
            '2026-10-25 01:00:00.000001', NULL, 2)""",
    f"""INSERT INTO bindings (sid, {_CONTENT}, source_hash, first_seen_at, changed_at, deleted_at, run_id)
    VALUES ('BS2', {_content("IS1", "gone")}, 's1', '1970-01-01 00:00:00.000000',
            '2026-03-29 02:30:00.000000', '2026-03-29 02:30:00.000000', 2)""",
    f"""INSERT INTO binding_versions (sid, {_CONTENT}, first_seen_at, valid_from, valid_to, "change", run_id)
    VALUES ('BS2', {_content("IS1", "gone")}, '2026-01-01 00:00:00.000000',
            '2026-01-01 00:00:00.000000', '2026-03-29 02:30:00.000000', 'deleted', 2)""",
    """INSERT INTO sync_runs (mode, status, started_at, finished_at, dry_run, pages, inserted, version, host)
    VALUES ('sync', 'succeeded', '2026-03-29 02:00:00.000000', '2026-03-29 02:31:00.000000', FALSE,
            3, 2, '0.1.0', 'host')""",
    """INSERT INTO sync_scans (run_id, account, chat_service_sid, scope, status, complete, resumed,
                            started_at, finished_at)
    VALUES (1, 'main', 'IS1', 'service', 'published', TRUE, FALSE, '2026-03-29 02:00:00.000000',
            '2026-03-29 02:30:30.000000')""",
    """INSERT INTO rejected_bindings (fingerprint, run_id, account, chat_service_sid, sid, reason, payload,
                                   first_seen_at, last_seen_at, resolved_at)
    VALUES ('BS3', 1, 'main', 'IS1', 'BS3', 'bad', '{"a": 1}', '2026-03-29 02:00:00.000000',
            '2026-03-29 02:00:00.000000', NULL)""",
    """INSERT INTO sync_leases (chat_service_sid, scope, owner, run_id, host, acquired_at, expires_at)
    VALUES ('IS1', 'service', 'me', 1, 'host', '2026-03-29 02:00:00.000000',
            '2026-03-29 02:02:00.000000')""",
    "INSERT INTO sync_gates (chat_service_sid) VALUES ('IS1')",
    """INSERT INTO scan_progress (stage_id, account, chat_service_sid, scope, rules, next_link, pages,
                               fetched, updated_at)
    VALUES (1, 'main', 'IS1', 'service', 'r', 'https://x', 1, 1, '2026-03-29 02:00:00.000000')""",
    f"""INSERT INTO scan_staged (stage_id, batch, sid, {_CONTENT}, source_hash)
    VALUES (1, 1, 'BS1', {_content("IS1", "new")}, 's2')""",
)
_SEEN = "INSERT INTO scan_seen (stage_id, batch, sids) VALUES (1, 1, {})"


def make(warehouse: Warehouse, revision: str = V0_1) -> None:
    """Migrate an empty database to a released `revision` and put a row or two into each table."""
    if warehouse.dialect not in _ENGINES:
        pytest.skip("no release has left such a warehouse")
    with warehouse.migrating() as conn:
        config = migration._config(conn)
        config.attributes["version_table"] = "alembic_version"
        command.upgrade(config, revision)
    warehouse.transact(_fill)


def rows(conn: sa.Connection) -> Rows:
    """All that the tables hold, with times as the points in time that they mean."""
    return {
        table: [
            {name: _meaning(name, value) for name, value in row.items()}
            for row in conn.exec_driver_sql(f"SELECT * FROM {table} ORDER BY {key}").mappings()
        ]
        for table, key in _TABLES.items()
    }


def assert_kept(before: Rows, after: Rows) -> None:
    """Columns may be added; not a value is another."""
    for table, kept in before.items():
        for old, new in zip(kept, after[table], strict=True):
            assert old.items() <= new.items()


def _meaning(name: str, value: Any) -> Any:
    if name.endswith("_at") or name.startswith(("date_", "valid_")):
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        if moment is not None:
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return value


def _fill(conn: sa.Connection) -> None:
    quote = conn.dialect.identifier_preparer.quote_identifier("change")
    for statement in (
        *_ROWS,
        _SEEN.format("'{BS1}'" if conn.dialect.name == "postgresql" else "'[\"BS1\"]'"),
    ):
        conn.exec_driver_sql(statement.replace('"change"', quote).replace("%", "%%"))
