"""One account's dealings with the API: how much it asks for, how long it waits, how it signs in, and what it finds there."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest

from etl import config
from etl.domain.counters import Counters
from etl.simulator import Fault, World
from etl.simulator.replies import Reply
from etl.stopping import Stop
from etl.twilio.client import Client
from tests.acceptance.interceptor import Request
from tests.acceptance.run_records import (
    assert_complete,
    assert_failed,
    events,
    last_run,
    last_scan,
    report_on,
)
from tests.acceptance.scenario import Scenario

MakeScenario = Callable[..., Scenario]


def listed(scenario: Scenario) -> None:
    """Name the services in the configuration, so that discovery is not in the way, and read one after the other."""
    scenario.account |= {"services": list(scenario.world.services), "concurrency": 1}


def sizes_asked(scenario: Scenario, service_sid: str) -> list[str]:
    """The page size of each request for a service's bindings, in their order."""
    return [
        request.parameters["PageSize"][0]
        for request in scenario.simulator.requests
        if service_sid in request.path
    ]


# --- page size ---


def test_a_size_that_is_cut_down_is_followed_down(make_scenario: MakeScenario) -> None:
    """Who concludes "last page" from a page shorter than asked for reads the first page only, and deletes the rest."""
    scenario = make_scenario(bindings=(230, 120), max_page_size=40)
    listed(scenario)
    assert_complete(scenario, scenario.sync())
    first, second = scenario.world.services
    assert sizes_asked(scenario, first) == ["100"] + ["40"] * 5
    assert sizes_asked(scenario, second) == ["40"] * 3


@pytest.mark.parametrize(("most", "asked"), [(100, ["1000", "100"]), (50, ["1000", "100", "50"])])
@pytest.mark.parametrize("oversize", ["refuse", "refuse20001"])
def test_a_size_that_is_refused_is_lowered_for_all(
    make_scenario: MakeScenario, oversize: str, most: int, asked: list[str]
) -> None:
    """Twilio lowered its limit without a word; the night it does so again must not be a night without data."""
    scenario = make_scenario(bindings=(230, 120), max_page_size=most, oversize=oversize)
    listed(scenario)
    scenario.account["page_size"] = 1000
    result = scenario.sync()
    assert_complete(scenario, result)
    first, second = scenario.world.services
    assert sizes_asked(scenario, first)[: len(asked)] == asked
    assert set(sizes_asked(scenario, second)) == {str(most)}
    assert result.totals["retries"] == 0


def test_what_one_list_gives_says_nothing_of_another(make_scenario: MakeScenario) -> None:
    """The list of services is cut at 50; read so too, bindings would take twice the requests."""
    scenario = make_scenario(bindings=(230,), max_page_size=1000, max_services_page_size=50)
    scenario.account["page_size"] = 200
    result = scenario.sync()
    assert_complete(scenario, result)
    (service,) = scenario.world.services
    assert sizes_asked(scenario, service) == ["200"] * 2
    (lowered,) = events(result, "page_size.lowered")
    assert (lowered["listing"], lowered["given"]) == ("/v1/Services", 50)


def test_a_size_that_is_refused_to_the_end_is_told(make_scenario: MakeScenario) -> None:
    """When no size is small enough the operator has to hear what to change."""
    scenario = make_scenario(bindings=(230,), max_page_size=20, oversize="refuse")
    listed(scenario)
    said = assert_failed(
        scenario, scenario.sync(expect=4), next(iter(scenario.world.services)), "PageSizeRefused"
    )
    assert said["error"]["twilio_code"] == 20007
    assert "page_size" in said["error"]["message"]


def test_a_thousand_a_page_works_where_it_is_allowed(make_scenario: MakeScenario) -> None:
    """Ten times fewer requests is what makes the first load of a large service quick."""
    scenario = make_scenario(bindings=(2300,), max_page_size=1000)
    listed(scenario)
    scenario.account["page_size"] = 1000
    result = scenario.sync()
    assert_complete(scenario, result)
    assert (result.totals["pages"], result.totals["requests"]) == (3, 3)


# --- waiting ---


def test_seconds_asked_for_are_waited_beyond_the_longest_single_wait(
    make_scenario: MakeScenario,
) -> None:
    """A server that says how long it needs is believed: coming back earlier only feeds the overload."""
    scenario = make_scenario(
        bindings=(60,), faults=[Fault("throttle-retry-after", times=1, seconds=0.6)]
    )
    assert scenario.settings["retry"]["max_wait_seconds"] < 0.6
    result = scenario.sync()
    assert_complete(scenario, result)
    (event,) = events(result, "retry.scheduled")
    assert 0.6 <= event["wait_seconds"] <= 0.66
    assert (event["status"], event["attempt"]) == (429, 1)


def test_a_date_asked_for_is_waited_for(make_scenario: MakeScenario) -> None:
    """Retry-After has two forms; read as none, the date would mean no wait at all."""
    scenario = make_scenario(
        bindings=(60,), faults=[Fault("throttle-retry-date", times=1, seconds=1)]
    )
    result = scenario.sync()
    assert_complete(scenario, result)
    (event,) = events(result, "retry.scheduled")
    # Whole seconds: the date is rounded up, the answer's own Date may be of the second before, and a little more is waited.
    assert 0 < event["wait_seconds"] <= 3.5


@pytest.mark.parametrize("name", ["throttle-retry-after", "throttle-retry-date"])
def test_a_wait_beyond_the_total_is_not_begun(make_scenario: MakeScenario, name: str) -> None:
    """A server that asks for an hour must not hold the run for an hour, nor be asked again before."""
    scenario = make_scenario(bindings=(60,), faults=[Fault(name, seconds=3600)])
    started = time.monotonic()
    result = scenario.sync(expect=4)
    assert time.monotonic() - started < 600
    said = assert_failed(scenario, result, next(iter(scenario.world.services)), "Throttled")
    assert (said["requests"], said["retries"], events(result, "retry.scheduled")) == (1, 0, [])


@pytest.mark.parametrize("name", ["error-503", "throttle", "reset", "slow"])
def test_a_run_against_a_broken_api_ends_in_time(make_scenario: MakeScenario, name: str) -> None:
    """Whatever the API does, the total time of a request bounds it: tries, waits, and an answer that never comes."""
    scenario = make_scenario(bindings=(60,), faults=[Fault(name, seconds=3600)])
    listed(scenario)
    scenario.settings["retry"] = {
        "attempts": 100,
        "timeout_seconds": 3600,
        "max_wait_seconds": 0.2,
        "max_total_seconds": 1.5,
    }
    started = time.monotonic()
    result = scenario.sync(expect=4)
    assert time.monotonic() - started < 600  # far from the hour of one answer
    said = report_on(result, next(iter(scenario.world.services)))
    assert said["error"]["type"] in ("Unavailable", "Throttled")
    assert last_run(scenario)["status"] == "failed"


def test_waiting_for_a_place_of_our_own_is_not_the_api_s_slowness(
    make_scenario: MakeScenario,
) -> None:
    """With many services and few places a request may wait for longer than it may take, and would be given up unsent."""
    scenario = make_scenario(bindings=(60,))
    policy = config.Retry(max_total_seconds=5)
    client = Client(config.Account(**scenario.account | {"concurrency": 1}), policy, Stop())
    url = f"{client.origin}/v1/Services/{next(iter(scenario.world.services))}/Bindings"
    with closing(client), ThreadPoolExecutor(1) as thread:
        with client.throttle.slot(Stop()):
            waiting = thread.submit(client.fetch, url, Counters())
            time.sleep(5.2)
        assert waiting.result().status == 200


# --- throttling ---


def test_requests_in_flight_shrink_on_429_and_grow_back(make_scenario: MakeScenario) -> None:
    """The limit is shared with the customer's live traffic: not giving way harms it, never growing back takes all night."""
    scenario = make_scenario(bindings=(300,) * 8, max_concurrent=1, latency_ms=3)
    scenario.account |= {
        "concurrency": 8,
        "page_size": 5,
        "services": list(scenario.world.services),
    }
    scenario.settings["retry"]["attempts"] = 40
    api: Any = scenario.interceptor._app

    def lift_the_limit(request: Request) -> Reply | None:
        if request.number == 150:
            scenario.simulator.limits.max_concurrent = None
            api.most_in_flight = 0
        return None

    scenario.interceptor.watch = lift_the_limit
    result = scenario.sync()
    assert_complete(scenario, result)
    limits = [
        event["limit"] for event in events(result, "retry.scheduled") if event["status"] == 429
    ]
    assert limits[0] <= 4
    assert min(limits) == 1
    assert api.most_in_flight >= 6
    (closed,) = events(result, "account.closed")
    assert closed["highest_concurrent_requests"] >= 6


def test_429_at_low_concurrency_ends_complete(make_scenario: MakeScenario) -> None:
    """An account that allows one request at a time is still an account that can be read."""
    scenario = make_scenario(bindings=(60,) * 6, max_concurrent=1, latency_ms=2)
    scenario.account |= {"concurrency": 6, "page_size": 20}
    scenario.settings["retry"]["attempts"] = 40
    assert_complete(scenario, scenario.sync())


# --- signing in ---


def test_an_auth_token_signs_in(make_scenario: MakeScenario) -> None:
    """Accounts without API keys sign in with account SID and token."""
    scenario = make_scenario(bindings=(60,))
    del scenario.account["api_key"], scenario.account["api_secret"]
    scenario.account["auth_token"] = scenario.world.auth_token
    assert_complete(scenario, scenario.sync())


@pytest.mark.parametrize("services", ["all", "listed"])
def test_a_wrong_key_is_told_and_tried_once(make_scenario: MakeScenario, services: str) -> None:
    """A wrong key does not get right by trying; an API may lock out who tries for long."""
    scenario = make_scenario(bindings=(60,))
    if services == "listed":
        listed(scenario)
    scenario.account["api_secret"] = "f" * 32
    result = scenario.sync(expect=4)
    (said,) = result.json["services"]
    assert (said["error"]["type"], said["error"]["twilio_code"]) == ("CredentialsRefused", 20003)
    assert len(scenario.simulator.requests) == 1
    assert said["error"]["message"] in last_run(scenario)["error"]


@pytest.mark.parametrize("field", ["api_key", "api_secret"])
@pytest.mark.parametrize("spoil", ["{} ", "\t{}", "{}\n", " "])
def test_stray_whitespace_is_found_before_anything_is_sent(
    make_scenario: MakeScenario, field: str, spoil: str
) -> None:
    """It is Twilio's listed cause of 401, and nobody sees it in a log."""
    scenario = make_scenario(bindings=(1,))
    secret = scenario.account[field]
    scenario.account[field] = spoil.format(secret)
    result = scenario.sync(expect=2)
    assert f"accounts[0].{field}" in result.err
    assert secret not in result.err + result.out
    assert len(scenario.simulator.requests) == 0


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_rows_of_another_account_are_not_loaded(
    make_scenario: MakeScenario, dry: tuple[str, ...]
) -> None:
    """A key of another account than configured would fill the warehouse with somebody else's users, or look fresh and hold nothing."""
    scenario = make_scenario(bindings=(60,))
    scenario.account["account_sid"] = "AC" + "0" * 32
    result = scenario.sync(*dry, expect=3)
    [told] = result.json["services"]
    assert (result.json["status"], told["status"], told["complete"]) == ("failed", "failed", False)
    assert told["error"]["type"] == "RowsRejected"
    reason = "account_sid names another account than the one that was read"
    assert f"60 of 60 rows were rejected for one reason: {reason}" in told["error"]["message"]
    assert (result.totals["rejected"], result.totals["inserted"]) == (60, 0)
    assert scenario.stored() == {}
    assert (
        scenario.query("SELECT * FROM service_freshness WHERE last_complete_at IS NOT NULL") == []
    )
    if not dry:
        reasons = scenario.query("SELECT DISTINCT reason FROM rejected_bindings")
        assert reasons == [{"reason": reason}]
        scenario.account["account_sid"] = scenario.world.account_sid
        scenario.sync()
        scenario.assert_equal_to_world()
        assert scenario.query("SELECT id FROM rejected_bindings WHERE resolved_at IS NULL") == []


@pytest.mark.parametrize("listed", [False, True], ids=["services: all", "services named"])
@pytest.mark.parametrize("seen", ["services", "bindings"])
def test_check_finds_an_account_sid_that_is_not_the_key_s(
    make_scenario: MakeScenario, listed: bool, seen: str
) -> None:
    """A parent's SID with a subaccount's key reads well and rejects every row; `check` has to say it beforehand."""
    scenario = make_scenario(bindings=(3, 0))
    if listed:
        scenario.account["services"] = list(scenario.world.services)
    if seen == "bindings":  # as a restricted key, or a list that does not name the owner
        if listed:
            scenario.simulator.faults.add("forbidden", on="services")
        else:
            for service in scenario.services:
                service.account_sid = None  # type: ignore[assignment]
    assert scenario.run("check", "--json").json["ok"]
    scenario.account["account_sid"] = "AC" + "0" * 32
    [fault] = [
        one for one in scenario.run("check", "--json", expect=2).json["findings"] if not one["ok"]
    ]
    assert fault["subject"] == ("account" if seen == "services" else "service")
    assert scenario.world.account_sid in fault["message"]
    assert "correct account_sid" in fault["message"]


# --- discovery ---


def test_services_are_discovered_over_several_pages(make_scenario: MakeScenario) -> None:
    """With "all" a service that is not found is never read, and nobody misses it."""
    scenario = make_scenario(bindings=(3, 4, 0, 5, 6))
    scenario.account["page_size"] = 2
    result = scenario.sync()
    assert_complete(scenario, result)
    assert len(result.json["services"]) == 5
    assert sum(request.path == "/v1/Services" for request in scenario.simulator.requests) == 3


def test_an_account_without_services_is_no_error(make_scenario: MakeScenario) -> None:
    """A fresh account has none; its nightly job must not page anybody."""
    scenario = make_scenario(bindings=())
    assert scenario.sync().json["services"] == []


def test_a_service_that_is_deleted_after_discovery_fails_alone(make_scenario: MakeScenario) -> None:
    """Services come and go while a run goes on; the others are read, and what was loaded of the lost one stays."""
    scenario = make_scenario(bindings=(60, 40, 30))
    scenario.sync()
    before = scenario.expected()
    _, lost, _ = scenario.world.services

    def delete(request: Request) -> Reply | None:
        if request.is_listing and request.service == lost:
            scenario.world.remove_service(lost)
        return None

    scenario.interceptor.watch = delete
    result = scenario.sync(expect=3)
    assert_failed(scenario, result, lost, "ServiceNotFound")
    assert result.json["status"] == last_run(scenario)["status"] == "partial"
    assert [one["status"] for one in result.json["services"]].count("published") == 2
    assert scenario.stored() == before


# --- several accounts ---


def add_account(scenario: Scenario, name: str, world: World) -> dict[str, Any]:
    """Serve one more world, and configure it as an account."""
    scenario.simulator.worlds.append(world)
    account = scenario.account | {
        "name": name, "account_sid": world.account_sid, "api_key": world.api_key, "api_secret": world.api_secret,
    }  # fmt: skip
    scenario.settings["accounts"].append(account)
    return account


def make_world(seed: int, *bindings: int) -> World:
    world = World(seed)
    for number in bindings:
        world.add_service(number)
    return world


def sids_of(*worlds: World) -> set[str]:
    return {
        sid for world in worlds for service in world.services.values() for sid in service.bindings
    }


def stored_sids(scenario: Scenario, account: str) -> set[str]:
    return {
        row["sid"]
        for row in scenario.query(
            "SELECT sid FROM bindings WHERE account = :account", account=account
        )
    }


def test_many_accounts_are_read_side_by_side(make_scenario: MakeScenario) -> None:
    """Each account has its own key, and its rows carry its name; mixed up, they could never be told apart again."""
    scenario = make_scenario(bindings=(60, 40))
    second, third = make_world(2, 30), make_world(3, 20, 25)
    add_account(scenario, "second", second)
    add_account(scenario, "third", third)
    result = scenario.sync()
    assert result.json["status"] == "succeeded"
    for name, world in (("main", scenario.world), ("second", second), ("third", third)):
        assert stored_sids(scenario, name) == sids_of(world)
        assert all(last_scan(scenario, sid)["account"] == name for sid in world.services)


@pytest.mark.parametrize("case", ["wrong key", "fault"])
def test_one_account_that_cannot_be_read_costs_that_account(
    make_scenario: MakeScenario, case: str
) -> None:
    """One customer's revoked key must not leave all the others without data."""
    scenario = make_scenario(bindings=(60, 40))
    second = make_world(2, 30)
    account = add_account(scenario, "second", second)
    if case == "wrong key":
        account["api_secret"] = "f" * 32
    else:
        scenario.simulator.faults.add("forbidden", account=second.account_sid, on="services")
    result = scenario.sync(expect=3)
    assert result.json["status"] == last_run(scenario)["status"] == "partial"
    (failed,) = [one for one in result.json["services"] if one["status"] == "failed"]
    assert (failed["account"], failed["chat_service_sid"]) == ("second", None)
    assert failed["error"]["message"] in last_run(scenario)["error"]
    assert stored_sids(scenario, "main") == sids_of(scenario.world)
    assert stored_sids(scenario, "second") == set()


def test_no_account_that_can_be_read_ends_with_4(make_scenario: MakeScenario) -> None:
    """Exit 3 would tell that something was published."""
    scenario = make_scenario(bindings=(60,))
    add_account(scenario, "second", make_world(2, 30))["api_secret"] = "f" * 32
    scenario.account["api_secret"] = "e" * 32
    result = scenario.sync(expect=4)
    assert {one["error"]["type"] for one in result.json["services"]} == {"CredentialsRefused"}
    assert last_run(scenario)["status"] == "failed"
