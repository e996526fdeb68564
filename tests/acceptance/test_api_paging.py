"""Listings that go on without anything new: which of them end, which are only odd, and what they prove."""

import json
from collections.abc import Callable
from threading import Event
from typing import Any

import pytest

from etl.simulator.replies import Reply, json_reply
from tests.acceptance.interceptor import Request
from tests.acceptance.run_records import assert_complete, assert_failed, events, is_request_id
from tests.acceptance.scenario import Scenario

MakeScenario = Callable[..., Scenario]


def only_service(scenario: Scenario) -> str:
    return next(iter(scenario.world.services))


def page_of(
    scenario: Scenario,
    request: Request,
    rows: list[Any],
    *,
    last: bool = False,
    key: str = "bindings",
) -> Reply:
    """A page whose next link was never there before."""
    link = f"{scenario.simulator.base_url}{request.path}?PageSize=10&Page={request.page + 1}&PageToken=PT{request.page}"
    return json_reply(
        {"meta": {"key": key, "page_size": 10, "next_page_url": None if last else link}, key: rows}
    )


def show_pages(scenario: Scenario, pages: Callable[[int], Any], *, last: int | None = None) -> None:
    """Answer listings of bindings with the rows that `pages` gives for a page's number."""

    def answer(request: Request) -> Reply | None:
        if not request.is_listing:
            return None
        return page_of(scenario, request, pages(request.page), last=request.page == last)

    scenario.interceptor.watch = answer


# --- listings without end ---


def test_empty_pages_without_end_are_given_up(make_scenario: MakeScenario) -> None:
    """Each link is new and each page is in order, so nothing but their number tells that there is no end."""
    scenario = make_scenario(bindings=(30,))
    show_pages(scenario, lambda _number: [])
    said = assert_failed(
        scenario, scenario.sync(expect=4), only_service(scenario), "RepeatedLink", request_id=False
    )
    assert said["requests"] == 1001


def test_a_list_of_services_without_end_is_given_up(make_scenario: MakeScenario) -> None:
    """Discovery stands before every scan; a run that hangs there reads nothing at all."""
    scenario = make_scenario(bindings=(30,))
    scenario.interceptor.watch = lambda request: page_of(scenario, request, [], key="services")
    (said,) = scenario.sync(expect=4).json["services"]
    assert said["error"]["type"] == "RepeatedLink"
    assert scenario.interceptor.requests == 1001


def test_pages_that_go_round_are_given_up(make_scenario: MakeScenario) -> None:
    """Links that count up and lead round the same pages for ever are never the same."""
    scenario = make_scenario(bindings=(30,))
    rows = list(scenario.services[0].bindings.values())
    show_pages(scenario, lambda number: rows[number % 3 :: 3] if number % 2 else [])
    said = assert_failed(
        scenario, scenario.sync(expect=4), only_service(scenario), "RepeatedLink", request_id=False
    )
    assert said["requests"] < 60


# --- listings that are only odd ---


def test_many_empty_pages_lead_on(make_scenario: MakeScenario) -> None:
    """A filter may leave many pages in a row without a row; what comes behind them is not lost."""
    scenario = make_scenario(bindings=(30,))
    rows = list(scenario.services[0].bindings.values())
    show_pages(scenario, lambda number: rows if number == 300 else [], last=300)
    assert_complete(scenario, scenario.sync())


def test_a_page_that_comes_again_costs_only_the_deletes(make_scenario: MakeScenario) -> None:
    """A row that is added at the head pushes a page of one row on, and it comes again; which rows were skipped, nobody can tell."""
    scenario = make_scenario(bindings=(4,))
    scenario.account["page_size"] = 1
    scenario.sync()
    rows = list(scenario.services[0].bindings.values())
    scenario.services[0].delete(1)
    left = [row for row in rows if row["sid"] in scenario.services[0].bindings]
    show_pages(scenario, lambda number: [left[max(0, number - 1)]], last=len(left))
    result = scenario.sync()
    (said,) = result.json["services"]
    assert (said["status"], said["complete"], said["deleted"]) == ("published", False, 0)
    assert len(events(result, "page.repeated")) == 1
    assert scenario.sync("--dry-run").totals["deleted"] == 0
    scenario.interceptor.watch = None
    assert scenario.sync().totals["deleted"] == 1


# --- odd refusals ---


@pytest.mark.parametrize("name", ["odd-401", "odd-404"])
def test_one_odd_refusal_is_forgiven_in_a_listing_and_no_more(
    make_scenario: MakeScenario, name: str
) -> None:
    """A key that is revoked for every other request would otherwise be asked twice for each page of a night."""
    scenario = make_scenario(bindings=(230,), max_page_size=20)
    scenario.simulator.faults.add(name, times=1, only_pages={2})
    scenario.simulator.faults.add(name, times=1, only_pages={5})
    kind = "CredentialsRefused" if name == "odd-401" else "ServiceNotFound"
    said = assert_failed(scenario, scenario.sync(expect=4), only_service(scenario), kind)
    assert (said["pages"], said["retries"]) == (5, 1)


# --- discovery ---


def test_a_list_of_services_stops_when_asked_to(make_scenario: MakeScenario) -> None:
    """A pod that does not stop by itself is killed; discovery has to listen as scans do."""
    scenario = make_scenario(bindings=(30,))
    under_way = Event()

    def one_more_service(request: Request) -> Reply:
        if request.page == 20:
            under_way.set()
        return page_of(scenario, request, [{"sid": f"IS{request.page:032x}"}], key="services")

    scenario.interceptor.watch = one_more_service
    process = scenario.start("sync", "--json")
    assert under_way.wait(60)
    process.terminate()
    result = scenario.wait_for(process, expect=143)
    assert result.json["status"] == "interrupted"
    assert events(result, "run.left_behind") == []


def test_a_service_without_a_sid_is_told_with_the_request(make_scenario: MakeScenario) -> None:
    """Twilio's support asks for the request's id first."""
    scenario = make_scenario(bindings=(30,))
    body = json.dumps({"meta": {"key": "services"}, "services": [{"sid": "XX"}]}).encode()
    scenario.interceptor.watch = lambda _request: Reply(
        200, body, {"twilio-request-id": "RQ" + "0a" * 16}
    )
    (said,) = scenario.sync(expect=4).json["services"]
    assert said["error"]["type"] == "MalformedPage"
    assert is_request_id(said["error"]["request_id"])
