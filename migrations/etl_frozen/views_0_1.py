"""The views of 0.1.0. Frozen: `20261123_02` and its like must make the same for ever."""

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
    "snowflake": """
SELECT b.sid, t.value::VARCHAR AS message_type
FROM bindings AS b, LATERAL FLATTEN(INPUT => PARSE_JSON(b.message_types)) AS t
WHERE b.deleted_at IS NULL
""",
}

_BINDING_MESSAGE_TYPES["mysql"] = _BINDING_MESSAGE_TYPES["mariadb"]
_BINDING_MESSAGE_TYPES["ducklake"] = _BINDING_MESSAGE_TYPES["duckdb"]

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

COMMENTS = {
    "active_bindings": (
        "Bindings that exist: `bindings` without the deleted ones.",
        {
            "sid": "BS… SID of the binding.",
            "account": "Name of the configured account.",
            "account_sid": "AC… SID of the owner, as given.",
            "chat_service_sid": "IS… SID of the service that was read.",
            "credential_sid": "CR… SID of the push credential.",
            "binding_type": "apn, fcm, gcm, twilsock or what else the API says, lower case.",
            "identity": "Identity of the Conversation User (or hashed, or NULL, by privacy).",
            "endpoint": "Opaque endpoint of the device (or hashed, or NULL, by privacy).",
            "message_types": "JSON array of the subscribed types in normal form, sorted; NULL where the API said null.",
            "date_created": "UTC.",
            "date_updated": "UTC.",
            "url": "URL of the binding, as given.",
            "extra": "JSON object of fields that the API sent and this table has no column for.",
            "content_hash": "Hash of the content: equal hash, equal content.",
            "first_seen_at": "When a run first published this SID.",
            "changed_at": "When its content last changed here: insert, update, delete, restore.",
            "run_id": "The run that last changed it.",
        },
    ),
    "binding_message_types": (
        "One row per active binding and message type.",
        {
            "sid": "BS… SID of the binding.",
            "message_type": "A message type it is subscribed to.",
        },
    ),
    "binding_history": (
        "Past versions and the current one together.",
        {
            "sid": "BS… SID of the binding.",
            "valid_from": "Since when it was so.",
            "valid_to": "Until when; NULL for the current version.",
            "is_deleted": "Whether the binding was deleted in that time.",
            "account": "Name of the configured account.",
            "account_sid": "AC… SID of the owner, as given.",
            "chat_service_sid": "IS… SID of the service that was read.",
            "credential_sid": "CR… SID of the push credential.",
            "binding_type": "apn, fcm, gcm, twilsock or what else the API says, lower case.",
            "identity": "Identity of the Conversation User (or hashed, or NULL, by privacy).",
            "endpoint": "Opaque endpoint of the device (or hashed, or NULL, by privacy).",
            "message_types": "JSON array of the subscribed types in normal form, sorted; NULL where the API said null.",
            "date_created": "UTC.",
            "date_updated": "UTC.",
            "url": "URL of the binding, as given.",
            "extra": "JSON object of fields that the API sent and this table has no column for.",
            "content_hash": "Hash of the content: equal hash, equal content.",
            "first_seen_at": "When a run first published this SID.",
            "run_id": "The run that ended it; of the current version, the run that last changed it.",
        },
    ),
    "service_freshness": (
        "How old and how complete the data of each service is.",
        {
            "account": "Name of the configured account.",
            "chat_service_sid": "IS… SID of the service.",
            "last_complete_at": "End of the last scan that read the whole service.",
            "active": "Bindings that exist.",
            "deleted": "Bindings that are marked as deleted.",
            "rejected_open": "Rows in quarantine.",
        },
    ),
    "identity_reachability": (
        "By which kinds of push each identity can be reached.",
        {
            "account": "Name of the configured account.",
            "chat_service_sid": "IS… SID of the service.",
            "identity": "Identity, as stored.",
            "apn": "Active bindings of type apn.",
            "fcm": "Active bindings of type fcm.",
            "gcm": "Active bindings of type gcm.",
            "other": "Active bindings of any other type.",
            "last_updated": "Latest date_updated among them.",
        },
    ),
}


def bodies(dialect: str) -> dict[str, str]:
    """The SQL of each view, in the order in which they are made."""
    return {
        "active_bindings": _ACTIVE_BINDINGS,
        "binding_message_types": _BINDING_MESSAGE_TYPES[dialect],
        "binding_history": _BINDING_HISTORY,
        "service_freshness": _SERVICE_FRESHNESS,
        "identity_reachability": _IDENTITY_REACHABILITY,
    }
