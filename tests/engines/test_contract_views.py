"""What analysts read: the content of each view, the same on every engine (docs/warehouse.md)."""

from datetime import UTC, datetime

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
