"""Listings of every kind that change while several chains read them (docs/chains.md)."""

import os
from collections.abc import Callable
from random import Random

import pytest

from etl.domain.status import ScanStatus
from etl.sync import prefetch
from etl.sync.outcome import ScanOutcome
from etl.warehouse.connection import Warehouse
from tests.acceptance.scenario import Scenario, changes
from tests.engines.changing_world import Break, ChangingWorld, Killed

STEADY = ("position", "opaque")
"""Tokens that name a place in the order: a row that does not move is on the way whatever others do."""


def live(world: ChangingWorld, rng: Random) -> None:
    """Readings of which the first remembers links, the next are cut at them, the last is still.

    Each may break off; then the next one goes on with it.
    """
    before: dict[str, str] = {}
    for remembers in (False, True):
        broken = rng.choice((0, 1, 2)) if remembers else rng.choice((0, 0, 0, 1))
        for number in range(broken + 1):
            stop = None if number == broken else a_break(rng, world.pages)
            before = read(world, rng, before, chance=rng.choice((0, 0.1, 0.4)), broken=stop)
            if rng.random() < 0.5:
                world.stir()
            if rng.random() < 0.1:
                world.spoil_stored_chains()
        if not remembers and rng.random() < 0.4:
            world.spoil_links()
    outcome = None
    while outcome is None or outcome.resumed:  # where one chain too had come upon a dead end
        before = world.stored()
        outcome = world.read(rng.randint(1, 8), chance=0)
        check(world, outcome, before)
    assert outcome.complete
    assert world.stored() == world.alive()


def a_break(rng: Random, pages: int) -> Break:
    """Return how a reading of about so many pages ends too early."""
    at = rng.randint(1, pages)
    kind = rng.choice(("faulty_from", "stopped_at", "killed_at"))
    return Break(**{kind: at // 2 + 1 if kind == "killed_at" else at})


def read(
    world: ChangingWorld,
    rng: Random,
    before: dict[str, str],
    *,
    chance: float,
    broken: Break | None,
) -> dict[str, str]:
    """Read once, look at what was published, and return it."""
    try:
        outcome = world.read(rng.randint(1, 8), chance=chance, broken=broken)
    except Killed:
        world.expire_leases()
        assert world.stored() == before
    else:
        check(world, outcome, before)
    return world.stored()


def check(world: ChangingWorld, outcome: ScanOutcome, before: dict[str, str]) -> None:
    """What was published is what one chain could have read, and nothing that lives is deleted."""
    stored, alive = world.stored(), world.alive()
    if outcome.status != ScanStatus.PUBLISHED:
        assert stored == before
        return
    assert not (before.keys() - stored.keys()) & alive.keys()
    for sid, endpoint in stored.items():
        assert endpoint in world.endpoints[sid] or endpoint == before.get(sid)
    is_whole = outcome.complete or (outcome.resumed and not world.is_spoiled)
    if not is_whole or not (world.style in STEADY or alive == stored):
        return
    unmoved = world.alive_throughout - world.touched
    assert {sid: stored.get(sid) for sid in unmoved} == {sid: alive[sid] for sid in unmoved}
    if world.order != "updated-desc":  # there, a row that is touched moves out of the way
        assert world.alive_throughout <= stored.keys()


def test_chains_on_every_engine(warehouse_url: str, scenario_on: Callable[..., Scenario]) -> None:
    """What is staged apart has to be moved over, or thrown away, by every engine."""
    scenario = scenario_on(warehouse_url, (300,), max_page_size=10, order="updated")
    scenario.account |= {"chains_per_service": 4, "page_size": 10}
    scenario.sync()
    service = scenario.services[0]
    for turn in range(2):
        service.delete(5)
        service.touch(100)
        service.grow(30)
        if turn:
            scenario.execute("UPDATE page_links SET link = '' WHERE rows_before > 200")
        counted = changes(scenario.sync())
        assert counted == {"inserted": 30, "updated": 100, "deleted": 5}
        scenario.assert_equal_to_world()


PAGES = 60
CHAINS = 3


@pytest.mark.parametrize(
    ("engine_name", "stride"), [("sqlite", 2), ("postgresql18", 6)], indirect=["engine_name"]
)
def test_every_chain_goes_on_after_a_kill_at_any_commit(warehouse: Warehouse, stride: int) -> None:
    """Of eight chains seven would begin anew whenever a node is drained."""
    world = ChangingWorld(warehouse, 1, rows=3 * PAGES, page_size=3, order="sid", style="position")
    assert world.read(CHAINS, chance=0).complete
    at = resumed = 0
    while True:
        at += stride
        world.service.touch(30)
        try:
            world.read(CHAINS, chance=0, broken=Break(killed_at=at))
        except Killed:
            world.expire_leases()
        else:
            break
        kept = world.stored_pages()
        outcome = world.read(CHAINS, chance=0)
        # Each chain reads its last batch of two pages again, and the page where it meets the next.
        assert world.asked <= PAGES - kept + 3 * (CHAINS + 1)
        assert outcome.resumed or kept <= 2 * CHAINS
        resumed += outcome.resumed
        assert world.stored() == world.alive()
    assert resumed > 20 // stride


def test_chains_whose_links_expired_begin_at_the_head(warehouse: Warehouse) -> None:
    """After a break the tokens are older still; nothing may be lost for it, nor left in the stage."""
    world = ChangingWorld(warehouse, 1, rows=3 * PAGES, page_size=3, order="sid", style="opaque")
    world.read(CHAINS, chance=0)
    world.service.touch(30)
    world.read(CHAINS, chance=0, broken=Break(faulty_from=PAGES // 2))
    assert world.stored_pages()
    world.forget_tokens()
    world.service.delete(3)
    outcome = world.read(CHAINS, chance=0)
    assert (outcome.resumed, outcome.complete) == (False, True)
    assert world.stored() == world.alive()
    assert world.stored_pages() == 0


one_engine = pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
"""It is enough: what is staged and published differs nowhere."""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there is something to go on with, in a listing of some pages."""
    monkeypatch.setattr(prefetch, "BATCH_PAGES", 2)


@one_engine
def test_worlds_that_change_while_they_are_read(warehouse: Warehouse) -> None:
    """If chains proved less than one chain, a living binding would be deleted or left out."""
    for seed in range(12):
        live(ChangingWorld(warehouse, seed), Random(seed))


@pytest.mark.slow
@pytest.mark.parametrize(
    "quarter", [1, *(pytest.param(one, marks=pytest.mark.nightly) for one in (2, 3, 4))]
)
@one_engine
def test_many_worlds(warehouse: Warehouse, quarter: int) -> None:
    """The same, over so many worlds that rare meetings of order, style and change are among them.

    `WORLDS=2000` is for whoever has changed how chains meet, and for an hour.
    """
    worlds = int(os.environ.get("WORLDS", "320")) // 4
    for seed in range(1_000 * quarter, 1_000 * quarter + worlds):
        live(ChangingWorld(warehouse, seed), Random(seed))
