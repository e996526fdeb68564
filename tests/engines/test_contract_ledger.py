"""The ledger, the stored progress and the quarantine, the same on every engine."""

from datetime import timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from msgspec.structs import asdict

from etl.domain.binding import Reject
from etl.domain.counters import Counters
from etl.domain.scope import Scope
from etl.warehouse import assignments, leases, ledger, quarantine, staging
from etl.warehouse.assignments import Assignment
from etl.warehouse.leases import Holder
from etl.warehouse.ledger import Ending, Progress
from tests.engines.scan_harness import OTHER_SERVICE, SCOPE, SERVICE, ScanHarness, day, sid

RULES = "r" * 64
FIRST_DAY, SECOND_DAY = day(1), day(2)
LINK = f"https://conversations.twilio.com/v1/Services/{SERVICE}/Bindings?PageToken=DN:{{x}}%5C,😀"


def start_run(harness: ScanHarness) -> int:
    return harness.warehouse.transact(
        lambda conn: ledger.start_run(conn, ledger.Beginning("sync", "1", "hôte"), day(1))
    )


def start_scan(harness: ScanHarness, run_id: int, scope: Scope = SCOPE) -> int:
    return harness.warehouse.transact(lambda conn: ledger.start_scan(conn, run_id, scope, day(1)))


def test_runs_and_scans_are_numbered_upwards(harness: ScanHarness) -> None:
    """Everything stored names its run; a number given twice would mix two runs up."""
    runs = [start_run(harness) for _ in range(3)]
    assert runs == sorted(set(runs))
    scans = [start_scan(harness, runs[0]) for _ in range(3)]
    assert scans == sorted(set(scans))


def test_a_run_and_a_scan_end_with_their_counters(harness: ScanHarness) -> None:
    """A counter that is not stored cannot be asked for later."""
    run_id = start_run(harness)
    scan_id = start_scan(harness, run_id)
    counters = Counters(*range(1, 11))
    ending = Ending(
        "failed",
        counters,
        error="it is 'broken' 😀",
        complete=True,
        resumed=True,
        twilio_request_id="RQ1",
    )
    harness.warehouse.transact(lambda conn: ledger.finish_scan(conn, scan_id, ending, day(2)))
    harness.warehouse.transact(lambda conn: ledger.finish_run(conn, run_id, ending, day(2)))
    (run,) = harness.rows("SELECT * FROM sync_runs", "finished_at")
    (scan,) = harness.rows("SELECT * FROM sync_scans", "finished_at")
    for line in (run, scan):
        assert {name: line[name] for name in asdict(counters)} == asdict(counters)
        assert (line["status"], line["error"], line["finished_at"]) == (
            "failed",
            "it is 'broken' 😀",
            day(2),
        )
    assert (bool(scan["complete"]), bool(scan["resumed"]), scan["twilio_request_id"]) == (
        True,
        True,
        "RQ1",
    )
    assert (run["host"], bool(run["dry_run"])) == ("hôte", False)


def test_progress_is_found_again_by_scope_rules_and_age(harness: ScanHarness) -> None:
    """Going on from another scope's link, or with rows made by other rules, would publish what nobody asked for."""
    progress = Progress(7, LINK, 3, 300)

    def find(
        scope: Scope = SCOPE, rules: str = RULES, not_before: Any = FIRST_DAY
    ) -> list[Progress]:
        return harness.warehouse.read(
            lambda conn: ledger.find_progress(conn, scope, rules, not_before)
        )

    def save(one: Progress, now: Any = SECOND_DAY) -> None:
        harness.warehouse.transact(lambda conn: ledger.save_progress(conn, SCOPE, RULES, one, now))

    save(progress)
    assert find() == [progress]
    assert find(Scope("main", SERVICE, ("apn",))) == []
    assert find(Scope("main", OTHER_SERVICE)) == []
    assert find(Scope("other", SERVICE)) == []
    assert find(rules="s" * 64) == []
    assert find(not_before=day(2)) == [progress]
    assert find(not_before=day(2) + timedelta(microseconds=1)) == []
    later = Progress(8, LINK, 4, 400)
    save(later, day(2) + timedelta(microseconds=1))
    assert find() == [later, progress]


def test_chains_that_are_not_linked_are_found_by_their_scan(harness: ScanHarness) -> None:
    """A chain of another scan, or one that never stored a link, would bring rows that nobody can place."""

    def save(stage_id: int, link: str = LINK, **facts: Any) -> Progress:
        one = Progress(stage_id, link, 3, 300, **facts)
        harness.warehouse.transact(
            lambda conn: ledger.save_progress(conn, SCOPE, RULES, one, SECOND_DAY)
        )
        return one

    def find(stage_id: int, not_before: Any = FIRST_DAY) -> dict[int, Progress]:
        return harness.warehouse.read(lambda conn: ledger.find_apart(conn, stage_id, not_before))

    of = ledger.stage_apart
    facts: dict[str, Any] = {"rows_before": 10**12, "rows_read": 5, "first_page": '["BS1"]'}
    own = {number: save(of(7, number), **facts) for number in (1, 63)}
    save(7)
    save(of(7, 2), link="")
    others = {1: save(of(8, 1)), 63: save(of(6, 63))}
    assert find(7) == own
    assert find(8) == {1: others[1]}
    assert find(6) == {63: others[63]}
    assert find(7, not_before=day(2) + timedelta(microseconds=1)) == {}


def test_stages_that_a_publication_outdates_are_found(harness: ScanHarness) -> None:
    """An old stage that a later run took up would bring back what has changed since."""
    labels = {
        1: SCOPE,
        2: Scope("main", SERVICE, ("apn",)),
        3: Scope("main", SERVICE, ("fcm",)),
        4: Scope("main", OTHER_SERVICE),
    }
    for stage_id, scope in labels.items():
        progress = Progress(stage_id, LINK, 1, 1)
        harness.warehouse.transact(
            partial(ledger.save_progress, scope=scope, rules=RULES, progress=progress, now=day(1))
        )
    read = harness.warehouse.read
    assert sorted(read(lambda conn: ledger.overlapping_stages(conn, SCOPE))) == [1, 2, 3]
    assert sorted(read(lambda conn: ledger.overlapping_stages(conn, labels[2], besides=2))) == [1]
    assert read(lambda conn: ledger.same_scope_stages(conn, SCOPE, besides=[9])) == [1]
    harness.warehouse.transact(lambda conn: staging.discard(conn, [1, 2, 3, 4]))
    assert harness.left_over() == 0


def test_a_killed_run_is_closed_when_its_last_lease_has_gone(harness: ScanHarness) -> None:
    """A run shown as running for ever would hide that it died; one closed too early would hide that it works."""
    run_id = start_run(harness)
    other = Scope("main", OTHER_SERVICE)
    start_scan(harness, run_id)
    start_scan(harness, run_id, other)
    holder = Holder("dead", run_id, "host", 120)
    harness.warehouse.transact(
        lambda conn: leases.acquire(conn, harness.warehouse.engine, holder, other)
    )

    def close(scope: Scope) -> None:
        harness.warehouse.transact(
            lambda conn: ledger.close_abandoned(conn, [run_id], scope, day(3))
        )

    def states() -> list[str]:
        scans = harness.rows("SELECT status FROM sync_scans ORDER BY id")
        return [line["status"] for line in [*harness.rows("SELECT status FROM sync_runs"), *scans]]

    close(SCOPE)
    assert states() == ["running", "interrupted", "running"]
    harness.warehouse.transact(lambda conn: leases.release(conn, holder, other))
    close(other)
    assert states() == ["interrupted", "interrupted", "interrupted"]


def rejects(harness: ScanHarness) -> list[tuple[Any, ...]]:
    rows = harness.rows(
        "SELECT * FROM rejected_bindings ORDER BY id",
        "first_seen_at",
        "last_seen_at",
        "resolved_at",
    )
    return [
        (
            row["sid"],
            row["reason"],
            row["run_id"],
            row["first_seen_at"],
            row["last_seen_at"],
            row["resolved_at"],
        )
        for row in rows
    ]


def record(harness: ScanHarness, run_id: int, *rejected: Reject, scope: Scope = SCOPE) -> None:
    harness.warehouse.transact(
        lambda conn: quarantine.record(conn, run_id, scope, rejected, day(run_id))
    )


def resolve(harness: ScanHarness, run_id: int, stage_id: int, *, complete: bool) -> None:
    harness.warehouse.transact(
        lambda conn: quarantine.resolve(
            conn, harness.warehouse.engine, run_id, SCOPE, stage_id, day(run_id), complete=complete
        )
    )


def test_a_reject_that_comes_again_updates_its_line(harness: ScanHarness) -> None:
    """A line per run and reject would bury the one reason that a person has to find."""
    nameless = Reject(None, "sid is missing or malformed", '{"x":"\\N {} 😀 \\u0000"}')
    record(harness, 1, Reject(sid(1), "bad date", "{}"), nameless, nameless)
    record(harness, 2, Reject(sid(1), "worse date", "{}"), Reject(None, "not an object", "[]"))
    assert sorted(rejects(harness), key=str) == sorted(
        [
            (sid(1), "worse date", 2, day(1), day(2), None),
            (None, "sid is missing or malformed", 1, day(1), day(1), None),
            (None, "not an object", 2, day(2), day(2), None),
        ],
        key=str,
    )


def test_a_payload_is_kept_whole(harness: ScanHarness) -> None:
    """Who repairs a reject needs every byte of what came."""
    payloads = ['{"a": "' + "x" * 200_000 + '"}', "\\\t\n'\"%s%(a)s:b{}😀\\xff", " " * 5, "\\N"]
    record(harness, 1, *(Reject(None, "not an object", payload) for payload in payloads))
    assert {row["payload"] for row in harness.rows("SELECT payload FROM rejected_bindings")} == set(
        payloads
    )


def test_the_same_sid_rejected_in_two_services_has_two_lines(harness: ScanHarness) -> None:
    """Resolving one service's reject must not hide the other's."""
    record(harness, 1, Reject(sid(1), "a", "{}"))
    record(harness, 1, Reject(sid(1), "b", "{}"), scope=Scope("main", OTHER_SERVICE))
    assert [reason for _, reason, *_ in rejects(harness)] == ["a", "b"]


def test_a_complete_scan_resolves_what_it_did_not_reject_again(harness: ScanHarness) -> None:
    """Rejects that have long been repaired would cry wolf in every report."""
    record(harness, 1, Reject(sid(1), "a", "{}"), Reject(None, "b", "{}"))
    record(harness, 2, Reject(sid(1), "a", "{}"))
    resolve(harness, 2, 99, complete=True)
    assert [(reason, closed) for _, reason, *_, closed in rejects(harness)] == [
        ("a", None),
        ("b", day(2)),
    ]
    record(harness, 3, Reject(None, "b", "{}"))
    assert [(reason, first, closed) for _, reason, _, first, _, closed in rejects(harness)] == [
        ("a", day(1), None),
        ("b", day(1), None),
    ]


def test_an_incomplete_scan_resolves_only_what_it_met(harness: ScanHarness) -> None:
    """A scan that did not read everything knows nothing about what it did not read."""
    record(harness, 1, Reject(sid(1), "a", "{}"), Reject(sid(2), "b", "{}"))

    def meet(conn: sa.Connection) -> None:
        staging.stage_batch(conn, harness.warehouse.engine, 99, 1, [sid(2)], [])

    harness.warehouse.transact(meet)
    resolve(harness, 2, 99, complete=False)
    assert [(one, closed) for one, *_, closed in rejects(harness)] == [
        (sid(1), None),
        (sid(2), day(2)),
    ]


def test_a_killed_run_is_told_from_a_living_one(harness: ScanHarness) -> None:
    """A run that holds a live lease works; one whose lease lapsed, or that is silent without one, is gone."""
    engine = harness.warehouse.engine
    now = harness.warehouse.read(engine.now)
    began = now - timedelta(hours=2)

    def begin(begun: Any) -> int:
        return harness.warehouse.transact(
            lambda conn: ledger.start_run(conn, ledger.Beginning("sync", "1", "h"), begun)
        )

    living, lapsed, silent, begun_now = (begin(began), begin(now), begin(began), begin(now))
    for run_id, service, seconds in ((living, SERVICE, 3600), (lapsed, OTHER_SERVICE, -7200)):
        holder = Holder(f"o{run_id}", run_id, "h", seconds)
        scope = Scope("main", service)
        harness.warehouse.transact(
            partial(leases.acquire, engine=engine, holder=holder, scope=scope)
        )
    killed = harness.warehouse.read(lambda conn: ledger.find_killed(conn, now, 120))
    assert killed == {lapsed, silent}
    harness.warehouse.transact(
        lambda conn: ledger.start_scan(conn, silent, SCOPE, now - timedelta(seconds=5))
    )
    killed = harness.warehouse.read(lambda conn: ledger.find_killed(conn, now, 120))
    assert killed == {lapsed}
    assert begun_now not in killed


def test_the_newest_failure_of_each_service_is_found(harness: ScanHarness) -> None:
    """`status` shows what went wrong last, per service."""
    run_id = start_run(harness)
    for service, state in (
        (SERVICE, "failed"),
        (SERVICE, "interrupted"),
        (OTHER_SERVICE, "published"),
    ):
        scan_id = start_scan(harness, run_id, Scope("main", service))
        ending = Ending(state, Counters(), error=f"it is {state}")
        harness.warehouse.transact(
            partial(ledger.finish_scan, scan_id=scan_id, ending=ending, now=day(2))
        )
    found = harness.warehouse.read(lambda conn: ledger.last_failures(conn, 2))
    assert {sid: line["error"] for sid, line in found.items()} == {SERVICE: "it is interrupted"}
    assert found[SERVICE]["finished_at"] == day(2)


def test_the_first_assignment_of_a_group_holds_for_all(harness: ScanHarness) -> None:
    """Two processes that begin together would each go by their own, and read services twice or not."""
    which = Assignment("nuit d'été", "main", 4)
    record = partial(assignments.record, engine=harness.warehouse.engine, which=which)
    first = harness.warehouse.transact(lambda conn: record(conn, places={SERVICE: 3}))
    second = harness.warehouse.transact(lambda conn: record(conn, places={SERVICE: 1}))
    assert first == second == {SERVICE: 3}
    other = which._replace(shards=5)
    assert harness.warehouse.read(lambda conn: assignments.read(conn, other)) == {}
