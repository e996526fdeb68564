"""Listings of every kind that change while several chains read them (docs/chains.md)."""

from collections.abc import Callable
from random import Random

import pytest

from etl.domain.status import ScanStatus
from etl.sync.outcome import ScanOutcome
from etl.warehouse.connection import Warehouse
from tests.acceptance.scenario import Scenario, changes
from tests.engines.changing_world import ChangingWorld

STEADY = ("position", "opaque")
"""Tokens that name a place in the order: a row that does not move is on the way whatever others do."""


def live(world: ChangingWorld, rng: Random) -> None:
    """Readings of which the first remembers links, the second is cut at them, the last is still."""
    check(world, world.read(rng.randint(1, 8), chance=rng.choice((0, 0.2))), {})
    world.stir()
    if rng.random() < 0.4:
        world.spoil_links()
    before = world.stored()
    check(world, world.read(rng.randint(1, 8), chance=rng.choice((0, 0.1, 0.4))), before)
    world.stir()
    outcome = None
    while outcome is None or outcome.resumed:  # where one chain too had come upon a dead end
        before = world.stored()
        outcome = world.read(rng.randint(1, 8), chance=0)
        check(world, outcome, before)
    assert outcome.complete
    assert world.stored() == world.alive()


def check(world: ChangingWorld, outcome: ScanOutcome, before: dict[str, str]) -> None:
    """What was published is what one chain could have read, and nothing that lives is deleted."""
    stored, alive = world.stored(), world.alive()
    if outcome.status != ScanStatus.PUBLISHED:
        assert stored == before
        return
    assert not (before.keys() - stored.keys()) & alive.keys()
    for sid, endpoint in stored.items():
        assert endpoint in world.endpoints[sid] or endpoint == before.get(sid)
    if not outcome.complete or not (world.style in STEADY or alive == stored):
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


one_engine = pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
"""It is enough: what is staged and published differs nowhere."""


@one_engine
def test_worlds_that_change_while_they_are_read(warehouse: Warehouse) -> None:
    """If chains proved less than one chain, a living binding would be deleted or left out."""
    for seed in range(40):
        live(ChangingWorld(warehouse, seed), Random(seed))


@pytest.mark.slow
@one_engine
def test_two_thousand_worlds(warehouse: Warehouse) -> None:
    """The same, over so many worlds that rare meetings of order, style and change are among them."""
    for seed in range(100, 2_100):
        live(ChangingWorld(warehouse, seed), Random(seed))
