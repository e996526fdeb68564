"""What is known of each service, and the figures that are kept of it, on every engine (docs/warehouse.md)."""

import re
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from etl.domain.binding import Reject
from etl.domain.scope import KNOWN_TYPES, Scope
from etl.domain.service import Service
from etl.warehouse import leases, quarantine, services
from etl.warehouse.services import Reading
from tests.engines.scan_harness import OTHER_SERVICE, SCOPE, SERVICE, ScanHarness, day, sent, sid

MOMENTS = ("first_seen_at", "last_seen_at", "gone_at", "last_complete_at")


def found(harness: ScanHarness, day_of: int, *listed: Service, names: bool = True) -> None:
    harness.warehouse.transact(
        lambda conn: services.record_found(conn, "main", listed, day(day_of), names=names)
    )


def read(
    harness: ScanHarness,
    day_of: int,
    scope: Scope = SCOPE,
    *,
    complete: bool = True,
    held: int = 0,
    changed: bool = True,
    loaded: int | None = None,
) -> None:
    reading = Reading(scope, day(day_of), complete, held)

    def work(conn: sa.Connection) -> None:
        leases.lock_service(conn, harness.warehouse.engine, scope.chat_service_sid)
        services.record_reading(conn, reading, changed=changed, loaded=loaded)

    harness.warehouse.transact(work)


def of_type(kind: str) -> Scope:
    return Scope("main", SERVICE, (kind,))


def freshness(harness: ScanHarness, *names: str) -> list[tuple[Any, ...]]:
    rows = harness.rows(
        "SELECT * FROM service_freshness ORDER BY chat_service_sid", "last_complete_at"
    )
    return [tuple(row[name] for name in names) for row in rows]


def lines(harness: ScanHarness) -> list[dict[str, Any]]:
    return harness.rows("SELECT * FROM services ORDER BY chat_service_sid", *MOMENTS)


def test_a_listed_service_is_known_before_it_is_read(harness: ScanHarness) -> None:
    """A service whose every scan fails must be seen as never read, and not be unseen."""
    found(harness, 1, Service(SERVICE, "AC1", "Shop 👟"), Service(OTHER_SERVICE))
    found(harness, 2, Service(SERVICE, "AC1", "Store"))
    [one, other] = lines(harness)
    assert (one["account"], one["friendly_name"], one["state"]) == ("main", "Store", "active")
    assert (one["first_seen_at"], one["last_seen_at"]) == (day(1), day(2))
    assert (other["friendly_name"], other["last_seen_at"]) == (None, day(1))
    columns = ("chat_service_sid", "last_complete_at", "active", "deleted", "deletes_held")
    assert freshness(harness, *columns) == [
        (SERVICE, None, 0, 0, 0),
        (OTHER_SERVICE, None, 0, 0, 0),
    ]


def test_names_of_services_are_dropped_where_privacy_says_so(harness: ScanHarness) -> None:
    """Friendly names name customers; dropped, they must leave the table too."""
    found(harness, 1, Service(SERVICE, None, "Shop"), Service(OTHER_SERVICE, None, "Gone"))
    found(harness, 2, Service(SERVICE, None, "Shop"), names=False)
    assert [line["friendly_name"] for line in lines(harness)] == [None, "Gone"]
    harness.warehouse.transact(services.forget_names)
    assert [line["friendly_name"] for line in lines(harness)] == [None, None]


def test_freshness_tells_the_last_complete_reading_and_the_numbers(harness: ScanHarness) -> None:
    """Somebody trusts a service's figures because this view says they are fresh."""
    harness.scan([sent(1), sent(2), sent(3)])
    harness.scan([sent(1), sent(2)])
    read(harness, 4)
    read(harness, 5, complete=False)
    read(harness, 7, of_type("apn"))
    read(harness, 8, Scope("main", SERVICE, (), ("ann",)))
    rejected = [Reject(sid(8), "a", "{}"), Reject(sid(9), "b", "{}")]
    harness.warehouse.transact(lambda conn: quarantine.record(conn, 1, SCOPE, rejected, day(1)))
    harness.warehouse.transact(
        lambda conn: conn.execute(
            sa.text("UPDATE rejected_bindings SET resolved_at = last_seen_at WHERE reason = 'a'")
        )
    )
    columns = ("account", "last_complete_at", "active", "deleted", "rejected_open", "state")
    assert freshness(harness, *columns) == [("main", day(4), 2, 1, 1, "active")]


def test_what_was_loaded_is_all_only_of_a_service_that_had_nothing(harness: ScanHarness) -> None:
    """Parts of a new service publish one after the other; the last one's rows are not the whole service."""
    harness.scan([sent(1), sent(2)])
    read(harness, 2, of_type("apn"), loaded=2)
    assert freshness(harness, "active", "deleted") == [(2, 0)]
    harness.scan([sent(3, binding_type="fcm")], deletes=None)
    read(harness, 3, of_type("fcm"), loaded=1)
    assert freshness(harness, "active", "deleted") == [(3, 0)]


def test_a_service_read_type_by_type_is_as_fresh_as_its_oldest_type(harness: ScanHarness) -> None:
    """With one type stale the service is stale, however fresh the others are."""
    for number, kind in enumerate(KNOWN_TYPES[1:], start=2):
        read(harness, number, of_type(kind))
    assert freshness(harness, "last_complete_at") == [(None,)]
    read(harness, 9, of_type(KNOWN_TYPES[0]))
    assert freshness(harness, "last_complete_at") == [(day(2),)]
    read(harness, 10, of_type(KNOWN_TYPES[1]))
    assert freshness(harness, "last_complete_at") == [(day(3),)]
    read(harness, 11)
    read(harness, 12, of_type(KNOWN_TYPES[2]))
    assert freshness(harness, "last_complete_at") == [(day(11),)]


def test_what_the_guard_held_stays_until_the_service_is_read_again(harness: ScanHarness) -> None:
    """A narrow load after a refusal must not make the service look healthy."""
    read(harness, 1, held=100)
    assert freshness(harness, "deletes_held") == [(100,)]
    read(harness, 2, complete=False)
    read(harness, 3, of_type("apn"), held=60)
    assert freshness(harness, "deletes_held") == [(100,)]
    for number, kind in enumerate(KNOWN_TYPES, start=4):
        read(harness, number, of_type(kind), held=60 if kind == "apn" else 0)
    assert freshness(harness, "deletes_held", "last_complete_at") == [(60, day(4))]
    read(harness, 9)
    assert freshness(harness, "deletes_held") == [(0,)]


def test_a_service_that_is_gone_leaves_freshness_and_comes_back(harness: ScanHarness) -> None:
    """What is listed again at Twilio is a service like any other."""
    found(harness, 1, Service(SERVICE))
    harness.warehouse.transact(
        lambda conn: services.record_gone(conn, SERVICE, services.GONE, day(2))
    )
    [line] = lines(harness)
    assert (line["state"], line["gone_at"]) == ("gone", day(2))
    assert freshness(harness, "chat_service_sid") == []
    found(harness, 3, Service(SERVICE))
    [line] = lines(harness)
    assert (line["state"], line["gone_at"], line["first_seen_at"]) == ("active", None, day(1))


@pytest.mark.parametrize("engine_name", ["postgresql18", "mariadb"], indirect=True)
def test_numbers_are_exact_however_many_change_them_at_once(harness: ScanHarness) -> None:
    """Two who count at once must not each miss what the other has not yet committed."""
    harness.scan([sent(number) for number in range(40)])
    read(harness, 1)
    warehouse = harness.warehouse
    together = threading.Barrier(4)
    failures: list[Exception] = []

    def take_out(numbers: Sequence[int]) -> None:
        def work(conn: sa.Connection) -> None:
            leases.lock_service(conn, warehouse.engine, SERVICE)
            for number in numbers:
                conn.execute(
                    sa.text("DELETE FROM bindings WHERE sid = :sid").bindparams(sid=sid(number))
                )
            services.recount(conn, warehouse.engine, [SERVICE])

        try:
            together.wait(timeout=60)
            for _ in numbers:
                warehouse.transact(work)
        except Exception as failure:  # noqa: BLE001 - shown to the test's own thread
            failures.append(failure)

    threads = [threading.Thread(target=take_out, args=(range(start, 32, 4),)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert freshness(harness, "active") == [(8,)]


def test_many_services_at_once(harness: ScanHarness) -> None:
    """An account with thousands of services must not run into an engine's limit of parameters."""
    many = [Service(f"IS{number:032x}", None, f"Shop {number}") for number in range(1_200)]
    found(harness, 1, *many)
    found(harness, 2, *many)
    assert [line["last_seen_at"] for line in lines(harness)] == [day(2)] * 1_200


def test_freshness_reads_neither_the_bindings_nor_the_ledger(harness: ScanHarness) -> None:
    """At a million lines each the view took seconds, and every dashboard that refreshes waited."""
    harness.scan([sent(1)])
    read(harness, 1)
    if harness.warehouse.dialect == "snowflake":
        pytest.skip("the emulator has no EXPLAIN")
    explain = "EXPLAIN QUERY PLAN" if harness.warehouse.dialect == "sqlite" else "EXPLAIN"
    plan = str(harness.rows(f"{explain} SELECT * FROM service_freshness"))
    assert "services" in plan
    assert re.search(r"\b(bindings|sync_scans|sync_runs)\b", plan) is None
