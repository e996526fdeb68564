"""What leaves the warehouse for good: the same rows on every engine, whatever it takes for equal or allows in a DELETE."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from etl import config, errors
from etl.config import Settings
from etl.domain.binding import Reject, Row
from etl.domain.scope import Scope
from etl.stopping import Stop
from etl.sync import removal
from etl.warehouse import (
    leases,
    ledger,
    purging,
    quarantine,
    retention,
    staging,
)
from etl.warehouse.connection import Warehouse, open_warehouse
from etl.warehouse.leases import Holder
from etl.warehouse.publishing import Publication, publish_staged
from etl.warehouse.purging import Cutoffs, Leaving
from etl.warehouse.tables import (
    binding_versions,
    bindings,
    rejected_bindings,
    scan_seen,
    scan_staged,
    shard_assignments,
    sync_leases,
    sync_runs,
    sync_scans,
)  # fmt: skip
from tests.engines import fail_at

SERVICE = "IS" + "1" * 32
OTHER_SERVICE = "IS" + "2" * 32
NAME = "Zoë O'Hara +1%_\\ 日本"
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
OLD = NOW - timedelta(days=31)
YOUNG = NOW - timedelta(days=29)
CUTOFF = NOW - timedelta(days=30)


@pytest.fixture
def warehouse(warehouse_url: str) -> Iterator[Warehouse]:
    opened = open_warehouse(
        config.Warehouse(url=SecretStr(warehouse_url)), config.Retry(attempts=2), Stop()
    )
    yield opened
    opened.close()


def sid(number: int) -> str:
    return f"BS{number:032x}"


def content(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "sid": sid(number), "account": "main", "chat_service_sid": SERVICE, "identity": f"person-{number}",
        "message_types": '["new_message"]', "content_hash": "0" * 32, "first_seen_at": OLD, "run_id": 1, **fields,
    }  # fmt: skip


def current(number: int, **fields: Any) -> dict[str, Any]:
    return content(number, source_hash="0" * 32, changed_at=OLD, **{"deleted_at": None, **fields})


def past(number: int, valid_to: datetime, **fields: Any) -> dict[str, Any]:
    return content(number, valid_from=OLD, valid_to=valid_to, **{"change": "deleted", **fields})


def staged(number: int, **fields: Any) -> dict[str, Any]:
    return {
        name: value for name, value in current(number, **fields).items() if name in scan_staged.c
    }


def meet(warehouse: Warehouse, stage_id: int, numbers: list[int]) -> None:
    sids = [sid(number) for number in numbers]
    warehouse.transact(
        lambda conn: staging.stage_batch(conn, warehouse.engine, stage_id, 1, sids, [])
    )


def fill(warehouse: Warehouse, **rows: list[dict[str, Any]]) -> None:
    def insert(conn: sa.Connection) -> None:
        for name, lines in rows.items():
            table = bindings.metadata.tables[name]
            for line in lines:
                conn.execute(sa.insert(table).values(line))

    warehouse.transact(insert)


def reject(warehouse: Warehouse, *rejects: Reject) -> None:
    warehouse.transact(
        lambda conn: quarantine.record(conn, 1, Scope("main", SERVICE), rejects, OLD)
    )


def left(warehouse: Warehouse, table: sa.Table) -> list[str]:
    return warehouse.read(lambda conn: sorted(conn.execute(sa.select(table.c.sid)).scalars()))


def settings(**privacy: Any) -> Settings:
    account = {"name": "main", "account_sid": "AC" + "a" * 32, "auth_token": "token"}
    return Settings.model_validate(
        {"accounts": [account], "warehouse": {"url": "sqlite:///unused.db"}, "privacy": privacy}
    )


def test_purge_takes_out_what_is_old_and_gone(warehouse: Warehouse) -> None:
    """An engine that compares times otherwise, or takes no subquery on the table it deletes from, would purge wrongly."""
    fill(
        warehouse,
        bindings=[current(1), current(2, deleted_at=OLD), current(3, deleted_at=YOUNG), current(4, deleted_at=CUTOFF)],
        binding_versions=[
            past(1, OLD), past(2, OLD), past(2, OLD), past(3, OLD), past(3, YOUNG), past(4, OLD),
            past(5, OLD), past(6, OLD), past(6, YOUNG), past(7, CUTOFF),
        ],
    )  # fmt: skip
    planned = removal.purge(warehouse, Cutoffs(CUTOFF), dry_run=True)
    assert left(warehouse, bindings) == [sid(1), sid(2), sid(3), sid(4)]
    assert removal.purge(warehouse, Cutoffs(CUTOFF), dry_run=False) == planned == {
        "bindings": 1, "binding_versions": 3, "rejected_bindings": 0,
    }  # fmt: skip
    assert left(warehouse, bindings) == [sid(1), sid(3), sid(4)]
    assert left(warehouse, binding_versions) == [
        sid(1),
        sid(3),
        sid(3),
        sid(4),
        sid(6),
        sid(6),
        sid(7),
    ]
    assert sum(removal.purge(warehouse, Cutoffs(CUTOFF), dry_run=False).values()) == 0


def test_purge_leaves_in_portions(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """A portion that is chosen anew for each statement, or a last one that is passed over, leaves rows behind."""
    monkeypatch.setattr(purging, "AT_ONCE", 2)
    monkeypatch.setattr(purging, "_HISTORIES_AT_ONCE", 2)
    small = partial(Leaving, at_once=2)
    monkeypatch.setattr(purging, "Leaving", lambda *one: small(*one[:2]))
    fill(
        warehouse,
        bindings=[current(number, deleted_at=OLD) for number in range(5)] + [current(5)],
        binding_versions=[past(number, OLD) for number in range(8) for _ in range(3)],
    )
    reject(warehouse, *(Reject(sid(number), "bad", "{}") for number in range(3)))
    warehouse.transact(lambda conn: quarantine.close_open(conn, (), OLD))
    planned = removal.purge(warehouse, Cutoffs(CUTOFF), dry_run=True)
    assert planned == {"bindings": 5, "binding_versions": 21, "rejected_bindings": 3}
    assert removal.purge(warehouse, Cutoffs(CUTOFF), dry_run=False) == planned
    assert left(warehouse, bindings) == [sid(5)]
    assert left(warehouse, binding_versions) == [sid(5)] * 3


def test_purge_takes_out_past_images_by_age_alone(warehouse: Warehouse) -> None:
    """History is asked about for a year or two; older images only make the table large."""
    versions = [past(1, OLD, change="updated"), past(1, YOUNG), past(2, OLD), past(3, CUTOFF)]
    fill(warehouse, bindings=[current(1), current(2, deleted_at=OLD)], binding_versions=versions)
    cutoffs = Cutoffs(versions=CUTOFF)
    assert removal.purge(warehouse, cutoffs, dry_run=True) == {"binding_versions": 2}
    assert removal.purge(warehouse, cutoffs, dry_run=False) == {"binding_versions": 2}
    assert left(warehouse, binding_versions) == [sid(1), sid(3)]
    assert left(warehouse, bindings) == [sid(1), sid(2)]


def test_an_image_that_two_cutoffs_reach_is_counted_once(warehouse: Warehouse) -> None:
    """The plan of a dry run and what is done after it have to be the same numbers."""
    fill(warehouse, binding_versions=[past(1, OLD), past(2, OLD, change="updated"), past(2, YOUNG)])
    cutoffs = Cutoffs(deleted=CUTOFF, versions=CUTOFF)
    planned = removal.purge(warehouse, cutoffs, dry_run=True)
    assert planned["binding_versions"] == 2
    assert removal.purge(warehouse, cutoffs, dry_run=False) == planned


def test_purge_leaves_the_ledger_what_freshness_rests_on(warehouse: Warehouse) -> None:
    """Without the last complete reading of a service nobody could say how old its data is."""
    times = {"started_at": OLD, "finished_at": OLD}
    run = {"mode": "sync", "status": "succeeded", "dry_run": False, "version": "0", "host": "h"}
    scan = {
        "account": "main", "chat_service_sid": SERVICE, "scope": "service", "status": "published",
        "complete": True, "resumed": False, **times,
    }  # fmt: skip
    fill(
        warehouse,
        sync_runs=[{**run, **times, "id": one} for one in (1, 2, 3, 5)]
        + [{**run, **times, "id": 4, "status": "running", "finished_at": None}]
        + [{**run, "id": 6, "started_at": YOUNG}],
        sync_scans=[
            {**scan, "id": 1, "run_id": 1},
            {**scan, "id": 2, "run_id": 2},
            {**scan, "id": 3, "run_id": 3, "complete": False},
            {**scan, "id": 4, "run_id": 4, "status": "running", "complete": False},
            {**scan, "id": 5, "run_id": 5, "scope": "type:apn"},
            {**scan, "id": 6, "run_id": 5, "scope": "identity:#0"},
            {**scan, "id": 7, "run_id": 3, "complete": False, "chat_service_sid": OTHER_SERVICE},
        ],
        scan_progress=[{
            "stage_id": 7, "account": "main", "chat_service_sid": OTHER_SERVICE, "scope": "service",
            "rules": "", "next_link": "", "pages": 1, "fetched": 1, "updated_at": OLD,
        }],
        shard_assignments=[
            {"run_group": group, "spread": "main", "shards": 2, "assigned_at": at, "places": "{}"}
            for group, at in (("old", OLD), ("young", YOUNG))
        ],
    )  # fmt: skip
    planned = removal.purge(warehouse, Cutoffs(runs=CUTOFF), dry_run=True)
    assert planned == {"sync_scans": 3, "sync_runs": 1, "shard_assignments": 1}
    assert removal.purge(warehouse, Cutoffs(runs=CUTOFF), dry_run=False) == planned

    def ids(table: sa.Table) -> list[int]:
        return warehouse.read(lambda conn: sorted(conn.scalars(sa.select(table.c.id))))

    assert ids(sync_scans) == [2, 4, 5, 7]
    assert ids(sync_runs) == [2, 3, 4, 5, 6]
    kept = warehouse.read(lambda conn: conn.scalars(sa.select(shard_assignments.c.run_group)).all())
    assert kept == ["young"]


def test_purge_takes_out_rejects_that_were_resolved_long_ago(warehouse: Warehouse) -> None:
    """A resolved payload that stays is personal data without a reason; an open one that leaves is a lost row."""
    reject(warehouse, *(Reject(sid(number), "bad", "{}") for number in (1, 2, 3)))
    (first, second, _) = warehouse.read(quarantine.read_open)
    warehouse.transact(lambda conn: quarantine.close(conn, [first.id], OLD))
    warehouse.transact(lambda conn: quarantine.close(conn, [second.id], YOUNG))
    assert removal.purge(warehouse, Cutoffs(CUTOFF), dry_run=False)["rejected_bindings"] == 1
    assert left(warehouse, rejected_bindings) == [sid(2), sid(3)]


@pytest.mark.parametrize(
    "other", [NAME.upper(), NAME + " ", NAME.replace("%_", "xx"), NAME.replace("ë", "e")]
)
def test_erase_compares_names_exactly(warehouse: Warehouse, other: str) -> None:
    """MariaDB takes texts for equal that differ in trailing spaces, others may fold case: somebody else's rows would leave."""
    rows = [current(1, identity=NAME), current(2, identity=other)]
    fill(
        warehouse,
        bindings=rows,
        binding_versions=[past(1, OLD, identity=NAME), past(2, OLD, identity=other)],
    )
    found = removal.erase(settings(), warehouse, NAME, dry_run=False)
    assert (found["bindings"], found["binding_versions"]) == (1, 1)
    assert left(warehouse, bindings) == left(warehouse, binding_versions) == [sid(2)]


def test_erase_takes_out_all_that_stands_under_the_sids(warehouse: Warehouse) -> None:
    """History may hold the person under no name, by an older privacy rule; the SID still tells whose it is."""
    fill(
        warehouse,
        bindings=[current(1, identity=None), current(9)],
        binding_versions=[past(1, OLD, identity=None), past(1, YOUNG, identity=NAME), past(9, OLD)],
        scan_progress=[
            {
                "stage_id": stage, "account": "main", "chat_service_sid": service, "scope": scope, "rules": "", "next_link": link,
                "pages": 1, "fetched": 1, "updated_at": OLD, "first_page": first_page,
            }
            for stage, service, scope, link, first_page in (
                (1, SERVICE, "service", "https://host/v1/Services/IS/Bindings?PageToken=x", None),
                (2, OTHER_SERVICE, Scope("", "", ("apn",), (NAME,)).label, "", None),
                (3, OTHER_SERVICE, "identity:#0", "https://host/B?Identity=Zo%C3%AB+O%27Hara+%2B1%25_%5C+%E6%97%A5%E6%9C%AC", None),
                (4, OTHER_SERVICE, "type:apn", "https://host/B?Identity=Zo%C3%AB", f'["{sid(9)}"]'),
                (5, SERVICE, "type:apn", "https://host/B?PageToken=x", None),
                (6, SERVICE, "type:fcm", f"https://host/B?PageToken={sid(1)}", None),
                (-65, SERVICE, "service", "https://host/B?PageToken=x", f'["{sid(9)}","{sid(1)}"]'),
            )
        ],
        scan_staged=[staged(8, identity=NAME, stage_id=5, batch=1)],
    )  # fmt: skip
    for stage, met in ((1, [1, 9]), (4, [9]), (5, [8])):
        meet(warehouse, stage, met)
    reject(
        warehouse,
        Reject(sid(1), "bad", "{}"),
        Reject(sid(9), "bad", f'{{"binding_type": "{NAME}"}}'),
    )
    found = removal.erase(settings(), warehouse, NAME, dry_run=False)
    assert found == {
        "bindings": 1, "binding_versions": 2, "rejected_bindings": 1, "scan_staged": 1, "scan_seen": 2, "scan_absent": 0, "scan_progress": 6,
        "page_links": 0,
    }  # fmt: skip
    assert warehouse.read(
        lambda conn: conn.execute(sa.select(scan_seen.c.stage_id)).scalars().all()
    ) == [4]
    for table in (bindings, binding_versions, rejected_bindings):
        assert left(warehouse, table) == [sid(9)], table.name


def test_erase_takes_out_bindings_whose_owner_only_the_quarantine_names(
    warehouse: Warehouse,
) -> None:
    """A published row without its name, or hashed by a key that is lost, is the person's all the same; whoever only mentions them is another."""
    fill(warehouse, bindings=[current(1, identity=None), current(2), current(3)])
    reject(
        warehouse,
        Reject(sid(1), "bad", json.dumps({"identity": NAME})),
        Reject(sid(2), "bad", json.dumps({"invited_by": NAME})),
    )
    found = removal.erase(settings(), warehouse, NAME, dry_run=False)
    assert (found["bindings"], found["rejected_bindings"]) == (1, 2)
    assert left(warehouse, bindings) == [sid(2), sid(3)]


def test_erase_is_refused_while_a_run_is_alive_and_ends_with_it(warehouse: Warehouse) -> None:
    """A live run would publish the identity again; a killed one must not stand in the way, nor stay "running" for ever."""
    fill(warehouse, bindings=[current(1, identity=NAME)])
    holder = Holder("somebody", 7, "elsewhere", 60)
    scope = Scope("main", SERVICE, ("apn",))
    warehouse.transact(lambda conn: leases.acquire(conn, warehouse.engine, holder, scope))
    with pytest.raises(errors.LeaseHeld, match=SERVICE):
        removal.erase(settings(), warehouse, NAME, dry_run=False)
    assert left(warehouse, bindings) == [sid(1)]
    warehouse.transact(lambda conn: conn.execute(sa.update(sync_leases).values(expires_at=OLD)))
    assert removal.erase(settings(), warehouse, NAME, dry_run=False)["bindings"] == 1
    assert warehouse.read(lambda conn: leases.live(conn, warehouse.engine)) == []
    held = sa.select(sync_leases.c.scope)
    assert warehouse.read(lambda conn: conn.execute(held).all()) == []


def test_erase_looks_through_more_rejects_than_one_fetch_gives(warehouse: Warehouse) -> None:
    """A stream that is cut off, or a cursor that blocks the next statement, would leave traces behind."""
    reject(
        warehouse,
        *(Reject(None, "bad", f'{{"identity": "x", "n": {number}}}') for number in range(1500)),
    )
    reject(warehouse, Reject(None, "bad", '{"identity": "y"}'))
    assert removal.erase(settings(), warehouse, "x", dry_run=False)["rejected_bindings"] == 1500
    assert len(warehouse.read(quarantine.read_open)) == 1


@pytest.mark.parametrize("engine_name", ["postgresql18", "mariadb"], indirect=True)
@pytest.mark.parametrize("service", [SERVICE, OTHER_SERVICE])
def test_erase_takes_out_what_is_published_before_it_has_the_lease(
    warehouse: Warehouse, service: str
) -> None:
    """A run that ended between looking and locking left a trace of whoever asked to be forgotten."""
    fill(warehouse, bindings=[current(1, identity=NAME)])
    late = current(2, identity=NAME, chat_service_sid=service)

    def publish(_conn: sa.Connection) -> None:
        with ThreadPoolExecutor(1) as beside:
            beside.submit(fill, warehouse, bindings=[late]).result()

    with fail_at.before("sync_gates", publish) as hits:
        found = removal.erase(settings(), warehouse, NAME, dry_run=False)
    assert (hits.count, found["bindings"], left(warehouse, bindings)) == (1, 2, [])


@pytest.mark.slow
@pytest.mark.parametrize("engine_name", ["sqlite", "postgresql18", "mariadb"], indirect=True)
def test_erase_takes_out_more_than_a_statement_has_room_for(warehouse: Warehouse) -> None:
    """A person of a shared account may have more bindings than a statement takes parameters."""
    number = 66_000
    rows = [
        Row(**{**dict.fromkeys(Row._fields), **content, "content_hash": "0" * 32, "source_hash": "0" * 32})
        for content in (
            {"sid": sid(one), "account": "main", "chat_service_sid": SERVICE, "identity": NAME}
            for one in range(number)
        )
    ]  # fmt: skip
    scope = Scope("main", SERVICE)

    def load(conn: sa.Connection) -> None:
        sids = [row.sid for row in rows]
        staging.stage_batch(conn, warehouse.engine, 1, 1, sids, rows)
        order = Publication(1, 1, scope, (), NOW)
        publish_staged(conn, warehouse.engine, order)
        ledger.save_progress(conn, scope, "", ledger.Progress(1, "", 1, number), NOW)

    warehouse.transact(load)
    reject(warehouse, *(Reject(sid(one), "bad", "{}") for one in range(number, number + 3)))
    found = removal.erase(settings(), warehouse, NAME, dry_run=False)
    assert found == {
        "bindings": number, "binding_versions": 0, "rejected_bindings": 0,
        "scan_staged": number, "scan_seen": 1, "scan_absent": 0, "scan_progress": 1,
        "page_links": 0,
    }  # fmt: skip
    assert left(warehouse, bindings) == []


@pytest.mark.slow
@pytest.mark.parametrize("engine_name", ["postgresql18"], indirect=True)
def test_a_batch_of_nothing_but_rejects_is_recorded(warehouse: Warehouse) -> None:
    """A page of nothing but bad rows fills the quarantine, however many they are."""
    rejects = [Reject(sid(one), "bad", "{}") for one in range(66_000)]
    reject(warehouse, *rejects)
    count = sa.select(sa.func.count()).select_from(rejected_bindings)
    assert warehouse.read(lambda conn: conn.scalar(count)) == len(rejects)


@pytest.mark.parametrize("engine_name", ["sqlite", "postgresql18"], indirect=True)
def test_more_services_than_a_statement_has_room_for(warehouse: Warehouse) -> None:
    """A work list of many services, handed to `rejects`, must not end in a fault of the database."""
    reject(warehouse, Reject(sid(1), "bad", "{}"), Reject(sid(2), "bad", "{}"))
    services = [f"IS{one:032x}" for one in range(66_000)] + [SERVICE, SERVICE]
    assert len(warehouse.read(lambda conn: quarantine.read_open(conn, services))) == 2
    assert warehouse.transact(lambda conn: quarantine.close_open(conn, services, NOW)) == 2


def test_erase_finds_hashed_names(warehouse: Warehouse) -> None:
    """With a key configured, rows of the time since hold the hash and rows of the time before the name."""
    with_key = settings(identity="hmac", key="a key")
    hashed = next(iter(removal._stored_forms(with_key, NAME) - {NAME}))
    fill(warehouse, bindings=[current(1, identity=hashed), current(2, identity=NAME), current(3)])
    assert removal.erase(with_key, warehouse, NAME, dry_run=True)["bindings"] == 2
    assert removal.erase(with_key, warehouse, NAME, dry_run=False)["bindings"] == 2
    assert left(warehouse, bindings) == [sid(3)]


def test_erase_finds_names_that_were_hashed_by_a_key_of_the_past(warehouse: Warehouse) -> None:
    """Rows deleted before `privacy.key` changed, and all history, keep the old hashes for ever."""
    hashed = next(iter(removal._stored_forms(settings(key="old"), NAME) - {NAME}))
    fill(
        warehouse,
        bindings=[current(1, identity=hashed, deleted_at=OLD), current(2)],
        binding_versions=[past(3, OLD, identity=hashed)],
    )
    today = settings(identity="hmac", key="new", old_keys=["older", "old"])
    found = removal.erase(today, warehouse, NAME, dry_run=False)
    assert (found["bindings"], found["binding_versions"]) == (1, 1)
    assert left(warehouse, bindings) == [sid(2)]


def test_a_removal_counts_what_it_takes_out(warehouse: Warehouse) -> None:
    """Not every engine gives the number of deleted rows; a report of -1 would hide what was done."""
    fill(warehouse, bindings=[current(number, deleted_at=OLD) for number in range(5)])
    assert warehouse.transact(
        lambda conn: retention.remove(conn, [(bindings, bindings.c.deleted_at < CUTOFF)])
    ) == {"bindings": 5}
