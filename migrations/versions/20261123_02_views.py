"""The views of the contract."""

from alembic import op

from etl.warehouse.views import COMMENTS

revision = "20261123_02"
down_revision = "20261123_01"

_CONTENT = (
    "account, account_sid, chat_service_sid, credential_sid, binding_type, identity, endpoint, message_types, "
    "date_created, date_updated, url, extra, content_hash"
)

_ACTIVE_BINDINGS = f"""
SELECT sid, {_CONTENT}, first_seen_at, changed_at, run_id
FROM bindings WHERE deleted_at IS NULL
"""

_BINDING_MESSAGE_TYPES = {
    "postgresql": """
SELECT b.sid, t.message_type
FROM bindings AS b CROSS JOIN LATERAL jsonb_array_elements_text(b.message_types) AS t (message_type)
WHERE b.deleted_at IS NULL
""",
    "sqlite": """
SELECT b.sid, t.value AS message_type
FROM bindings AS b CROSS JOIN json_each(b.message_types) AS t
WHERE b.deleted_at IS NULL
""",
    "mariadb": """
SELECT b.sid, t.message_type
FROM bindings AS b CROSS JOIN JSON_TABLE(b.message_types, '$[*]' COLUMNS (message_type LONGTEXT PATH '$')) AS t
WHERE b.deleted_at IS NULL
""",
    "duckdb": """
SELECT b.sid, unnest(from_json(b.message_types, '["VARCHAR"]')) AS message_type
FROM bindings AS b
WHERE b.deleted_at IS NULL
""",
}

_BINDING_MESSAGE_TYPES["mysql"] = _BINDING_MESSAGE_TYPES["mariadb"]

_BINDING_HISTORY = f"""
SELECT sid, valid_from, valid_to, past.change = 'restored' AS is_deleted, {_CONTENT}, first_seen_at, run_id
FROM binding_versions AS past
UNION ALL
SELECT sid, changed_at, NULL, deleted_at IS NOT NULL, {_CONTENT}, first_seen_at, run_id
FROM bindings
"""

# A service that is read type by type is complete when each known type is; the oldest of them counts.
_SERVICE_FRESHNESS = """
SELECT known.account, known.chat_service_sid, complete.last_complete_at,
       COALESCE(counted.active, 0) AS active, COALESCE(counted.deleted, 0) AS deleted, COALESCE(refused.rejected_open, 0) AS rejected_open
FROM (
    SELECT account, chat_service_sid FROM bindings
    UNION
    SELECT account, chat_service_sid FROM sync_scans WHERE status <> 'skipped'
) AS known
LEFT JOIN (
    SELECT account, chat_service_sid, MAX(ended_at) AS last_complete_at
    FROM (
        SELECT account, chat_service_sid, finished_at AS ended_at
        FROM sync_scans
        WHERE complete AND scope = 'service' AND status IN ('published', 'refused')
        UNION ALL
        SELECT account, chat_service_sid, MIN(ended_at) AS ended_at
        FROM (
            SELECT account, chat_service_sid, scope, MAX(finished_at) AS ended_at
            FROM sync_scans
            WHERE scope IN ('type:apn', 'type:fcm', 'type:gcm', 'type:twilsock')
              AND (status = 'skipped' OR (complete AND status IN ('published', 'refused')))
            GROUP BY account, chat_service_sid, scope
        ) AS by_type
        GROUP BY account, chat_service_sid
        HAVING COUNT(*) = 4
    ) AS either
    GROUP BY account, chat_service_sid
) AS complete ON complete.account = known.account AND complete.chat_service_sid = known.chat_service_sid
LEFT JOIN (
    SELECT account, chat_service_sid,
           COUNT(CASE WHEN deleted_at IS NULL THEN 1 END) AS active, COUNT(deleted_at) AS deleted
    FROM bindings GROUP BY account, chat_service_sid
) AS counted ON counted.account = known.account AND counted.chat_service_sid = known.chat_service_sid
LEFT JOIN (
    SELECT account, chat_service_sid, COUNT(*) AS rejected_open
    FROM rejected_bindings WHERE resolved_at IS NULL GROUP BY account, chat_service_sid
) AS refused ON refused.account = known.account AND refused.chat_service_sid = known.chat_service_sid
"""

_IDENTITY_REACHABILITY = """
SELECT account, chat_service_sid, identity,
       COUNT(CASE WHEN binding_type = 'apn' THEN 1 END) AS apn,
       COUNT(CASE WHEN binding_type = 'fcm' THEN 1 END) AS fcm,
       COUNT(CASE WHEN binding_type = 'gcm' THEN 1 END) AS gcm,
       COUNT(CASE WHEN binding_type IS NULL OR binding_type NOT IN ('apn', 'fcm', 'gcm') THEN 1 END) AS other,
       MAX(date_updated) AS last_updated
FROM bindings
WHERE deleted_at IS NULL AND identity IS NOT NULL
GROUP BY account, chat_service_sid, identity
"""

_NAMES = (
    "active_bindings",
    "binding_message_types",
    "binding_history",
    "service_freshness",
    "identity_reachability",
)


def upgrade() -> None:
    """Create the views, with comments where the engine keeps them."""
    dialect = op.get_context().dialect.name
    bodies = (
        _ACTIVE_BINDINGS,
        _BINDING_MESSAGE_TYPES[dialect],
        _BINDING_HISTORY,
        _SERVICE_FRESHNESS,
        _IDENTITY_REACHABILITY,
    )
    for name, body in zip(_NAMES, bodies, strict=True):
        op.execute(f"CREATE VIEW {name} AS{body}")
    if dialect in ("postgresql", "duckdb"):
        _comment()


def downgrade() -> None:
    """Drop the views."""
    for name in reversed(_NAMES):
        op.execute(f"DROP VIEW {name}")


def _comment() -> None:
    for view, (meaning, columns) in COMMENTS.items():
        op.execute(f"COMMENT ON VIEW {view} IS {_quote(meaning)}")
        for column, comment in columns.items():
            op.execute(f"COMMENT ON COLUMN {view}.{column} IS {_quote(comment)}")


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
