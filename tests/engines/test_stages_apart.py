"""What chains have staged apart from the first one belongs to a scan, and to whoever holds its lease (docs/chains.md)."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import sqlalchemy as sa

from etl import errors
from etl.domain.chains import ChainStart, keys_of
from etl.domain.counters import Counters
from etl.domain.normalize import Normalizer
from etl.domain.scope import Scope
from etl.domain.status import ScanStatus
from etl.simulator.world import Service
from etl.stopping import Stop
from etl.sync import prefetch
from etl.sync.context import Context, Request, rules_for
from etl.sync.prefetch import Batch
from etl.sync.run import begin_run
from etl.sync.steps import DeleteDecision, Kept, Reading
from etl.sync.warehouse_sink import WarehouseSink
from etl.twilio.client import Client
from etl.warehouse import purging, retention
from etl.warehouse.connection import Warehouse
from etl.warehouse.ledger import Ending
from tests.engines.changing_world import Break, ChangingWorld, Killed

pytestmark = pytest.mark.parametrize("engine_name", ["sqlite", "postgresql18"], indirect=True)

CHAINS = 4
NOWHERE = "http://127.0.0.1:1/v1/Services"


@pytest.fixture
def world(warehouse: Warehouse) -> ChangingWorld:
    """One service of 60 bindings."""
    return ChangingWorld(warehouse, 1, rows=60, page_size=3, order="sid", style="opaque")


def open_sink(world: ChangingWorld, warehouse: Warehouse, service: Service) -> WarehouseSink:
    """The sink of a run of its own, opened."""
    settings = world.settings(CHAINS)
    stop, request = Stop(), Request()
    holder = begin_run(settings, request, warehouse)
    context = Context(settings, request, warehouse, stop, holder)
    scope = Scope("main", service.sid)
    client = Client(settings.accounts[0], settings.retry, stop)
    sink = WarehouseSink(context, Normalizer(rules_for(settings, client, scope)), scope)
    sink.open(CHAINS)
    return sink


def rows_of(service: Service) -> list[bytes]:
    """Its bindings as pages hold them, in the order of the listing."""
    return [msgspec.json.encode(service.bindings[sid]) for sid in service.sids()]


def start_at(rows: Sequence[bytes], place: int) -> ChainStart:
    """Where a chain begins that was cut off at this row."""
    return ChainStart(place, f"{NOWHERE}/start", keys_of(list(rows[place : place + 3])))


def read_in_halves(world: ChangingWorld, warehouse: Warehouse) -> tuple[WarehouseSink, ChainStart]:
    """The sink that two chains have read everything into, and where the second one began."""
    rows = rows_of(world.service)
    start = start_at(rows, 30)
    sink = open_sink(world, warehouse, world.service)
    sink.keep(Batch(rows[:30], 10, None, 0, None))
    sink.keep(Batch(rows[30:], 10, None, 1, start))
    return sink, start


def publish(sink: WarehouseSink, *, complete: bool) -> int:
    """How many rows are new."""
    reading = Reading(complete, not complete, *Kept())
    done = sink.publish(reading, DeleteDecision(deletes=False), Counters())
    return done.counters.inserted


def test_who_lost_the_lease_throws_no_chain_away(
    warehouse: Warehouse, world: ChangingWorld
) -> None:
    """A process that wakes up would delete what the run that went on has read, and half a service be published."""
    rows = rows_of(world.service)
    start = start_at(rows, 30)
    asleep = open_sink(world, warehouse, world.service)
    asleep.keep(Batch(rows[:6], 2, f"{NOWHERE}/6", 0, None))
    asleep.keep(Batch(rows[30:45], 5, f"{NOWHERE}/45", 1, start))
    world.expire_leases()
    sink = open_sink(world, warehouse, world.service)
    sink.keep(Batch(rows[45:], 5, None, 1, start))
    sink.keep(Batch(rows[6:30], 8, None, 0, None))
    with pytest.raises(errors.LeaseLost):
        asleep.drop(1)
    sink.link([1], start)
    assert publish(sink, complete=False) == 60


def test_a_chain_whose_stage_is_gone_is_not_linked(
    warehouse: Warehouse, world: ChangingWorld
) -> None:
    """To move nothing raises no error of the database, and the rest would be published as the whole."""
    sink, start = read_in_halves(world, warehouse)
    warehouse.transact(
        lambda conn: conn.execute(sa.text("DELETE FROM scan_progress WHERE stage_id < 0"))
    )
    with pytest.raises(errors.StageLost):
        sink.link([1], start)


def test_a_link_whose_answer_is_lost_counts_once(
    warehouse: Warehouse, world: ChangingWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second try finds no stage of the chain any more, and must not take that for a loss."""
    sink, start = read_in_halves(world, warehouse)
    lose_answers(monkeypatch, 1)
    sink.link([1], start)
    assert publish(sink, complete=True) == 60


def test_beginning_anew_can_be_repeated(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the answer to that commit is lost, its line is there already, and the scan would fail on its key."""
    monkeypatch.setattr(prefetch, "BATCH_PAGES", 2)
    world = ChangingWorld(warehouse, 1, rows=180, page_size=3, order="sid", style="opaque")
    assert world.read(3, chance=0).complete
    world.service.touch(30)
    with pytest.raises(Killed):
        world.read(3, chance=0, broken=Break(killed_at=8))
    world.expire_leases()
    world.forget_tokens()
    begin_anew = WarehouseSink.start_over
    begun: list[WarehouseSink] = []

    def start_over(sink: WarehouseSink) -> None:
        lose_answers(monkeypatch, 1)
        begun.append(sink)
        begin_anew(sink)

    monkeypatch.setattr(WarehouseSink, "start_over", start_over)
    assert world.read(3, chance=0).complete
    assert len(begun) == 1


def lose_answers(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The next transactions are committed, and whoever waits for them hears of a lost connection."""
    transact = Warehouse._transact_once
    left = [number]

    def lose(self: Warehouse, work: object) -> object:
        result: object = transact(self, work)  # type: ignore[arg-type]
        if left[0]:
            left[0] -= 1
            raise errors.WarehouseUnreachable("the answer was lost")
        return result

    monkeypatch.setattr(Warehouse, "_transact_once", lose)


def test_erasing_takes_an_unfinished_scan_with_all_its_chains(
    warehouse: Warehouse, world: ChangingWorld
) -> None:
    """A chain left behind would hold rows of a scan that is gone, for whichever scan gets its number."""
    rows = rows_of(world.service)
    rows[0] = msgspec.json.encode(msgspec.json.decode(rows[0]) | {"identity": "nobody@example.com"})
    sink = open_sink(world, warehouse, world.service)
    sink.keep(Batch(rows[:6], 2, f"{NOWHERE}/6", 0, None))
    sink.keep(Batch(rows[30:], 10, f"{NOWHERE}/60", 1, start_at(rows, 30)))
    sink.abandon(Ending(ScanStatus.INTERRUPTED, Counters()), errors.Interrupted("SIGTERM"))
    identity = "nobody@example.com"
    traces = warehouse.read(
        lambda conn: retention.find_traces(conn, warehouse.engine, identity, {identity})
    )
    warehouse.transact(lambda conn: retention.remove(conn, traces.removal))
    assert world.stored_pages() == 0


def test_no_scan_gets_the_number_of_one_that_was_purged(
    warehouse: Warehouse, world: ChangingWorld
) -> None:
    """What is staged goes by the number of a scan, and SQLite would give the last one once more."""
    first = open_sink(world, warehouse, world.service)
    first.abandon(Ending(ScanStatus.FAILED, Counters()), errors.MalformedPage("no page"))
    before = newest_scan(warehouse)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    for one in purging.leaving(purging.Cutoffs(runs=tomorrow)):
        warehouse.transact(lambda conn, one=one: purging.remove_some(conn, one))  # type: ignore[misc]
    open_sink(world, warehouse, world.service)
    assert newest_scan(warehouse) > before


def newest_scan(warehouse: Warehouse) -> int:
    """The highest number of a scan."""
    newest = sa.text("SELECT max(id) FROM sync_scans")
    return warehouse.read(lambda conn: int(conn.scalar(newest) or 0))
