"""`--shard`: processes that share the work ask no more of an account than it is meant to bear (docs/promises.md §12)."""

from collections.abc import Callable
from typing import Any

import pytest

from etl.config import load
from etl.domain.shard import Shard
from etl.simulator import World
from etl.sync.division import Division
from etl.warehouse.engines import read_url
from tests.acceptance.scenario import Scenario

MakeScenario = Callable[..., Scenario]


def shards_with_a_share(scenario: Scenario, count: int) -> set[int]:
    """Which of so many shards may ask the scenario's account."""
    accounts = load(scenario.write_config(), read_url).accounts
    return {
        index
        for index in range(count)
        if Division(Shard(index, count), accounts).share(accounts[0])
    }


def test_a_shard_without_a_share_asks_nothing(make_scenario: MakeScenario) -> None:
    """Its list of services alone would be a request in flight beyond what the account may bear."""
    scenario = make_scenario((12, 9, 5, 7), max_page_size=10)
    scenario.account["concurrency"] = 2
    having = shards_with_a_share(scenario, 5)
    assert len(having) == 2
    for index in range(5):
        scenario.simulator.requests.clear()
        result = scenario.backfill("--shard", f"{index}/5")
        assert bool(len(scenario.simulator.requests)) == (index in having)
        assert result.json["status"] == "succeeded"
    scenario.assert_equal_to_world()


def test_parts_of_a_service_stay_in_one_shard(make_scenario: MakeScenario) -> None:
    """The guard judges a service as a whole: parts apart, each below its limits, would together be emptied."""
    scenario = make_scenario((40, 40, 40), max_page_size=50)
    scenario.account["partition_by_type"] = True
    for index in range(3):
        read = scenario.sync("--shard", f"{index}/3").json["services"]
        parts = [entry["chat_service_sid"] for entry in read]
        assert all(parts.count(sid) == 4 for sid in parts)
    scenario.assert_equal_to_world()


def test_the_guard_sees_a_service_whole_however_it_is_cut_up(make_scenario: MakeScenario) -> None:
    """15 of each type are fewer than `min_rows`, all of them are more; a shard that saw one type alone would delete them."""
    scenario = make_scenario((200,), max_page_size=100)
    scenario.account["partition_by_type"] = True
    scenario.sync()
    scenario.services[0].delete(60)
    codes = [scenario.sync("--shard", f"{index}/4", expect=None).code for index in range(4)]
    assert sorted(codes) == [0, 0, 0, 5]
    assert scenario.query("SELECT count(*) AS n FROM active_bindings") == [{"n": 200}]


@pytest.mark.slow
@pytest.mark.parametrize("count", [4, 8])
def test_all_processes_together_keep_to_the_concurrency(
    make_scenario: MakeScenario, postgres18_url: str, count: int
) -> None:
    """Four shards with `concurrency: 4` once had 14 requests in flight; the customer's live traffic got the 429s."""
    scenario = make_scenario((30,) * 12, url=postgres18_url, max_page_size=10, latency_ms=20)
    api: Any = scenario.interceptor._app
    scenario.account |= {"concurrency": 4, "partition_by_type": True}
    processes = [
        scenario.start("sync", "--json", "--shard", f"{part}/{count}") for part in range(count)
    ]
    results = [scenario.wait_for(process) for process in processes]
    assert sum(result.totals["inserted"] for result in results) == 12 * 30
    assert 2 <= api.most_in_flight <= 4
    scenario.assert_equal_to_world()


def test_what_is_configured_nowhere_is_told_by_shards_too(make_scenario: MakeScenario) -> None:
    """No shard asks all accounts, so each would wait for ever for the word of the others."""
    scenario = make_scenario((4,))
    left, other = World(seed=8), World(seed=9)
    blocks = [scenario.account | {"concurrency": 1}]
    for name, world in (("left", left), ("other", other)):
        world.add_service(3)
        scenario.simulator.worlds.append(world)
        keys = {"account_sid": world.account_sid, "api_key": world.api_key}
        blocks.append(blocks[0] | keys | {"name": name, "api_secret": world.api_secret})
    scenario.settings["accounts"] = blocks
    scenario.sync()
    scenario.settings["accounts"] = [block for block in blocks if block["name"] != "left"]
    for index in [*range(7), *range(7)]:
        scenario.sync("--shard", f"{index}/7")
    states = {line["account"]: line["state"] for line in scenario.query("SELECT * FROM services")}
    assert states == {"main": "active", "other": "active", "left": "unconfigured"}


def test_a_run_group_divides_services_by_their_sizes(make_scenario: MakeScenario) -> None:
    """By hash, one process may get the longest services of all while the others have long ended."""
    scenario = make_scenario((60, 20, 20, 20), max_page_size=50)
    scenario.account |= {"concurrency": 2, "page_size": 1}
    scenario.sync()
    read = [read_by(scenario, index, "--run-group", "night") for index in range(2)]
    assert sorted(map(len, read)) == [1, 3]
    assert sum(map(len, read)) == len(set().union(*read)) == 4


def test_a_service_that_came_up_since_is_read_by_one_process(make_scenario: MakeScenario) -> None:
    """What the group's first process did not know of must be neither lost nor read twice."""
    scenario = make_scenario((6, 5), max_page_size=50)
    scenario.account["concurrency"] = 3
    read = [*read_by(scenario, 0, "--run-group", "night")]
    for _ in range(5):
        scenario.world.add_service(4)
    for index in (1, 2):
        read += read_by(scenario, index, "--run-group", "night")
    read += read_by(scenario, 0, "--run-group", "night")
    assert set(read) == {service.sid for service in scenario.services}
    places = scenario.query("SELECT run_group, shards FROM shard_assignments")
    assert places == [{"run_group": "night", "shards": 3}]


def test_a_dry_run_of_a_group_writes_down_nothing(make_scenario: MakeScenario) -> None:
    """A dry run writes nothing at all, and its shards must read each service once all the same."""
    scenario = make_scenario((6, 5, 4), max_page_size=50)
    scenario.account["concurrency"] = 2
    scenario.migrate()
    read = [read_by(scenario, index, "--run-group", "try", "--dry-run") for index in range(2)]
    assert sum(map(len, read)) == len(set().union(*read)) == 3
    assert scenario.query("SELECT * FROM shard_assignments") == []


def read_by(scenario: Scenario, index: int, *options: str) -> set[str]:
    """Sync one of as many shards as there may be requests in flight; return what it read."""
    count = scenario.account["concurrency"]
    return set(scenario.sync("--shard", f"{index}/{count}", *options).services)
