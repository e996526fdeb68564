"""A warehouse after years: a million bindings, five million past images, a million scans.

One service is loaded by `bindings-etl` itself and then multiplied by SQL, so that a repeat of it
can be measured before and after, and every command on what a warehouse grows to.
"""

from __future__ import annotations

import psycopg

COPIES = 19
VERSIONS = 5
RUNS = 50_000
HARD_DELETED = 20_000
REJECTS = 2_000

_CONTENT = (
    "account, account_sid, chat_service_sid, credential_sid, binding_type, identity, endpoint, "
    "message_types, date_created, date_updated, url, extra, content_hash"
)

# Ages are spread over some 400 days; one binding in twenty is soft-deleted.
_AGE = "place %% 400 * INTERVAL '1 day' + place %% 86400 * INTERVAL '1 second'"
_BINDINGS = f"""
INSERT INTO bindings (sid, {_CONTENT}, source_hash, first_seen_at, changed_at, deleted_at, run_id)
SELECT 'BS' || md5(sid || copy), account, account_sid, 'IS' || md5(copy::text), credential_sid,
       binding_type, identity, endpoint, message_types, date_created, date_updated, url, extra,
       content_hash, source_hash, now() - INTERVAL '800 days', now() - {_AGE},
       CASE WHEN place %% 20 = 0 THEN now() - {_AGE} END, 1
FROM (SELECT *, row_number() OVER (ORDER BY sid) AS place FROM bindings) AS loaded
CROSS JOIN generate_series(1, %(copies)s) AS copy
"""
_VERSIONS = f"""
INSERT INTO binding_versions (sid, {_CONTENT}, first_seen_at, valid_from, valid_to, change, run_id)
SELECT sid, {_CONTENT}, first_seen_at, changed_at - ago * INTERVAL '30 days' - INTERVAL '30 days',
       changed_at - ago * INTERVAL '30 days',
       CASE WHEN ago = 0 AND deleted_at IS NOT NULL THEN 'deleted' ELSE 'updated' END, 1
FROM bindings CROSS JOIN generate_series(%(versions)s - 1, 0, -1) AS ago
"""
_HARD_DELETED = f"""
INSERT INTO binding_versions (sid, {_CONTENT}, first_seen_at, valid_from, valid_to, change, run_id)
SELECT 'BS' || md5(sid || 'hard'), {_CONTENT}, first_seen_at, changed_at - INTERVAL '30 days',
       changed_at, 'deleted', 1
FROM bindings ORDER BY sid LIMIT %(hard_deleted)s
"""
_RUNS = """
INSERT INTO sync_runs (mode, status, started_at, finished_at, dry_run, version, host)
SELECT 'sync', 'succeeded', at, at + INTERVAL '30 seconds', false, '0', 'bench'
FROM (SELECT now() - (%(runs)s - n) * INTERVAL '12 minutes' AS at
      FROM generate_series(1, %(runs)s) AS n) AS times
"""
_SCANS = """
INSERT INTO sync_scans (run_id, account, chat_service_sid, scope, status, complete, resumed,
                        fetched, unchanged, started_at, finished_at)
SELECT run.id, place.account, place.chat_service_sid, 'service', 'published', true, false,
       50000, 50000, run.started_at, run.finished_at
FROM sync_runs AS run
CROSS JOIN (SELECT DISTINCT account, chat_service_sid FROM bindings) AS place
WHERE run.host = 'bench' ORDER BY run.id
"""
_SERVICES = """
INSERT INTO services (chat_service_sid, account, state, first_seen_at, last_seen_at,
                      last_complete_at, active, deleted)
SELECT chat_service_sid, min(account), 'active', min(first_seen_at), now(), now(),
       count(*) FILTER (WHERE deleted_at IS NULL), count(deleted_at)
FROM bindings GROUP BY chat_service_sid ON CONFLICT DO NOTHING
"""
_REJECTS = """
INSERT INTO rejected_bindings (fingerprint, run_id, account, chat_service_sid, sid, reason, payload,
                               first_seen_at, last_seen_at, resolved_at)
SELECT 'BS' || md5(sid || 'bad'), 1, account, chat_service_sid, 'BS' || md5(sid || 'bad'),
       'date_updated is not a date that can be read',
       json_build_object('sid', sid, 'identity', identity, 'url', url)::text,
       now() - INTERVAL '90 days', now() - INTERVAL '40 days',
       CASE WHEN right(sid, 1) < '8' THEN now() - INTERVAL '40 days' END
FROM bindings ORDER BY sid LIMIT %(rejects)s
"""

# Made anew afterwards, which is quicker than keeping them.
_INDEXES = """
SELECT indexname, indexdef FROM pg_indexes
WHERE schemaname = 'public' AND tablename IN ('bindings', 'binding_versions')
      AND indexname LIKE 'ix%'
"""


def grow(database_url: str, share: int = 1) -> None:
    """Multiply what is loaded; `share` 10 makes a tenth of it."""
    sizes = {
        "copies": COPIES,
        "versions": VERSIONS,
        "runs": RUNS // share,
        "hard_deleted": HARD_DELETED // share,
        "rejects": REJECTS // share,
    }
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET maintenance_work_mem = '256MB'; SET synchronous_commit = off")
        indexes = connection.execute(_INDEXES).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}".encode())
        for statement in (_BINDINGS, _VERSIONS, _HARD_DELETED, _RUNS, _SCANS, _REJECTS, _SERVICES):
            connection.execute(statement.encode(), sizes)
        # After years the rows of a service lie anywhere; the rest is as autovacuum leaves it.
        connection.execute("CLUSTER bindings USING pk_bindings")
        for _, definition in indexes:
            connection.execute(definition.encode())
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
