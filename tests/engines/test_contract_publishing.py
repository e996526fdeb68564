"""What a scan does to `bindings` and `binding_versions`, the same on every engine (docs/warehouse.md; docs/promises.md §1 to §3)."""

import threading
from collections.abc import Callable
from functools import partial

import msgspec
import pytest
import sqlalchemy as sa

from etl.domain.scope import Scope
from etl.warehouse import absences, leases, staging
from etl.warehouse.connection import Warehouse
from tests.engines.scan_harness import OTHER_SERVICE, SERVICE, ScanHarness, Tally, day, sent, sid


class MishapError(Exception):
    """Something goes wrong in the middle of a transaction."""


def test_a_first_load_stores_every_row_and_no_history(harness: ScanHarness) -> None:
    """A first load that lost rows, or that filled the history, would be wrong from the first day."""
    assert harness.scan([sent(1), sent(2)], [sent(3)]) == Tally(inserted=3)
    assert harness.bindings(
        "sid", "identity", "first_seen_at", "changed_at", "deleted_at", "run_id"
    ) == [(sid(number), f"person-{number}", day(1), day(1), None, 1) for number in (1, 2, 3)]
    assert harness.versions("sid") == []
    assert harness.left_over() == 0


def test_a_first_load_meets_a_binding_of_another_service(
    harness: ScanHarness, warehouse: Warehouse
) -> None:
    """A SID that moved to a new service would end its first load, or count as new, or lose its past image."""
    harness.scan([sent(1), sent(2)])
    moved = ScanHarness(warehouse, Scope("main", OTHER_SERVICE))
    moved.scans = harness.scans
    mine = partial(sent, chat_service_sid=OTHER_SERVICE)
    assert moved.scan([mine(2), mine(3)], deletes=None) == Tally(inserted=1, updated=1)
    assert harness.bindings("sid", "chat_service_sid", "first_seen_at", "changed_at") == [
        (sid(1), SERVICE, day(1), day(1)),
        (sid(2), OTHER_SERVICE, day(1), day(2)),
        (sid(3), OTHER_SERVICE, day(2), day(2)),
    ]
    assert harness.versions("sid", "chat_service_sid", "change") == [(sid(2), SERVICE, "updated")]
    assert harness.left_over() == 0


def test_a_repeat_writes_nothing(harness: ScanHarness) -> None:
    """A repeat that rewrites rows would wear out the warehouse and show changes that never happened."""
    harness.scan([sent(1), sent(2)])
    before = harness.rows("SELECT * FROM bindings ORDER BY sid")
    assert harness.scan([sent(2)], [sent(1)]) == Tally()
    assert harness.rows("SELECT * FROM bindings ORDER BY sid") == before
    assert harness.versions("sid") == []


def test_a_small_service_is_known_by_the_hashes_of_its_active_rows(
    harness: ScanHarness, warehouse: Warehouse
) -> None:
    """Were one that is deleted, or another service's, among them, a binding that comes back would stay away."""
    other = ScanHarness(warehouse, Scope("main", OTHER_SERVICE))
    other.scans = 10
    harness.scan([sent(1), sent(2), sent(3)])
    other.scan([sent(4, chat_service_sid=OTHER_SERVICE)])
    harness.scan([sent(1), sent(2, endpoint="another")])

    def find(service: str, most: int) -> list[str]:
        engine = warehouse.engine
        return sorted(
            warehouse.read(lambda conn: staging.find_source_hashes(conn, engine, service, most))
        )

    hashes = dict(harness.bindings("sid", "source_hash"))
    assert len(set(hashes.values())) == 4
    assert find(SERVICE, 2) == sorted([hashes[sid(1)], hashes[sid(2)]])
    assert find(OTHER_SERVICE, 2) == [hashes[sid(4)]]
    assert find("IS" + "3" * 32, 2) == []
    assert find(SERVICE, 1) == []


def test_a_change_keeps_the_image_that_it_replaces(harness: ScanHarness) -> None:
    """Without the past image nobody could tell what was true last week."""
    harness.scan([sent(1), sent(2)])
    assert harness.scan([sent(1, identity="moved"), sent(2)]) == Tally(updated=1)
    assert harness.bindings("sid", "identity", "first_seen_at", "changed_at", "run_id") == [
        (sid(1), "moved", day(1), day(2), 2),
        (sid(2), "person-2", day(1), day(1), 1),
    ]
    assert harness.versions(
        "sid", "identity", "first_seen_at", "valid_from", "valid_to", "change", "run_id"
    ) == [(sid(1), "person-1", day(1), day(1), day(2), "updated", 2)]


def test_every_column_follows_a_change(harness: ScanHarness) -> None:
    """A column that the upsert forgets would keep yesterday's value for ever."""
    harness.scan([sent(1)])
    changed = sent(
        1,
        credential_sid="CR" + "c" * 32,
        binding_type="fcm",
        identity="b",
        endpoint="c",
        message_types=["d"],
        date_created="2024-01-01T00:00:00Z",
        date_updated="2024-01-02T00:00:00Z",
        url="e",
        more="f",
    )
    assert harness.scan([changed]) == Tally(updated=1)
    columns = ("credential_sid", "binding_type", "identity", "endpoint", "url")
    assert harness.bindings(*columns) == [("CR" + "c" * 32, "fcm", "b", "c", "e")]
    fresh = (
        "SELECT count(*) AS n FROM bindings AS b JOIN binding_versions AS v ON v.sid = b.sid WHERE "
    )
    for name in (*columns[1:], "message_types", "date_created", "date_updated", "content_hash"):
        assert harness.rows(f"{fresh} b.{name} <> v.{name}") == [{"n": 1}], name
    assert harness.rows("SELECT count(*) AS n FROM bindings WHERE extra IS NOT NULL") == [{"n": 1}]


def test_changed_fields_are_counted_over_the_updated_rows(harness: ScanHarness) -> None:
    """A field counted that is as it was, or one that is passed over, sends whoever looks astray."""
    harness.scan([sent(1, firmware=1.0), sent(2, identity=None), sent(3), sent(4)])
    assert harness.changed_fields == {}
    harness.scan([sent(1, firmware=1.0), sent(2, identity=None), sent(3)])
    harness.scan(
        [
            sent(1, firmware=msgspec.Raw(b"1.00")),
            sent(2, identity="", message_types=["new_message", "b"]),
            sent(3, identity="PERSON-3", message_types=["b", "new_message"], date_updated=None),
            sent(4, endpoint="back"),
            sent(5),
        ]
    )
    assert harness.changed_fields == {
        "identity": 2,
        "message_types": 2,
        "date_updated": 1,
        "extra": 1,
    }


def test_a_sid_that_comes_twice_with_one_date_is_taken_as_it_came_last(
    harness: ScanHarness,
) -> None:
    """Rows move between pages while they are read: the same SID comes again, in one batch or in two."""
    twice = [sent(1, identity="early"), sent(2), sent(1, identity="late")]
    assert harness.scan(twice) == Tally(inserted=2)
    assert harness.bindings("identity") == [("late",), ("person-2",)]
    assert harness.scan(
        [sent(1, identity="b"), sent(2)], [sent(1, identity="c"), sent(3)]
    ) == Tally(inserted=1, updated=1)
    assert harness.bindings("identity") == [("c",), ("person-2",), ("person-3",)]
    assert harness.versions("identity") == [("late",)]


def test_a_newer_image_counts_whenever_it_comes(harness: ScanHarness) -> None:
    """Chains commit their batches in any order: an update would be undone until the next reading."""
    days = [f"2024-05-0{number}T00:00:00Z" for number in range(1, 6)]
    harness.scan([sent(1), sent(2)])
    newer = [
        sent(1, identity="b", date_updated=days[1]),
        sent(3, identity="b", date_updated=days[1]),
    ]
    older = [
        sent(1, identity="a", date_updated=days[0]),
        sent(3, identity="a", date_updated=days[0]),
    ]
    assert harness.scan(newer, older, [sent(2)]) == Tally(inserted=1, updated=1)
    assert harness.bindings("identity") == [("b",), ("person-2",), ("b",)]
    # What did not change is as old as what is stored.
    assert harness.scan([sent(1, identity="c", date_updated=days[2])], [*newer, sent(2)]) == Tally(
        updated=1
    )
    assert harness.bindings("identity") == [("c",), ("person-2",), ("b",)]
    # Without a date it says nothing of its age.
    undated = sent(1, identity="d", date_updated=None)
    assert harness.scan(
        [sent(1, identity="e", date_updated=days[3])], [undated, *newer[1:], sent(2)]
    ) == Tally(updated=1)
    assert harness.bindings("identity") == [("e",), ("person-2",), ("b",)]
    assert harness.scan([undated, *newer[1:], sent(2)]) == Tally(updated=1)


def test_a_row_that_changes_and_changes_back_within_a_scan_is_no_change(
    harness: ScanHarness,
) -> None:
    """What an earlier batch staged of a SID must not outlive the later word that all is as before."""
    harness.scan([sent(1)])
    assert harness.scan([sent(1, identity="for a moment")], [sent(1)]) == Tally()
    assert harness.bindings("identity", "changed_at") == [("person-1", day(1))]


def test_a_soft_delete_and_a_return(harness: ScanHarness) -> None:
    """A binding that goes and comes back has one life story, without holes and with its first day."""
    harness.scan([sent(1), sent(2)])
    assert harness.scan([sent(2)]) == Tally(deleted=1)
    assert harness.bindings("sid", "deleted_at", "changed_at", "run_id") == [
        (sid(1), day(2), day(2), 2),
        (sid(2), None, day(1), 1),
    ]
    assert harness.scan([sent(2)]) == Tally()
    assert harness.scan([sent(1), sent(2)]) == Tally(restored=1)
    assert harness.bindings("first_seen_at", "deleted_at", "changed_at") == [
        (day(1), None, day(4)),
        (day(1), None, day(1)),
    ]
    assert harness.versions("sid", "valid_from", "valid_to", "change") == [
        (sid(1), day(1), day(2), "deleted"),
        (sid(1), day(2), day(4), "restored"),
    ]


def test_a_hard_delete_and_a_return(harness: ScanHarness) -> None:
    """A row that was taken out has to come back with its first day, and its absence has to show in its history."""
    harness.scan([sent(1), sent(2)], deletes="hard")
    assert harness.scan([sent(2)], deletes="hard") == Tally(deleted=1)
    assert harness.bindings("sid") == [(sid(2),)]
    assert harness.scan([sent(1, identity="new"), sent(2)], deletes="hard") == Tally(restored=1)
    assert harness.bindings("sid", "identity", "first_seen_at", "changed_at") == [
        (sid(1), "new", day(1), day(3)),
        (sid(2), "person-2", day(1), day(1)),
    ]
    assert harness.versions("identity", "valid_from", "valid_to", "change") == [
        ("person-1", day(1), day(2), "deleted"),
        ("person-1", day(2), day(3), "restored"),
    ]
    assert harness.scan([sent(2)], deletes="hard") == Tally(deleted=1)
    assert harness.scan([sent(1), sent(2)], deletes="hard") == Tally(restored=1)
    assert harness.bindings("first_seen_at") == [(day(1),), (day(1),)]


def test_a_whole_service_is_taken_out_and_returns(harness: ScanHarness) -> None:
    """A service without a row looks like a new one, and its rows would lose their first day."""
    harness.scan([sent(1), sent(2)], deletes="hard")
    assert harness.scan([], deletes="hard") == Tally(deleted=2)
    assert harness.scan([sent(1), sent(3)], deletes="hard") == Tally(inserted=1, restored=1)
    assert harness.bindings("sid", "first_seen_at") == [(sid(1), day(1)), (sid(3), day(3))]


@pytest.mark.parametrize("deletes", ["soft", "hard"])
def test_the_history_has_no_holes_and_no_overlaps(harness: ScanHarness, deletes: str) -> None:
    """An analyst who asks for any instant must find one image of a SID, never none and never two."""
    for number in (1, 2, None, 3, None, 4):
        harness.scan(
            [sent(9)] if number is None else [sent(9), sent(1, identity=f"as of {number}")],
            deletes=deletes,
        )
    story = [
        one
        for one in harness.history("sid", "valid_from", "valid_to", "identity", "is_deleted")
        if one[0] == sid(1)
    ]
    assert [(identity, bool(gone)) for *_, identity, gone in story] == [
        ("as of 1", False),
        ("as of 2", False),
        ("as of 2", True),
        ("as of 3", False),
        ("as of 3", True),
        ("as of 4", False),
    ]
    assert [begin for _, begin, *_ in story] == [day(number) for number in range(1, 7)]
    assert [end for _, _, end, *_ in story] == [*(day(number) for number in range(2, 7)), None]


@pytest.mark.parametrize("deletes", ["soft", "hard"])
def test_history_never_runs_backwards(harness: ScanHarness, deletes: str) -> None:
    """A clock that is set back, or a standby's that is behind, must not end an image before it began."""
    harness.scans = 4
    harness.scan([sent(1), sent(9)], deletes=deletes)
    harness.scans = 0
    stamps = []
    for rows in ([sent(1, identity="b")], [], [sent(1, identity="c"), sent(2)], [sent(1), sent(2)]):
        harness.scan([*rows, sent(9)], deletes=deletes)
        stamps += harness.rows(
            "SELECT changed_at, deleted_at FROM bindings WHERE sid = :sid",
            "changed_at",
            "deleted_at",
            sid=sid(1),
        )
    assert all(one["changed_at"] == day(5) for one in stamps)
    assert [one["deleted_at"] for one in stamps if one["deleted_at"]] == (
        [day(5)] if deletes == "soft" else []
    )
    harness.scans = 7
    harness.scan([sent(1, identity="d"), sent(2), sent(9)], deletes=deletes)
    assert harness.versions("sid", "valid_from", "valid_to", "change") == [
        (sid(1), day(5), day(5), "updated"),
        (sid(1), day(5), day(5), "deleted"),
        (sid(1), day(5), day(5), "restored"),
        (sid(1), day(5), day(5), "updated"),
        (sid(1), day(5), day(8), "updated"),
    ]
    assert harness.bindings("sid", "first_seen_at", "changed_at") == [
        (sid(1), day(5), day(8)),
        (sid(2), day(3), day(3)),
        (sid(9), day(5), day(5)),
    ]


def test_a_delete_stays_inside_its_scope(harness: ScanHarness) -> None:
    """A scan proves nothing about another service, another type or another identity."""
    harness.scan(
        [sent(1), sent(2, binding_type="fcm"), sent(3, identity="ann"), sent(4, identity="Ann")]
    )
    neighbour = ScanHarness(harness.warehouse, Scope("main", OTHER_SERVICE))
    neighbour.scans = 10
    neighbour.scan([sent(5, chat_service_sid=OTHER_SERVICE)])
    typed = ScanHarness(harness.warehouse, Scope("main", SERVICE, ("fcm",)))
    typed.scans = 20
    assert typed.scan([]) == Tally(deleted=1)
    named = ScanHarness(harness.warehouse, Scope("main", SERVICE, (), ("ann",)))
    named.scans = 30
    assert named.scan([]) == Tally(deleted=1)
    active = [one for one, gone in harness.bindings("sid", "deleted_at") if gone is None]
    assert active == [sid(1), sid(4), sid(5)]


@pytest.mark.parametrize("deletes", ["soft", "hard"])
def test_only_what_was_listed_as_absent_and_stands_as_it_did_is_deleted(
    harness: ScanHarness, deletes: str
) -> None:
    """The guard and the API spoke about the list; what turned up, changed or moved away since is another matter."""
    kinds = {1: "apn", 2: "apn", 3: "apn", 4: "apn", 5: "gcm", 6: "apn"}
    harness.scan([sent(number, binding_type=kind) for number, kind in kinds.items()])
    late = part_of(harness, "apn", scans=4)

    def list_absent(conn: sa.Connection) -> int:
        late.stage(conn, [sent(1)])
        return absences.list_absent(conn, harness.warehouse.engine, late.scope, [], late.scans)

    assert harness.warehouse.transact(list_absent) == 4
    assert harness.warehouse.transact(list_absent) == 4
    harness.scan(
        [sent(1), sent(2, url="changed"), sent(3, binding_type="fcm"), sent(5), sent(6)],
        deletes=deletes,
    )
    harness.warehouse.transact(lambda conn: late.publish(conn, deletes=deletes, listed=True))
    active = [one for one, gone in harness.bindings("sid", "deleted_at") if gone is None]
    assert active == [sid(1), sid(2), sid(3), sid(5)]
    assert sorted(harness.versions("sid", "change")) == [
        (sid(2), "updated"),
        (sid(3), "updated"),
        (sid(4), "deleted"),
        (sid(5), "updated"),
        (sid(6), "deleted"),
    ]
    assert harness.left_over() == 0


@pytest.mark.parametrize("deletes", ["soft", "hard"])
def test_what_left_the_scope_while_the_clock_stood_still_is_not_deleted(
    harness: ScanHarness, deletes: str
) -> None:
    """After a clock has stepped back, `changed_at` alone does not show that a listed binding has moved or is gone."""
    harness.scan([sent(1), sent(2), sent(3)])
    late = part_of(harness, "apn", scans=4)

    def list_absent(conn: sa.Connection) -> int:
        late.stage(conn, [sent(1)])
        return absences.list_absent(conn, harness.warehouse.engine, late.scope, [], late.scans)

    assert harness.warehouse.transact(list_absent) == 2
    harness.scans = 0
    harness.scan([sent(1), sent(2, binding_type="fcm")], deletes=deletes)
    told = harness.warehouse.transact(lambda conn: late.publish(conn, deletes=deletes, listed=True))
    assert told == Tally()
    active = [one for one, gone in harness.bindings("sid", "deleted_at") if gone is None]
    assert active == [sid(1), sid(2)]
    assert sorted(harness.versions("sid", "change")) == [(sid(2), "updated"), (sid(3), "deleted")]


def test_trailing_blanks_and_case_tell_identities_apart_in_a_scope(harness: ScanHarness) -> None:
    """MariaDB's usual collations pad with blanks: a scan of `ann` would delete the bindings of `ann `."""
    harness.scan(
        [
            sent(1, identity="ann"),
            sent(2, identity="ann "),
            sent(3, identity="ANN"),
            sent(4, binding_type="apn "),
        ]
    )
    named = ScanHarness(harness.warehouse, Scope("main", SERVICE, (), ("ann",)))
    named.scans = 10
    assert named.scan([]) == Tally(deleted=1)
    typed = ScanHarness(harness.warehouse, Scope("main", SERVICE, ("apn",)))
    typed.scans = 20
    assert typed.scan([]) == Tally(deleted=2)
    assert [one for one, gone in harness.bindings("sid", "deleted_at") if gone is None] == [sid(4)]


def test_sids_that_differ_in_case_are_two(harness: ScanHarness) -> None:
    """SIDs are compared byte by byte; folding their case would merge two devices into one row."""
    low, high = "BS" + "a" * 32, "BS" + "A" * 32
    assert harness.scan([sent(1, sid=low), sent(1, sid=high)]) == Tally(inserted=2)
    assert harness.scan([sent(1, sid=low)]) == Tally(deleted=1)
    assert sorted(harness.bindings("sid", "deleted_at")) == [(high, day(2)), (low, None)]


def test_a_mishap_in_the_middle_leaves_no_trace(harness: ScanHarness) -> None:
    """Half a publication would be believed by whoever reads it."""
    harness.scan([sent(1), sent(2), sent(3)])
    before = harness.rows("SELECT * FROM bindings ORDER BY sid")
    harness.scans += 1
    harness.warehouse.transact(
        lambda conn: harness.stage(conn, [sent(1, identity="new"), sent(3), sent(4)])
    )

    def publish_and_fail(conn: sa.Connection) -> None:
        assert harness.publish(conn) == Tally(inserted=1, updated=1, deleted=1)
        raise MishapError

    with pytest.raises(MishapError):
        harness.warehouse.transact(publish_and_fail)
    assert harness.rows("SELECT * FROM bindings ORDER BY sid") == before
    assert harness.versions("sid") == []
    assert harness.warehouse.transact(harness.publish) == Tally(inserted=1, updated=1, deleted=1)


def test_a_mishap_in_a_batch_leaves_nothing_of_it(harness: ScanHarness) -> None:
    """A batch that half remains would count rows as met whose content was never staged."""
    harness.scans += 1

    def stage_and_fail(conn: sa.Connection) -> None:
        harness.stage(conn, [sent(1), sent(2)])
        raise MishapError

    with pytest.raises(MishapError):
        harness.warehouse.transact(stage_and_fail)
    assert harness.left_over() == 0
    harness.warehouse.transact(lambda conn: harness.stage(conn, [sent(1)]))
    assert harness.warehouse.transact(harness.publish) == Tally(inserted=1)


def test_a_reader_sees_all_of_a_publication_or_nothing(
    harness: ScanHarness, warehouse_url: str, engine_name: str, open_on: Callable[..., Warehouse]
) -> None:
    """Whoever reads while a scan is published must see the state before it, not a part of it."""
    harness.scan([sent(1), sent(2)])
    reader = open_on(warehouse_url)
    count = sa.text("SELECT count(*), count(deleted_at) FROM bindings")
    harness.scans += 1

    def publish_and_look(conn: sa.Connection) -> None:
        harness.stage(conn, [sent(2), sent(3), sent(4)])
        harness.publish(conn)
        assert tuple(conn.execute(count).one()) == (4, 1)
        assert reader.read(lambda other: tuple(other.execute(count).one())) == (2, 0)

    harness.warehouse.transact(publish_and_look)
    assert reader.read(lambda other: tuple(other.execute(count).one())) == (4, 1)


def test_two_publishers_at_once_publish_both_wholly(harness: ScanHarness) -> None:
    """Services are read side by side: one publication must neither undo nor block the other for good."""
    presses = [
        ScanHarness(harness.warehouse, Scope("main", service))
        for service in (SERVICE, OTHER_SERVICE)
    ]
    failures: list[Exception] = []
    together = threading.Barrier(2)

    def load(one: ScanHarness, first: int) -> None:
        service = one.scope.chat_service_sid
        try:
            for turn in range(3):
                one.scans = first + turn
                rows = [
                    sent(first * 1000 + n, chat_service_sid=service, identity=f"{n}.{turn}")
                    for n in range(turn * 40, 300)
                ]
                together.wait(timeout=60)
                one.scan(rows[:150], rows[150:])
        except Exception as failure:  # noqa: BLE001 - shown to the test's own thread
            failures.append(failure)
            together.abort()

    threads = [
        threading.Thread(target=load, args=(one, first))
        for one, first in zip(presses, (100, 200), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    by_service = "SELECT chat_service_sid AS s, count(*) AS n, count(deleted_at) AS gone FROM bindings GROUP BY 1 ORDER BY 1"
    assert harness.rows(by_service) == [
        {"s": service, "n": 300, "gone": 80} for service in (SERVICE, OTHER_SERVICE)
    ]
    images = (
        "SELECT v.change AS why, count(*) AS n FROM binding_versions AS v GROUP BY 1 ORDER BY 1"
    )
    assert harness.rows(images) == [
        {"why": "deleted", "n": 160},
        {"why": "updated", "n": 2 * (260 + 220)},
    ]
    assert harness.left_over() == 0


def test_a_row_that_two_parts_have_read_is_published_once(harness: ScanHarness) -> None:
    """A binding that changes its type while partitions are read is met by two of them: one change is not two versions."""
    harness.scan([sent(1)])
    parts = [part_of(harness, kind, scans=number) for number, kind in ((2, "apn"), (3, "fcm"))]
    for part in parts:
        part.warehouse.transact(partial(part.stage, batch=[sent(1, binding_type="fcm")]))
    assert [part.warehouse.transact(part.publish) for part in parts] == [Tally(updated=1), Tally()]
    assert harness.bindings("binding_type", "changed_at", "run_id") == [("fcm", day(2), 2)]
    assert harness.versions("binding_type", "valid_to", "change") == [("apn", day(2), "updated")]


@pytest.mark.parametrize("engine_name", ["postgresql18", "mariadb"], indirect=True)
def test_parts_of_a_service_publish_one_after_the_other(harness: ScanHarness) -> None:
    """Two that publish one row in the same moment would both keep the image that only one of them replaces."""
    harness.scan([sent(1)])
    parts = [part_of(harness, kind, scans=number) for number, kind in ((2, "apn"), (3, "fcm"))]
    for part in parts:
        part.warehouse.transact(partial(part.stage, batch=[sent(1, binding_type="fcm")]))
    tallies: list[Tally] = []

    def publish(part: ScanHarness) -> None:
        tallies.append(part.warehouse.transact(lambda conn: enter_and_publish(conn, part)))

    late = threading.Thread(target=publish, args=(parts[1],))

    def publish_while_the_other_waits(conn: sa.Connection) -> Tally:
        tally = enter_and_publish(conn, parts[0])
        late.start()
        late.join(timeout=0.5)
        return tally

    assert harness.warehouse.transact(publish_while_the_other_waits) == Tally(updated=1)
    late.join()
    assert tallies == [Tally()]
    assert harness.versions("binding_type", "change") == [("apn", "updated")]


def enter_and_publish(conn: sa.Connection, part: ScanHarness) -> Tally:
    """As a scan of one type does."""
    leases.lock_service(conn, part.warehouse.engine, SERVICE)
    return part.publish(conn)


def part_of(harness: ScanHarness, kind: str, *, scans: int) -> ScanHarness:
    """A scan of one type of the same service, with a number of its own."""
    part = ScanHarness(harness.warehouse, Scope("main", SERVICE, (kind,)))
    part.scans = scans
    return part
