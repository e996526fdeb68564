"""Every fault of the simulator by its name: what it costs, what it must not cost, and what the ledger says of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from etl.simulator import Fault, describe_faults
from etl.simulator.effects import Asked
from etl.simulator.replies import Reply
from tests.acceptance.run_records import (
    assert_complete,
    assert_failed,
    events,
    is_request_id,
    last_run,
    last_scan,
    report_on,
)
from tests.acceptance.scenario import Result, Scenario

MakeScenario = Callable[..., Scenario]


class Broken(NamedTuple):
    """How a fault that is not tried again ends the scan of a service."""

    kind: str
    code: int | None = None
    requests: int = 1
    """How many requests it takes to find out."""


# What is odd and still right: nothing is lost, nothing is tried again.
HARMLESS = {
    "relative-link", "empty-next", "missing-next", "empty-page", "trailing-empty-page", "duplicate-rows",
    "meta-first", "meta-last", "renamed-key",
}  # fmt: skip

# What passes when the same is asked again (class of the error, status of the answer).
PASSING: dict[str, tuple[str, int | None]] = {
    "throttle": ("Throttled", 429),
    "throttle-retry-after": ("Throttled", 429),
    "throttle-retry-date": ("Throttled", 429),
    "error-500": ("Unavailable", 500),
    "error-500-html": ("Unavailable", 500),
    "error-502": ("Unavailable", 502),
    "error-503": ("Unavailable", 503),
    "error-504-html": ("Unavailable", 504),
    "empty-503": ("Unavailable", 503),
    "timeout-408": ("Unavailable", 408),
    "cut-body": ("Unavailable", None),
    "reset": ("Unavailable", None),
    "bad-gzip": ("Unavailable", None),
    "trickle": ("Unavailable", None),
    "slow": ("Unavailable", None),
}

# What the same question would meet again, so it is asked once.
LASTING = {
    "unauthorized": Broken("CredentialsRefused", 20003),
    "suspended": Broken("CredentialsRefused", 20003),
    "permission": Broken("PermissionMissing", 70051),
    "forbidden": Broken("PermissionMissing", 20006),
    "service-404": Broken("ServiceNotFound", 20404),
    "empty-404": Broken("ServiceNotFound"),
    "gateway-404": Broken("ServiceNotFound"),
    "token-expired": Broken("PageTokenRefused", 21481, requests=2),
    "redirect": Broken("NotTheApi"),
    "html-200": Broken("NotTheApi"),
    "huge": Broken("MalformedPage"),
    "no-list": Broken("MalformedPage"),
    "no-meta": Broken("MalformedPage"),
    "list-not-array": Broken("MalformedPage"),
    "token-only-style": Broken("MalformedPage"),
    "loop": Broken("RepeatedLink", requests=2),
    "loop-long": Broken("RepeatedLink", requests=3),
    "foreign-host": Broken("ForeignLink"),
    "foreign-scheme": Broken("ForeignLink"),
    "foreign-port": Broken("ForeignLink"),
    "foreign-path": Broken("ForeignLink"),
    "userinfo-link": Broken("ForeignLink"),
    "real-host-link": Broken("ForeignLink"),
}

ODD = {
    "odd-401": ("CredentialsRefused", "unauthorized", 401),
    "odd-404": ("ServiceNotFound", "service-404", 404),
}

BAD_ROWS = {
    "bad-sid": "sid is missing or malformed",
    "missing-sid": "sid is missing or malformed",
    "bad-date": "date_updated is not a date that can be read",
    "bad-message-types": "message_types is neither null nor a list of strings",
    "foreign-service-row": "chat_service_sid names another service than the one that was read",
    "foreign-account-row": "account_sid names another account than the one that was read",
    "not-an-object": "not an object",
    "nul-text": "a text holds a NUL character, which a warehouse cannot hold",
}

# A listing that ends too early and says nothing: only the guard and the API's word for each row stand against it.
CUT_SHORT = {"empty-service", "token-empty"}

OTHERS = {"unknown-field", "empty-errors", "hidden-row"}


def test_every_fault_has_a_scenario() -> None:
    """A fault that is added to the simulator and tried nowhere would be a promise that nobody checks."""
    groups: list[set[str]] = [
        HARMLESS,
        set(PASSING),
        set(LASTING),
        set(ODD),
        set(BAD_ROWS),
        CUT_SHORT,
        OTHERS,
    ]
    assert set().union(*groups) == set(describe_faults())
    assert sum(map(len, groups)) == len(describe_faults())


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_what_is_odd_and_right_changes_nothing(make_scenario: MakeScenario, name: str) -> None:
    """The API pages in several ways that are all right; a client that knows only one would lose rows or fail."""
    scenario = make_scenario(bindings=(230, 200), faults=[name])
    result = scenario.sync()
    assert_complete(scenario, result)
    assert result.totals["retries"] == 0
    # Nothing is written when the same comes again in the same odd way.
    assert scenario.sync().totals["unchanged"] == 430


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_asked_again(make_scenario: MakeScenario, name: str) -> None:
    """A fault that is over in a moment must cost a moment, not a run."""
    scenario = make_scenario(bindings=(230,))
    add_passing(
        scenario, name, times=1 if name in ("slow", "trickle", "throttle-retry-date") else 2
    )
    result = scenario.sync()
    assert_complete(scenario, result)
    kind, status = PASSING[name]
    scheduled = events(result, "retry.scheduled")
    assert [(event["reason"], event["status"]) for event in scheduled] == [(kind, status)] * len(
        scheduled
    )
    assert (
        len(scheduled)
        == result.totals["retries"]
        == sum(fault.struck for fault in faults_of(scenario))
        > 0
    )
    answered = name != "slow"  # its headers come as late as its body
    assert all(
        bool(is_request_id(event["twilio_request_id"] or "")) == answered for event in scheduled
    )


@pytest.mark.parametrize("name", PASSING)
def test_what_does_not_pass_is_given_up(make_scenario: MakeScenario, name: str) -> None:
    """A fault that lasts must end the one service that it is about, after so many tries as are configured and no more."""
    scenario = make_scenario(bindings=(230, 40))
    scenario.settings["retry"]["attempts"] = 2
    struck, other = scenario.world.services
    add_passing(scenario, name, service=struck)
    result = scenario.sync(expect=3)
    kind, status = PASSING[name]
    said = assert_failed(scenario, result, struck, kind, request_id=name != "slow")
    assert (said["requests"], said["retries"], said["fetched"]) == (2, 1, 0)
    assert f"HTTP {status}" in said["error"]["message"] or status is None
    assert_published_beside(scenario, result, other)


@pytest.mark.parametrize("name", LASTING)
def test_what_will_not_change_is_asked_once(make_scenario: MakeScenario, name: str) -> None:
    """Asking again what is refused for good wastes the customer's limit, and what leads away must not be followed."""
    scenario = make_scenario(bindings=(230, 40))
    struck, other = scenario.world.services
    scenario.simulator.faults.add(name, service=struck)
    result = scenario.sync(expect=3)
    broken = LASTING[name]
    said = assert_failed(scenario, result, struck, broken.kind)
    assert (said["error"]["twilio_code"], said["requests"], said["retries"]) == (
        broken.code,
        broken.requests,
        0,
    )
    assert requests_for(scenario, struck) == broken.requests
    assert_published_beside(scenario, result, other)


@pytest.mark.parametrize(
    "name",
    ["unauthorized", "suspended", "permission", "forbidden", "error-500", "html-200", "redirect"],
)
def test_a_fault_of_everything_ends_with_4(make_scenario: MakeScenario, name: str) -> None:
    """Cron has to hear of it when nothing at all could be read, and what was loaded before must stay as it was."""
    scenario = make_scenario(bindings=(60, 40))
    scenario.sync()
    before = scenario.query("SELECT * FROM bindings ORDER BY sid")
    scenario.settings["retry"]["attempts"] = 2
    scenario.simulator.faults.add(name)
    result = scenario.sync(expect=4)
    run = last_run(scenario)
    assert result.json["status"] == run["status"] == "failed"
    assert run["error"]
    assert all(one["status"] == "failed" for one in result.json["services"])
    assert scenario.query("SELECT * FROM bindings ORDER BY sid") == before


@pytest.mark.parametrize("name", ["unauthorized", "html-200", "reset", "loop"])
def test_a_fault_of_discovery_ends_with_4(make_scenario: MakeScenario, name: str) -> None:
    """Half a list of services would leave the others unread for ever, so discovery is read to its end or not at all."""
    scenario = make_scenario(bindings=(60, 40))
    scenario.settings["retry"]["attempts"] = 2
    scenario.simulator.faults.add(name, on="services")
    result = scenario.sync(expect=4)
    (said,) = result.json["services"]
    assert (said["account"], said["chat_service_sid"], said["status"]) == ("main", None, "failed")
    assert is_request_id(said["error"]["request_id"])
    assert said["error"]["message"] in last_run(scenario)["error"]
    assert scenario.stored() == {}


@pytest.mark.parametrize("name", ODD)
def test_one_odd_refusal_in_the_middle_is_asked_again(
    make_scenario: MakeScenario, name: str
) -> None:
    """A single 401 or 404 amid pages that were given is the API's slip, and must not cost the service."""
    scenario = make_scenario(bindings=(230, 40), faults=[name])
    result = scenario.sync()
    assert_complete(scenario, result)
    kind, _, status = ODD[name]
    (event,) = events(result, "retry.scheduled")
    assert (event["reason"], event["status"], result.totals["retries"]) == (kind, status, 1)


def slip_once_on(scenario: Scenario, name: str, pages: set[int], service_sid: str) -> None:
    """Each of these pages is refused the first time that it is asked for."""
    left = set(pages)

    def is_first_time(asked: Asked) -> bool:
        first = asked.page in left
        left.discard(asked.page)
        return first

    scenario.simulator.faults.add(
        name, service=service_sid, only_pages=pages, when=is_first_time, times=len(pages)
    )


@pytest.mark.parametrize("name", ODD)
def test_odd_refusals_far_apart_are_asked_again(make_scenario: MakeScenario, name: str) -> None:
    """A listing of 10,000 pages meets more than one slip, and would never be read to its end."""
    scenario = make_scenario(bindings=(230,), max_page_size=1)
    slip_once_on(scenario, ODD[name][1], {1, 101, 210}, next(iter(scenario.world.services)))
    result = scenario.sync()
    assert_complete(scenario, result)
    assert result.totals["retries"] == 3


@pytest.mark.parametrize("name", ODD)
def test_odd_refusals_close_together_are_believed(make_scenario: MakeScenario, name: str) -> None:
    """Refusals that come more often than one in 100 pages are the API's word, and not slips."""
    scenario = make_scenario(bindings=(230, 40), max_page_size=1)
    struck, _ = scenario.world.services
    kind, refusal, _ = ODD[name]
    slip_once_on(scenario, refusal, {1, 100}, struck)
    said = assert_failed(scenario, scenario.sync(expect=3), struck, kind)
    assert (said["pages"], said["retries"]) == (100, 1)


@pytest.mark.parametrize("name", ODD)
def test_a_second_refusal_in_the_middle_is_believed(make_scenario: MakeScenario, name: str) -> None:
    """A key that was revoked in mid-run would otherwise be tried as often as a fault that passes."""
    scenario = make_scenario(bindings=(230, 40))
    struck, other = scenario.world.services
    kind, refusal, _ = ODD[name]
    scenario.simulator.faults.add(refusal, service=struck, only_pages={1})
    result = scenario.sync(expect=3)
    said = assert_failed(scenario, result, struck, kind)
    assert (said["pages"], said["requests"], said["retries"]) == (1, 3, 1)
    assert_published_beside(scenario, result, other)


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_costs_one_row(make_scenario: MakeScenario, name: str) -> None:
    """One row that cannot be held must neither stop the others nor vanish without a trace."""
    scenario = make_scenario(bindings=(230, 40))
    struck, _ = scenario.world.services
    scenario.simulator.faults.add(name, service=struck)
    result = scenario.sync()
    said = report_on(result, struck)
    assert (said["status"], said["fetched"], said["inserted"], said["rejected"]) == (
        "published",
        230,
        227,
        3,
    )
    assert last_scan(scenario, struck)["rejected"] == 3
    expected, stored = scenario.expected(), scenario.stored()
    assert len(stored) == 267
    assert stored.items() <= expected.items()
    rejected = scenario.query("SELECT * FROM rejected_bindings")
    assert {row["reason"] for row in rejected} == {BAD_ROWS[name]}
    assert {row["sid"] for row in rejected} <= {None, *(expected.keys() - stored.keys())}
    assert all(row["payload"] for row in rejected)


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_row_that_goes_bad_is_not_deleted(make_scenario: MakeScenario, name: str) -> None:
    """A rejected row is not absent; deleting it would take a living binding from the warehouse."""
    scenario = make_scenario(bindings=(230,))
    scenario.sync()
    scenario.simulator.faults.add(name)
    result = scenario.sync()
    assert (result.totals["rejected"], result.totals["deleted"]) == (3, 0)
    assert scenario.stored() == scenario.expected()


@pytest.mark.parametrize("name", sorted(CUT_SHORT))
def test_a_listing_that_ends_too_early_deletes_nothing(
    make_scenario: MakeScenario, name: str
) -> None:
    """A damaged token gives an empty page with 200; believed, it would wipe out most of a service."""
    scenario = make_scenario(bindings=(230, 40))
    scenario.sync()
    struck, _ = scenario.world.services
    scenario.simulator.faults.add(name, service=struck)
    result = scenario.sync(expect=5)
    assert report_on(result, struck)["status"] == last_scan(scenario, struck)["status"] == "refused"
    assert "--allow-mass-delete" in last_scan(scenario, struck)["error"]
    assert scenario.stored() == scenario.expected()
    # Even who lifts the guard is asked by the API's own word first.
    assert scenario.sync("--allow-mass-delete", expect=None).totals["deleted"] == 0
    assert scenario.stored() == scenario.expected()


def test_a_listing_that_leaves_out_a_row_deletes_nothing(make_scenario: MakeScenario) -> None:
    """One row is too few for the guard; only the API's own word for it stands against its delete."""
    scenario = make_scenario(bindings=(60,))
    scenario.sync()
    scenario.simulator.faults.add("hidden-row", on="bindings")
    result = scenario.sync()
    assert (result.totals["fetched"], result.totals["deleted"]) == (59, 0)
    assert scenario.stored() == scenario.expected()


def test_a_404_with_a_page_for_people_deletes_nothing(make_scenario: MakeScenario) -> None:
    """A proxy that knows no route to single bindings would otherwise prove that every absent one is gone."""
    scenario = make_scenario(bindings=(60,))
    scenario.sync()
    scenario.services[0].delete(3)
    scenario.interceptor.watch = lambda request: (
        Reply(404, b"<html>") if request.is_lookup else None
    )
    assert scenario.sync().totals["deleted"] == 0
    scenario.interceptor.watch = None
    assert scenario.sync().totals["deleted"] == 3


def test_fields_of_tomorrow_are_kept(make_scenario: MakeScenario) -> None:
    """A field that Twilio adds must neither break the load nor be lost."""
    scenario = make_scenario(bindings=(230,), faults=["unknown-field"])
    scenario.sync()
    extra = {"device": {"model": "phone", "os": 17.2}}
    assert scenario.stored() == {
        sid: row | {"extra": extra} for sid, row in scenario.expected().items()
    }


def test_many_faults_at_once_change_nothing_in_the_end(make_scenario: MakeScenario) -> None:
    """Faults come in company; each must be met as if it were alone."""
    often = ["throttle:5", "error-500:7", "reset:11", "cut-body:6", "bad-gzip:13", "empty-503:9"]
    scenario = make_scenario(
        bindings=(430, 310, 250), faults=[*often, "duplicate-rows", "meta-last", "relative-link"]
    )
    scenario.account["page_size"] = 10
    scenario.settings["retry"]["attempts"] = 60  # more than half of all requests are struck
    result = scenario.sync()
    assert_complete(scenario, result)
    assert result.totals["retries"] > 60


def add_passing(scenario: Scenario, name: str, **options: Any) -> None:
    """Add a fault that passes; the slow ones never keep to the time limit of a request, all other answers do."""
    if name in ("slow", "trickle"):
        scenario.settings["retry"]["timeout_seconds"] = 2
        options["seconds"] = 3600
    elif name.startswith("throttle-retry"):
        options["seconds"] = 0
    scenario.simulator.faults.add(name, **options)


def faults_of(scenario: Scenario) -> list[Fault]:
    return list(scenario.simulator.faults._active)


def requests_for(scenario: Scenario, service_sid: str) -> int:
    return sum(service_sid in logged.path for logged in scenario.simulator.requests)


def assert_published_beside(scenario: Scenario, result: Result, service_sid: str) -> None:
    """One service failed and the other is published, as the run's line says too."""
    assert result.json["status"] == last_run(scenario)["status"] == "partial"
    assert (
        report_on(result, service_sid)["status"]
        == last_scan(scenario, service_sid)["status"]
        == "published"
    )
    assert last_run(scenario)["error"]
    assert scenario.stored() == scenario.expected([service_sid])
