"""Leases on every engine: who works on what, until when, and what a process does that has lost its lease (docs/promises.md §8)."""

import threading
from collections.abc import Sequence
from datetime import datetime
from functools import partial

import pytest
import sqlalchemy as sa
from msgspec.structs import replace

from etl.domain.privacy import PrivacyRules
from etl.domain.scope import Scope
from etl.errors import LeaseHeld, LeaseLost
from etl.sync.session import ScanSession
from etl.warehouse import leases
from etl.warehouse.connection import Warehouse
from etl.warehouse.leases import Holder, Lapsed
from etl.warehouse.tables import sync_gates, sync_leases
from tests.engines.scan_harness import OTHER_SERVICE, SERVICE, ScanHarness, Tally, sent

WHOLE = Scope("main", SERVICE)
APN = Scope("main", SERVICE, ("apn",))
FCM = Scope("main", SERVICE, ("fcm",))
BOTH = Scope("main", SERVICE, ("apn", "fcm"))
ANN = Scope("main", SERVICE, (), ("ann",))
APN_OF_ANN = Scope("main", SERVICE, ("apn",), ("ann",))


def holder(run_id: int, *, lease_seconds: float = 120) -> Holder:
    """A process; with a negative lease its leases have expired as soon as they are taken."""
    return Holder(f"owner-{run_id}", run_id, f"host-{run_id}", lease_seconds)


def acquire(warehouse: Warehouse, one: Holder, scope: Scope = WHOLE) -> list[Lapsed]:
    return warehouse.transact(lambda conn: leases.acquire(conn, warehouse.engine, one, scope))


def renew(warehouse: Warehouse, one: Holder, scope: Scope = WHOLE) -> None:
    warehouse.transact(lambda conn: leases.renew(conn, warehouse.engine, one, scope))


def live(warehouse: Warehouse) -> list[tuple[object, object]]:
    return warehouse.read(
        lambda conn: [(one.scope, one.run_id) for one in leases.live(conn, warehouse.engine)]
    )


def gates(warehouse: Warehouse) -> dict[str, int]:
    """How often each gate was passed."""
    query = sa.select(sync_gates.c.chat_service_sid, sync_gates.c.passed).where(
        sync_gates.c.chat_service_sid.startswith("IS")  # an engine may have others of its own
    )
    return dict(warehouse.read(lambda conn: [tuple(one) for one in conn.execute(query)]))


def test_gates_made_in_one_transaction_can_be_passed_in_it(warehouse: Warehouse) -> None:
    """Rows would be lost that were put in by two statements, and changed before the COMMIT."""
    passes = sync_gates.c.passed + 1

    def work(conn: sa.Connection) -> None:
        for gate in ("IS1", "IS2", "IS3"):
            row = sa.select(sa.literal(gate))
            for _ in range(2):
                conn.execute(warehouse.engine.insert_missing(sync_gates, ["chat_service_sid"], row))
        for gate in ("IS1", "IS2"):
            mine = sync_gates.c.chat_service_sid == gate
            conn.execute(sa.update(sync_gates).where(mine).values(passed=passes))
        conn.execute(sa.update(sync_gates).values(passed=passes))

    warehouse.transact(work)
    assert gates(warehouse) == {"IS1": 2, "IS2": 2, "IS3": 1}


@pytest.mark.parametrize("number", [1, 3, 40])
def test_rows_overwritten_and_put_in_can_be_changed_in_the_same_transaction(
    warehouse: Warehouse, number: int
) -> None:
    """A publication overwrites rows, then puts others in, then deletes: none may be lost on the way."""
    names = [f"IS{place}" for place in range(3 * number)]

    def put(conn: sa.Connection, some: Sequence[str], passed: int) -> None:
        rows = sa.union_all(
            *(sa.select(sa.literal(one).label("gate"), sa.literal(passed)) for one in some)
        ).subquery()
        query = sa.select(*rows.c).where(sa.true())
        statement = warehouse.engine.insert_or_update(
            sync_gates, ["chat_service_sid", "passed"], query
        )
        conn.execute(statement)

    def change(conn: sa.Connection, name: str) -> None:
        mine = sync_gates.c.chat_service_sid == name
        conn.execute(sa.update(sync_gates).where(mine).values(passed=sync_gates.c.passed + 1))

    def work(conn: sa.Connection) -> None:
        put(conn, names[:number], 5)
        put(conn, names[number:], 7)
        for name in (names[0], names[number], names[-1]):
            change(conn, name)
        gone = sync_gates.c.chat_service_sid == names[-1]
        conn.execute(sa.delete(sync_gates).where(gone))
        conn.execute(sa.update(sync_gates).values(passed=sync_gates.c.passed + 1))

    warehouse.transact(lambda conn: put(conn, names[: 2 * number], 0))
    warehouse.transact(work)
    expected = dict.fromkeys(names[:number], 6) | dict.fromkeys(names[number:-1], 8)
    expected[names[0]] += 1
    expected[names[number]] += 1
    assert gates(warehouse) == expected


def test_a_lease_keeps_others_out_until_it_is_given_back(warehouse: Warehouse) -> None:
    """Two runs over one service would publish each other's half-read state."""
    assert acquire(warehouse, holder(1)) == []
    with pytest.raises(LeaseHeld, match="run 1 on host-1"):
        acquire(warehouse, holder(2))
    assert live(warehouse) == [("service", 1)]
    warehouse.transact(lambda conn: leases.release(conn, holder(2), WHOLE))
    assert live(warehouse) == [("service", 1)]
    warehouse.transact(lambda conn: leases.release(conn, holder(1), WHOLE))
    assert live(warehouse) == []
    assert acquire(warehouse, holder(2)) == []


def test_another_service_is_free(warehouse: Warehouse) -> None:
    """A lease on one service must not hold back the others."""
    acquire(warehouse, holder(1))
    acquire(warehouse, holder(2), Scope("main", OTHER_SERVICE))
    assert live(warehouse) == [("service", 1), ("service", 2)]


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        (WHOLE, APN),
        (APN, WHOLE),
        (APN, BOTH),
        (BOTH, FCM),
        (ANN, APN),
        (APN, ANN),
        (ANN, WHOLE),
        (APN_OF_ANN, APN),
        (APN, APN),
    ],
    ids=lambda scope: scope.label.partition(" ")[0],
)
@pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
def test_scopes_that_may_share_a_binding_exclude_each_other(
    warehouse: Warehouse, held: Scope, asked: Scope
) -> None:
    """A backfill and the scheduled run over the same rows would delete what the other has just read."""
    acquire(warehouse, holder(1), held)
    with pytest.raises(LeaseHeld):
        acquire(warehouse, holder(2), asked)
    assert live(warehouse) == [(held.label, 1)]


def test_scans_of_one_run_exclude_each_other(warehouse: Warehouse) -> None:
    """Two accounts of one process that find the same service would publish each other's half."""
    process = holder(1)
    one, other = process.for_scan(), process.for_scan()
    acquire(warehouse, one)
    with pytest.raises(LeaseHeld, match="run 1 on host-1"):
        acquire(warehouse, other)
    assert acquire(warehouse, one) == [Lapsed(1)]  # the answer to its commit may have been lost
    with pytest.raises(LeaseLost):
        renew(warehouse, other)


def test_disjoint_types_are_read_side_by_side(warehouse: Warehouse) -> None:
    """Were partitions to exclude each other, `partition_by_type` would gain nothing."""
    acquire(warehouse, holder(1), APN)
    acquire(warehouse, holder(2), FCM)
    assert live(warehouse) == [("type:apn", 1), ("type:fcm", 2)]


def test_who_takes_a_lease_writes_where_a_lock_keeps_nobody_out(warehouse: Warehouse) -> None:
    """Of two who only lock, on two nodes of a cluster, both would find the service free and take it."""
    acquire(warehouse, holder(1, lease_seconds=-1))
    acquire(warehouse, holder(2))
    gate = sa.select(sync_gates.c.passed).where(sync_gates.c.chat_service_sid == SERVICE)
    passed = warehouse.read(lambda conn: conn.scalar(gate))
    assert passed == (2 if warehouse.engine.conflicts_at_commit else 0)


def test_an_expired_lease_is_taken_over(warehouse: Warehouse) -> None:
    """A killed process cannot give its lease back; without expiry its service would never be read again."""
    acquire(warehouse, holder(1, lease_seconds=-1))
    assert live(warehouse) == []
    assert acquire(warehouse, holder(2)) == [Lapsed(1)]
    assert live(warehouse) == [("service", 2)]


def test_all_expired_leases_in_the_way_are_cleared(warehouse: Warehouse) -> None:
    """Partitions of a killed run must not stay behind and be taken for live ones later."""

    def leave_behind(conn: sa.Connection, run_id: int, scope: Scope) -> None:
        lease = leases._row(holder(run_id, lease_seconds=-1), scope, warehouse.engine.now(conn))
        conn.execute(sa.insert(sync_leases).values(lease))

    for run_id, scope in ((1, APN), (2, FCM), (3, ANN)):
        warehouse.transact(partial(leave_behind, run_id=run_id, scope=scope))
    assert sorted(one.run_id for one in acquire(warehouse, holder(4))) == [1, 2, 3]
    rows = warehouse.read(
        lambda conn: conn.execute(sa.text("SELECT scope FROM sync_leases")).scalars().all()
    )
    assert rows == ["service"]


def test_renewing_prolongs_a_lease_even_one_that_has_run_out(warehouse: Warehouse) -> None:
    """A process that was asleep and still has its lease may go on; no other has taken it."""
    acquire(warehouse, holder(1, lease_seconds=-1))
    renew(warehouse, holder(1))
    assert live(warehouse) == [("service", 1)]


def test_the_heartbeat_prolongs_all_leases_of_its_run_and_no_others(
    warehouse: Warehouse,
) -> None:
    """A heartbeat that revived a dead run's lease would lock a service for ever."""
    dead, alive = holder(1, lease_seconds=-1), holder(2, lease_seconds=-1)
    acquire(warehouse, dead, APN)
    acquire(warehouse, alive.for_scan(), FCM)
    acquire(warehouse, alive.for_scan(), Scope("main", OTHER_SERVICE))
    warehouse.transact(lambda conn: leases.renew_all(conn, warehouse.engine, holder(2)))
    assert live(warehouse) == [("type:fcm", 2), ("service", 2)]


def test_the_heartbeat_leaves_the_leases_of_other_processes_of_its_run(
    warehouse: Warehouse,
) -> None:
    """A worker that died would hold its services for as long as the others of its run work."""
    dead = replace(holder(1, lease_seconds=-1), owner="dead")
    alive = replace(dead, owner="de")
    acquire(warehouse, dead.for_scan(), APN)
    acquire(warehouse, alive.for_scan(), FCM)
    warehouse.transact(
        lambda conn: leases.renew_all(conn, warehouse.engine, replace(holder(1), owner="de"))
    )
    assert live(warehouse) == [("type:fcm", 1)]


def test_a_lease_lost_on_the_way_undoes_the_transaction(harness: ScanHarness) -> None:
    """A process that slept through its lease must not publish over the run that took it."""
    warehouse, slept = harness.warehouse, holder(1, lease_seconds=-1)
    harness.scan([sent(1)])
    acquire(warehouse, slept)
    harness.scans += 1
    warehouse.transact(lambda conn: harness.stage(conn, [sent(2)]))
    acquire(warehouse, holder(2))

    def publish(conn: sa.Connection) -> Tally:
        tally = harness.publish(conn)
        leases.renew(conn, warehouse.engine, slept, WHOLE)
        return tally

    with pytest.raises(LeaseLost, match="published nothing"):
        warehouse.transact(publish)
    assert harness.bindings("identity", "deleted_at") == [("person-1", None)]
    assert live(warehouse) == [("service", 2)]


@pytest.mark.parametrize(
    "scopes", [(WHOLE, WHOLE, WHOLE, WHOLE), (WHOLE, APN, BOTH, ANN)], ids=["same", "overlapping"]
)
def test_of_many_who_ask_at_once_exactly_one_wins(
    warehouse: Warehouse, scopes: Sequence[Scope]
) -> None:
    """The gate exists for this: an empty table locks nobody out, so two could both find the service free."""
    together = threading.Barrier(len(scopes))
    won: list[int] = []
    lost: list[int] = []
    failures: list[Exception] = []

    def ask(run_id: int, scope: Scope) -> None:
        together.wait(timeout=60)
        try:
            acquire(warehouse, holder(run_id), scope)
            won.append(run_id)
        except LeaseHeld:
            lost.append(run_id)
        except Exception as failure:  # noqa: BLE001 - shown to the test's own thread
            failures.append(failure)

    for turn in range(3):
        threads = [
            threading.Thread(target=ask, args=(turn * 10 + number, scope))
            for number, scope in enumerate(scopes, start=1)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(won) == turn + 1
        assert len(lost) == (turn + 1) * (len(scopes) - 1)
        winner = won[-1]
        assert [run_id for _, run_id in live(warehouse)] == [winner]
        for scope in scopes:
            warehouse.transact(partial(leases.release, holder=holder(winner), scope=scope))


def test_a_lease_that_is_given_back_as_it_is_taken_over_is_held(warehouse: Warehouse) -> None:
    """A scan that holds nothing would find out at its first batch, and its whole run would be lost."""
    if warehouse.engine.single_writer:
        pytest.skip("one connection: there is no such moment")
    slow, taker = holder(1, lease_seconds=-1), holder(2)
    acquire(warehouse, slow)
    taken = threading.Thread(target=acquire, args=(warehouse, taker))

    def give_back(conn: sa.Connection) -> None:
        leases.release(conn, slow, WHOLE)
        if taken.ident is None:  # else this is tried again: on another node nobody waited for it
            taken.start()
        taken.join(timeout=0.5)  # it waits for this transaction

    warehouse.transact(give_back)
    taken.join()
    renew(warehouse, taker)
    assert live(warehouse) == [("service", 2)]


def test_a_scan_whose_opening_was_undone_ends_no_line_of_the_ledger(warehouse: Warehouse) -> None:
    """The id that it was given may be that of another scan by then, whose line it would overwrite."""
    session = ScanSession(warehouse, holder(1), WHOLE, PrivacyRules())

    def undo(conn: sa.Connection, now: datetime) -> None:
        raise LeaseLost("undone")

    with pytest.raises(LeaseLost):
        session.open(undo)
    assert not session.is_open
    assert live(warehouse) == []
    other = ScanSession(warehouse, holder(2), WHOLE, PrivacyRules())
    other.open(lambda _conn, _now: None)
    assert other.is_open
    assert live(warehouse) == [("service", 2)]
