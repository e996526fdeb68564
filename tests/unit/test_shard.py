"""How accounts are spread over shards: each service read once, no more asked of an account than its `concurrency`."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.config import Account
from etl.domain.shard import Shard, Spread
from etl.sync.division import Division

SERVICES = [f"IS{number:032x}" for number in range(400)]
spreads = st.tuples(st.text(min_size=1, max_size=8), st.integers(1, 64), st.integers(1, 64)).map(
    lambda drawn: Spread(drawn[0], drawn[1], min(drawn[1:]))
)


def shards(count: int) -> list[Shard]:
    return [Shard(index, count) for index in range(count)]


def account(name: str, number: int, **more: object) -> Account:
    return Account.model_validate(
        {"name": name, "account_sid": f"AC{number:032x}", "auth_token": "x", **more}
    )


@given(spreads, st.integers(1, 100))
def test_the_shares_add_up_to_the_concurrency(spread: Spread, count: int) -> None:
    """More would take from the customer's live traffic, less would waste what was granted (docs/promises.md §12)."""
    shares = [spread.share(shard) for shard in shards(count)]
    having = [share for share in shares if share]
    assert sum(shares) == spread.concurrency
    assert len(having) == min(spread.most_places, count)
    assert max(having) - min(having) <= 1


@given(spreads, st.integers(1, 100))
def test_each_service_is_read_by_one_shard_that_has_a_share(spread: Spread, count: int) -> None:
    """A service in no shard is never read again, one in two is read twice (docs/promises.md §10)."""
    for sid in SERVICES[:20]:
        takers = [shard for shard in shards(count) if spread.takes(shard, sid)]
        assert len(takers) == 1
        assert spread.share(takers[0])


def test_services_go_to_shards_in_proportion_to_their_shares() -> None:
    """A shard with half the requests in flight would need twice the time for as many services."""
    spread = Spread("main", 3, 3)
    taken = {
        spread.share(shard): sum(spread.takes(shard, sid) for sid in SERVICES)
        for shard in shards(2)
    }
    assert taken[2] == pytest.approx(2 * taken[1], rel=0.3)


def test_many_small_accounts_load_all_shards_alike() -> None:
    """Accounts that all began at the same shard would leave the others idle."""
    busy = Counter(
        shard.index
        for number in range(800)
        for shard in shards(8)
        if Spread(f"account {number}", 2, 2).share(shard)
    )
    assert min(busy.values()) > 0.7 * 200
    assert len(busy) == 8


def test_shards_are_the_same_on_every_host() -> None:
    """Python's own hash differs from process to process; two hosts would then read one service and neither another."""
    spread = Spread("main", 4, 4)
    taken = [
        next(shard.index for shard in shards(3) if spread.takes(shard, sid))
        for sid in SERVICES[:12]
    ]
    assert [spread.share(shard) for shard in shards(3)] == [2, 1, 1]
    assert taken == [1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]


def test_blocks_that_find_the_same_services_are_asked_by_the_same_shards() -> None:
    """Each of two shards would see the services with other eyes, and both or none would read one."""
    blocks = [account("one", 1, concurrency=8), account("two", 1, concurrency=3)]
    for shard in shards(16):
        division = Division(shard, blocks)
        assert bool(division.share(blocks[0])) == bool(division.share(blocks[1]))


def test_without_a_shard_everything_is_here() -> None:
    """The usual run has no shard."""
    block = account("one", 1, concurrency=8)
    division = Division(None, [block])
    assert [one.concurrency for one in division.own([block])] == [8]
    assert all(division.takes("one", sid) for sid in SERVICES)


def test_a_service_of_no_configured_account_is_in_one_shard() -> None:
    """What is told of it, such as its freshness, must not stand in every shard's metrics."""
    takers = [shard for shard in shards(5) if Division(shard, []).takes("left", SERVICES[0])]
    assert len(takers) == 1


def test_services_are_divided_by_their_sizes() -> None:
    """By hash, the process with the two longest services would end long after all others."""
    spread = Spread("main", 2, 2)
    sizes = {SERVICES[0]: 60, SERVICES[1]: 20, SERVICES[2]: 20, SERVICES[3]: 20}
    places = spread.assign(2, dict(reversed(sizes.items())))
    assert places == {SERVICES[0]: 0, SERVICES[1]: 1, SERVICES[2]: 1, SERVICES[3]: 1}


def test_a_place_with_more_requests_in_flight_reads_more() -> None:
    """Each place would have as much to read, and the one with a single request would end last."""
    spread = Spread("main", 4, 3)
    places = spread.assign(3, dict.fromkeys(SERVICES[:8], 100))
    assert Counter(places.values()) == {0: 4, 1: 2, 2: 2}


def test_each_service_is_read_by_one_shard_whatever_was_agreed() -> None:
    """A service that came up since, or a place that is none, must be neither lost nor read twice."""
    spread = Spread("main", 3, 3)
    agreed = {**spread.assign(5, dict.fromkeys(SERVICES[:20], 1)), SERVICES[30]: 9}
    for sid in SERVICES[:40]:
        assert sum(spread.takes(shard, sid, agreed) for shard in shards(5)) == 1
