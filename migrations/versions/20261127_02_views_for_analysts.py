"""Views for what analysts ask most: changes per day, shared endpoints, days without an update."""

from alembic import op
from etl_frozen import views_0_1
from etl_frozen.views import create_view, drop_view, replace_view

revision = "20261127_02"
down_revision = "20261127_01"

# Of a moment its day in UTC; of a day the Monday of its week; whole days since a moment; what a sum
# of whole numbers is cast to.
_DAY = {
    "postgresql": "CAST({} AT TIME ZONE 'UTC' AS DATE)",
    "duckdb": "CAST({} AT TIME ZONE 'UTC' AS DATE)",
    "mariadb": "DATE({})",
    "sqlite": "DATE({})",
    "snowflake": "TO_DATE({})",
}
_WEEK = {
    "postgresql": "{0} - (CAST(EXTRACT(ISODOW FROM {0}) AS INTEGER) - 1)",
    "duckdb": "CAST(DATE_TRUNC('week', {}) AS DATE)",
    "mariadb": "SUBDATE({0}, WEEKDAY({0}))",
    "sqlite": "DATE({}, 'weekday 0', '-6 days')",
    "snowflake": "TO_DATE(DATEADD('day', 1 - DAYOFWEEKISO({0}), {0}))",
}
_DAYS_SINCE = {
    "postgresql": "CAST(TRUNC(EXTRACT(EPOCH FROM CURRENT_TIMESTAMP - {}) / 86400) AS INTEGER)",
    "duckdb": "CAST(TRUNC(EXTRACT(EPOCH FROM CURRENT_TIMESTAMP - {}) / 86400) AS INTEGER)",
    "mariadb": "TIMESTAMPDIFF(DAY, {}, UTC_TIMESTAMP(6))",
    "sqlite": "CAST(JULIANDAY('now') - JULIANDAY({}) AS INTEGER)",
    "snowflake": "CAST(TRUNC(TIMESTAMPDIFF('second', {}, SYSDATE()) / 86400) AS INTEGER)",
}
_WHOLE = {
    "postgresql": "BIGINT",
    "duckdb": "BIGINT",
    "mariadb": "SIGNED",
    "sqlite": "INTEGER",
    "snowflake": "BIGINT",
}

# PostgreSQL takes an equation for rare; for what differs it would make room for every endpoint, and
# write to disk what it joins with them.
_SHARED_ENDPOINTS = """
SELECT shared.group_sid, bindings.sid, bindings.account, bindings.chat_service_sid,
       bindings.binding_type, bindings.credential_sid,
       shared.bindings, shared.identities, shared.services
FROM (
    SELECT endpoint, MIN(sid) AS group_sid, COUNT(*) AS bindings,
           COUNT(DISTINCT identity) AS identities, COUNT(DISTINCT chat_service_sid) AS services
    FROM bindings
    WHERE deleted_at IS NULL AND endpoint IS NOT NULL
    GROUP BY endpoint HAVING CASE WHEN MIN(identity) <> MAX(identity) THEN 1 ELSE 0 END = 1
) AS shared
JOIN bindings ON bindings.endpoint = shared.endpoint
WHERE bindings.deleted_at IS NULL
"""

_ACTIVE_BINDINGS = (
    "Bindings that exist: `bindings` without the deleted ones.",
    {
        **views_0_1.COMMENTS["active_bindings"][1],
        "days_since_update": "Whole days since date_updated, at the moment of asking.",
    },
)
_COMMENTS = {
    "daily_changes": (
        "What changed on each day (UTC), by service and type.",
        {
            "day": "The day, UTC.",
            "week": "The Monday of its week.",
            "account": "Name of the configured account.",
            "chat_service_sid": "IS… SID of the service.",
            "binding_type": "apn, fcm, gcm, twilsock or what else the API says; of what was updated, the type before.",
            "first_loaded": "Bindings of the day on which the service was first loaded: what was there, and no gain.",
            "inserted": "Bindings that were new.",
            "restored": "Bindings that came back.",
            "updated": "Images that an update replaced.",
            "deleted": "Bindings that were gone.",
        },
    ),
    "shared_endpoints": (
        "Active bindings whose endpoint other identities have too: one device, several people.",
        {
            "group_sid": "Smallest SID among the bindings of one endpoint: names it without telling it.",
            "sid": "BS… SID of the binding.",
            "account": "Name of the configured account.",
            "chat_service_sid": "IS… SID of the service that was read.",
            "binding_type": "apn, fcm, gcm, twilsock or what else the API says, lower case.",
            "credential_sid": "CR… SID of the push credential.",
            "bindings": "Active bindings of this endpoint.",
            "identities": "Different identities among them.",
            "services": "Different services among them.",
        },
    ),
}

# Each part is counted by itself, which PostgreSQL does in parallel. What a hard delete took out of
# `bindings` has left its images.
_DAILY_CHANGES = """
SELECT day, {week} AS week, account, chat_service_sid, binding_type,
       CAST(SUM(CASE WHEN day <= loaded_on THEN inserted ELSE 0 END) AS {whole}) AS first_loaded,
       CAST(SUM(CASE WHEN day > loaded_on THEN inserted ELSE 0 END) AS {whole}) AS inserted,
       CAST(SUM(restored) AS {whole}) AS restored,
       CAST(SUM(updated) AS {whole}) AS updated,
       CAST(SUM(deleted) AS {whole}) AS deleted
FROM (
    SELECT counted.*, MIN(CASE WHEN inserted > 0 THEN day END) OVER (PARTITION BY chat_service_sid)
                      AS loaded_on
    FROM (
        SELECT {first_day} AS day, account, chat_service_sid, binding_type,
               COUNT(*) AS inserted, 0 AS restored, 0 AS updated, 0 AS deleted
        FROM bindings
        GROUP BY {first_day}, account, chat_service_sid, binding_type
        UNION ALL
        SELECT day, account, chat_service_sid, binding_type, COUNT(*), 0, 0, 0
        FROM (
            SELECT {first_day} AS day, account, chat_service_sid, MIN(binding_type) AS binding_type
            FROM binding_versions AS past
            WHERE past.change = 'deleted'
                  AND NOT EXISTS (SELECT 1 FROM bindings WHERE bindings.sid = past.sid)
            GROUP BY sid, {first_day}, account, chat_service_sid
        ) AS taken_out
        GROUP BY day, account, chat_service_sid, binding_type
        UNION ALL
        SELECT {last_day} AS day, account, chat_service_sid, binding_type, 0,
               COUNT(CASE WHEN past.change = 'restored' THEN 1 END),
               COUNT(CASE WHEN past.change = 'updated' THEN 1 END),
               COUNT(CASE WHEN past.change = 'deleted' THEN 1 END)
        FROM binding_versions AS past
        GROUP BY {last_day}, account, chat_service_sid, binding_type
    ) AS counted
) AS placed
GROUP BY day, account, chat_service_sid, binding_type
"""

_BY_CHANGE = "ix_binding_versions_change_valid_to"


def upgrade() -> None:
    """Make the views, and on PostgreSQL the index that spares one of them the past images."""
    dialect = _dialect()
    create_view("daily_changes", _daily_changes(dialect), *_COMMENTS["daily_changes"])
    create_view("shared_endpoints", _SHARED_ENDPOINTS, *_COMMENTS["shared_endpoints"])
    active = views_0_1.bodies(dialect)["active_bindings"]
    days = f", {_DAYS_SINCE[dialect].format('date_updated')} AS days_since_update\nFROM bindings"
    replace_view("active_bindings", active.replace("\nFROM bindings", days), *_ACTIVE_BINDINGS)
    if dialect == "postgresql":
        _index_by_change(["change", "valid_to", "chat_service_sid", "binding_type", "account"])


def downgrade() -> None:
    """Leave those of before."""
    if _dialect() == "postgresql":
        _index_by_change(["change", "valid_to"])
    before = views_0_1.bodies(_dialect())["active_bindings"]
    drop_view("active_bindings")
    create_view("active_bindings", before, *views_0_1.COMMENTS["active_bindings"])
    drop_view("shared_endpoints")
    drop_view("daily_changes")


def _dialect() -> str:
    name = op.get_context().dialect.name
    return {"mysql": "mariadb", "ducklake": "duckdb"}.get(name, name)


def _daily_changes(dialect: str) -> str:
    return _DAILY_CHANGES.format(
        week=_WEEK[dialect].format("day"),
        whole=_WHOLE[dialect],
        first_day=_DAY[dialect].format("first_seen_at"),
        last_day=_DAY[dialect].format("valid_to"),
    )


def _index_by_change(columns: list[str]) -> None:
    op.drop_index(_BY_CHANGE, "binding_versions")
    op.create_index(_BY_CHANGE, "binding_versions", columns)
