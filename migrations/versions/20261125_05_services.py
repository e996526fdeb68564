"""Services are rows of their own; what `service_freshness` shows of them is kept there."""

import sqlalchemy as sa
from alembic import op
from etl_frozen import views_0_1
from etl_frozen.columns_0_2 import code, moment, name
from etl_frozen.views import create_view, drop_view, replace_view

revision = "20261125_05"
down_revision = "20261125_04"

_OWNER = ("sync_leases", "owner", code(36))
_MODE = ("sync_runs", "mode", code(16))

_TYPES = "'type:apn', 'type:fcm', 'type:gcm', 'type:twilsock'"

_PUBLISHED = "complete AND status IN ('published', 'refused')"

_BY_TYPE = f"""
SELECT chat_service_sid, scope, MAX(finished_at) AS read_at
FROM sync_scans
WHERE scope IN ({_TYPES}) AND (status = 'skipped' OR ({_PUBLISHED}))
GROUP BY chat_service_sid, scope
"""

_AS_A_WHOLE = f"""
SELECT chat_service_sid, MAX(finished_at) AS read_at
FROM sync_scans
WHERE scope = 'service' AND {_PUBLISHED}
GROUP BY chat_service_sid
"""

# Services that were ever published; a SID that never answered is none.
_FILL_SERVICES = f"""
INSERT INTO services (chat_service_sid, account, state, first_seen_at, last_seen_at,
                      last_complete_at, active, deleted, deletes_held)
SELECT known.chat_service_sid, COALESCE(latest.account, counted.account), 'active',
       COALESCE(published.first_at, counted.first_at), COALESCE(published.last_at, counted.last_at),
       complete.read_at, COALESCE(counted.active, 0), COALESCE(counted.deleted, 0), 0
FROM (
    SELECT chat_service_sid FROM bindings
    UNION
    SELECT chat_service_sid FROM sync_scans WHERE status IN ('published', 'refused')
) AS known
LEFT JOIN (
    SELECT chat_service_sid, MAX(id) AS id, MIN(started_at) AS first_at,
           MAX(COALESCE(finished_at, started_at)) AS last_at
    FROM sync_scans WHERE status IN ('published', 'refused') GROUP BY chat_service_sid
) AS published ON published.chat_service_sid = known.chat_service_sid
LEFT JOIN sync_scans AS latest ON latest.id = published.id
LEFT JOIN (
    SELECT chat_service_sid, MIN(account) AS account, MIN(first_seen_at) AS first_at,
           MAX(changed_at) AS last_at, COUNT(CASE WHEN deleted_at IS NULL THEN 1 END) AS active,
           COUNT(deleted_at) AS deleted
    FROM bindings GROUP BY chat_service_sid
) AS counted ON counted.chat_service_sid = known.chat_service_sid
LEFT JOIN (
    SELECT chat_service_sid, MAX(read_at) AS read_at
    FROM (
        {_AS_A_WHOLE.strip()}
        UNION ALL
        SELECT chat_service_sid, MIN(read_at) AS read_at
        FROM ({_BY_TYPE.strip()}) AS by_type
        GROUP BY chat_service_sid HAVING COUNT(*) = 4
    ) AS either GROUP BY chat_service_sid
) AS complete ON complete.chat_service_sid = known.chat_service_sid
"""

_FILL_PARTS = f"""
INSERT INTO service_parts (chat_service_sid, binding_type, read_at, deletes_held)
SELECT part.chat_service_sid, SUBSTR(part.scope, 6), part.read_at, 0
FROM ({_BY_TYPE.strip()}) AS part
JOIN services ON services.chat_service_sid = part.chat_service_sid
LEFT JOIN ({_AS_A_WHOLE.strip()}) AS whole ON whole.chat_service_sid = part.chat_service_sid
WHERE whole.read_at IS NULL OR part.read_at > whole.read_at
"""

_FRESHNESS = """
SELECT services.account, services.chat_service_sid, services.last_complete_at, services.active,
       services.deleted, COALESCE(refused.rejected_open, 0) AS rejected_open,
       services.friendly_name, services.state, services.deletes_held
FROM services
LEFT JOIN (
    SELECT chat_service_sid, COUNT(*) AS rejected_open
    FROM rejected_bindings WHERE resolved_at IS NULL GROUP BY chat_service_sid
) AS refused ON refused.chat_service_sid = services.chat_service_sid
WHERE services.gone_at IS NULL
"""

_MEANING = "How old and how complete the data of each service is that is not gone."
_COLUMNS = {
    "account": "Name of the configured account.",
    "chat_service_sid": "IS… SID of the service.",
    "last_complete_at": "End of the last scan that read the whole service.",
    "active": "Bindings that exist.",
    "deleted": "Bindings that are marked as deleted.",
    "rejected_open": "Rows in quarantine.",
    "friendly_name": "Its name at Twilio, from the list of services (or NULL, by privacy).",
    "state": "active, gone (no longer listed and 404 by its SID), or unconfigured.",
    "deletes_held": "Absent bindings that the guard kept at the last reading.",
}


def upgrade() -> None:
    """Make the tables, fill them with what was published so far, and show them in the view."""
    _create_tables()
    for table in ("service_parts", "services"):  # an attempt before may have been broken off
        op.execute(f"DELETE FROM {table}")
    op.execute(_FILL_SERVICES)
    op.execute(_FILL_PARTS)
    replace_view("service_freshness", _FRESHNESS, _MEANING, _COLUMNS)
    _comment(*_OWNER, "Token of the scan that holds it.")
    _comment(*_MODE, "sync, backfill, retry or retire.")


def downgrade() -> None:
    """Count again whenever the view is asked."""
    _comment(*_MODE, "sync, backfill or retry.")
    _comment(*_OWNER, "Token of the process that holds it.")
    drop_view("service_freshness")
    before = views_0_1.bodies(op.get_context().dialect.name)["service_freshness"]
    create_view("service_freshness", before, *views_0_1.COMMENTS["service_freshness"])
    op.drop_table("service_parts")
    op.drop_table("services")


def _create_tables() -> None:
    op.create_table(
        "services",
        sa.Column("chat_service_sid", code(34), nullable=False, comment="IS… SID of the service."),
        sa.Column("account", name(64), nullable=False, comment="Name of the configured account that reads it."),
        sa.Column("friendly_name", name(256), comment=_COLUMNS["friendly_name"]),
        sa.Column("state", code(16), nullable=False, comment=_COLUMNS["state"]),
        sa.Column("first_seen_at", moment(), nullable=False, comment="When it was first listed or read."),
        sa.Column("last_seen_at", moment(), nullable=False, comment="When it was last listed or read."),
        sa.Column("gone_at", moment(), comment="When its rows were taken out, as it was gone or retired; else NULL."),
        sa.Column("last_complete_at", moment(), comment=_COLUMNS["last_complete_at"]),
        *(_number(one, _COLUMNS[one]) for one in ("active", "deleted", "deletes_held")),
        sa.PrimaryKeyConstraint("chat_service_sid", name="pk_services"),
        comment="One row per service that was ever listed or read.",
    )  # fmt: skip
    op.create_table(
        "service_parts",
        sa.Column("chat_service_sid", code(34), nullable=False, comment="IS… SID of the service."),
        sa.Column("binding_type", code(16), nullable=False, comment="apn, fcm, gcm or twilsock."),
        sa.Column("read_at", moment(), nullable=False, comment="End of the last scan that read this type completely."),
        _number("deletes_held", "Absent bindings of this type that the guard kept then."),
        sa.PrimaryKeyConstraint("chat_service_sid", "binding_type", name="pk_service_parts"),
        comment="The binding types that were read since the service was last read as a whole.",
    )  # fmt: skip


def _number(column: str, comment: str) -> "sa.Column[int]":
    return sa.Column(column, sa.BigInteger(), nullable=False, server_default="0", comment=comment)


def _comment(table: str, column: str, kind: "sa.types.TypeEngine[str]", comment: str) -> None:
    """SQLite keeps no comments."""
    dialect = op.get_context().dialect.name
    if dialect in ("postgresql", "duckdb"):
        op.execute(f"COMMENT ON COLUMN {table}.{column} IS '{comment}'")
    elif dialect != "sqlite":
        op.alter_column(table, column, existing_type=kind, existing_nullable=False, comment=comment)
