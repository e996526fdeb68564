"""What analysts read: the content of each view, the same on every engine (docs/warehouse.md)."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from etl.warehouse.types import UtcDateTime
from tests.engines.scan_harness import SERVICE, ScanHarness, day, sent, sid


def test_active_bindings_are_those_that_exist(harness: ScanHarness) -> None:
    """The view that most people use must not show a deleted device."""
    harness.scan([sent(1), sent(2)])
    harness.scan([sent(2)])
    rows = harness.rows("SELECT * FROM active_bindings")
    assert [row["sid"] for row in rows] == [sid(2)]
    assert "deleted_at" not in rows[0]
    assert {
        "identity",
        "endpoint",
        "message_types",
        "date_created",
        "url",
        "extra",
        "content_hash",
    } <= rows[0].keys()


def test_message_types_are_one_row_each(harness: ScanHarness) -> None:
    """An empty list and NULL give no row; text that looks like JSON or SQL is handed on as it is."""
    odd = [
        'a"b',
        "a\\b",
        "{}",
        "null",
        "ünïcode 😀",
        "with blank",
        "a,b",
        "[x]",
        "\\n",
        "a'b",
        "t\tab",
    ]
    harness.scan(
        [
            sent(1, message_types=["new_message", "added_to_conversation"]),
            sent(2, message_types=[]),
            sent(3, message_types=None),
            sent(4, message_types=odd),
            sent(5),
        ]
    )
    harness.scan(
        [
            sent(1, message_types=["new_message", "added_to_conversation"]),
            sent(2, message_types=[]),
            sent(4, message_types=odd),
        ]
    )
    rows = harness.rows("SELECT sid, message_type FROM binding_message_types")
    expected = [
        (sid(1), "added_to_conversation"),
        (sid(1), "new_message"),
        *((sid(4), name) for name in odd),
    ]
    assert sorted((row["sid"], row["message_type"]) for row in rows) == sorted(expected)


def test_history_answers_what_was_true_at_any_instant(harness: ScanHarness) -> None:
    """A wrong answer about the past is worse than none."""
    harness.scan([sent(1), sent(2)])
    harness.scan([sent(1, identity="moved"), sent(2)])
    harness.scan([sent(2)])
    then = sa.text(
        "SELECT sid, identity FROM binding_history WHERE valid_from <= :then AND (valid_to IS NULL OR valid_to > :then) "
        "AND NOT is_deleted ORDER BY sid"
    ).bindparams(sa.bindparam("then", type_=UtcDateTime()))

    def at(number: int) -> list[tuple[str, str]]:
        return harness.warehouse.read(
            lambda conn: [tuple(row) for row in conn.execute(then, {"then": day(number)})]
        )

    assert at(0) == []
    assert at(1) == [(sid(1), "person-1"), (sid(2), "person-2")]
    assert at(2) == [(sid(1), "moved"), (sid(2), "person-2")]
    assert at(3) == [(sid(2), "person-2")]


def test_reachability_counts_devices_by_kind(harness: ScanHarness) -> None:
    """Identities that differ in case, blanks or accents are different people; deleted devices reach nobody."""
    early, late = "2024-01-01T00:00:00.000001Z", "2024-01-01T00:00:00.000002Z"
    rows = [
        sent(1, identity="ann", date_updated=early),
        sent(2, identity="ann", binding_type="fcm", date_updated=late),
        sent(3, identity="ann", binding_type="twilsock", date_updated=None),
        sent(4, identity="ann", binding_type=None),
        sent(5, identity="ann", binding_type="apn "),
        sent(6, identity="Ann", binding_type="gcm"),
        sent(7, identity="ann ", binding_type="gcm"),
        sent(8, identity="änn", binding_type="gcm"),
        sent(9, identity="", binding_type="gcm"),
        sent(10, identity=None),
    ]
    harness.scan([*rows, sent(11, identity="ann"), sent(12, identity="gone")])
    harness.scan(rows)
    found = harness.rows("SELECT * FROM identity_reachability", "last_updated")
    counted = {
        row["identity"]: tuple(row[kind] for kind in ("apn", "fcm", "gcm", "other"))
        for row in found
    }
    assert counted == {
        "ann": (1, 1, 0, 3),
        "Ann": (0, 0, 1, 0),
        "ann ": (0, 0, 1, 0),
        "änn": (0, 0, 1, 0),
        "": (0, 0, 1, 0),
    }
    last = {row["identity"]: row["last_updated"] for row in found}
    assert last["ann"] == datetime(2024, 1, 1, 0, 0, 0, 2, tzinfo=UTC)
    assert {(row["account"], row["chat_service_sid"]) for row in found} == {("main", SERVICE)}


ELSEWHERE = {
    "postgresql": "SET TIME ZONE 'America/Los_Angeles'",
    "duckdb": "SET TimeZone = 'America/Los_Angeles'",
    "ducklake": "SET TimeZone = 'America/Los_Angeles'",
    "mariadb": "SET time_zone = '-08:00'",
    "mysql": "SET time_zone = '-08:00'",
}


def read_elsewhere(harness: ScanHarness, sql: str) -> list[tuple[Any, ...]]:
    """Rows of a session whose clock is eight hours behind UTC, where the engine has such a thing."""

    def read(conn: sa.Connection) -> list[tuple[Any, ...]]:
        if setting := ELSEWHERE.get(conn.dialect.name):
            conn.exec_driver_sql(setting)
        return [tuple(row) for row in conn.exec_driver_sql(sql)]

    return harness.warehouse.read(read)


@pytest.mark.parametrize("deletes", ["soft", "hard"])
def test_changes_are_counted_by_day(harness: ScanHarness, deletes: str) -> None:
    """What a first load brings is no gain, and no way to delete and no time zone changes a count."""
    first = [sent(1), sent(2, binding_type="fcm"), sent(3, binding_type="fcm")]
    harness.scan(first, deletes=deletes)
    harness.scan([sent(1, binding_type="gcm"), first[2], sent(4)], deletes=deletes)
    harness.scan([sent(1, binding_type="gcm"), *first[1:], sent(4)], deletes=deletes)
    harness.scan([sent(1, binding_type="gcm"), first[1], sent(4)], deletes=deletes)
    harness.scan([sent(1, binding_type="gcm"), first[1]], deletes=deletes)
    rows = read_elsewhere(
        harness,
        "SELECT day, week, binding_type, first_loaded, inserted, restored, updated, deleted "
        "FROM daily_changes ORDER BY day, binding_type",
    )
    friday, monday = "2026-01-02", "2026-01-05"
    # What is there has the type of today.
    assert [(*map(str, row[:3]), *row[3:]) for row in rows] == [
        (friday, "2025-12-29", "fcm", 2, 0, 0, 0, 0),
        (friday, "2025-12-29", "gcm", 1, 0, 0, 0, 0),
        ("2026-01-03", "2025-12-29", "apn", 0, 1, 0, 1, 0),
        ("2026-01-03", "2025-12-29", "fcm", 0, 0, 0, 0, 1),
        ("2026-01-04", "2025-12-29", "fcm", 0, 0, 1, 0, 0),
        (monday, monday, "fcm", 0, 0, 0, 0, 1),
        ("2026-01-06", monday, "apn", 0, 0, 0, 0, 1),
    ]
    assert {type(number) for row in rows for number in row[3:]} == {int}


def test_shared_endpoints_are_those_of_several_identities(harness: ScanHarness) -> None:
    """A phone handed on takes what is meant for another; one person's two bindings do not."""
    rows = [
        sent(3, endpoint="phone", identity="ann"),
        sent(1, endpoint="phone", identity="ben"),
        sent(2, endpoint="phone", identity="ben"),
        sent(4, endpoint="tablet", identity="eve"),
        sent(5, endpoint="tablet", identity="eve"),
        sent(6, endpoint="Phone", identity="joe"),
        sent(7, endpoint=None, identity="kay"),
        sent(8, endpoint=None, identity="lee"),
    ]
    harness.scan([*rows, sent(9, endpoint="Phone", identity="mia")])
    harness.scan(rows)
    found = harness.rows("SELECT * FROM shared_endpoints ORDER BY sid")
    assert [(row["group_sid"], row["sid"]) for row in found] == [
        (sid(1), sid(number)) for number in (1, 2, 3)
    ]
    assert {(row["bindings"], row["identities"], row["services"]) for row in found} == {(3, 2, 1)}
    assert not {"identity", "endpoint"} & found[0].keys()


def test_days_since_update_are_whole_days(harness: ScanHarness) -> None:
    """Who asks which devices are stale must get the same ones on every engine."""
    ages = {1: 0, 2: 1, 3: 89, 4: 400}
    long_ago = datetime.now(UTC) - timedelta(hours=12)
    stamps = {number: long_ago - timedelta(days=age) for number, age in ages.items()}
    harness.scan(
        [sent(number, date_updated=stamp.isoformat()) for number, stamp in stamps.items()]
        + [sent(5, date_updated=None)]
    )
    query = "SELECT sid, days_since_update FROM active_bindings"
    assert dict(read_elsewhere(harness, query)) == {
        **{sid(number): age for number, age in ages.items()},
        sid(5): None,
    }
