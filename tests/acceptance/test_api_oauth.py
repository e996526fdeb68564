"""OAuth client credentials: tokens that are granted, end, and are taken back (docs/api.md §4.2)."""

from collections.abc import Callable
from typing import Any

import pytest

from etl.simulator import Fault
from etl.simulator.replies import Reply
from tests.acceptance.interceptor import Request
from tests.acceptance.scenario import Scenario

MakeScenario = Callable[..., Scenario]


@pytest.fixture
def by_app(make_scenario: MakeScenario) -> MakeScenario:
    """A scenario whose account signs in as an OAuth app."""

    def make(*arguments: Any, **options: Any) -> Scenario:
        scenario = make_scenario(*arguments, **options)
        for name in ("api_key", "api_secret"):
            del scenario.account[name]
        scenario.account |= {
            "client_id": scenario.world.client_id,
            "client_secret": scenario.world.client_secret,
        }
        return scenario

    return make


def assert_told_nothing(scenario: Scenario, *told: str) -> None:
    for secret in (scenario.world.client_secret, scenario.world.client_id, "Bearer"):
        assert all(secret not in text for text in told)


def test_a_run_signs_in_by_one_token(by_app: MakeScenario) -> None:
    """A token a request would double the requests."""
    scenario = by_app((230, 120), max_page_size=20)
    result = scenario.sync("--log-level", "debug")
    scenario.assert_equal_to_world()
    assert scenario.simulator.tokens.granted == 1
    assert_told_nothing(scenario, result.out, result.err, scenario.run("config", "show").out)


def test_a_token_is_renewed_before_it_ends(by_app: MakeScenario) -> None:
    """Tokens of a minute are allowed; a first load takes hours."""
    scenario = by_app((300,), max_page_size=10, token_seconds=2, latency_ms=100)
    result = scenario.sync()
    scenario.assert_equal_to_world()
    assert scenario.simulator.tokens.granted > 1
    assert result.totals["requests"] == len(listed(scenario))


def test_a_token_that_is_refused_is_renewed_once(by_app: MakeScenario) -> None:
    """Twilio takes tokens back when the app changes; the run goes on with the next one."""
    scenario = by_app((200,), max_page_size=10)

    def take_back(request: Request) -> Reply | None:
        if request.is_listing and request.page in (3, 7) and request.page not in taken:
            taken.append(request.page)
            scenario.simulator.tokens.expire()
        return None

    taken: list[int | None] = []
    scenario.interceptor.watch = take_back
    scenario.account["services"] = list(scenario.world.services)
    result = scenario.sync()
    assert result.totals["retries"] == 0
    assert scenario.simulator.tokens.granted == 3
    scenario.assert_equal_to_world()


def test_a_key_that_is_refused_for_good_does_not_ask_for_ever(by_app: MakeScenario) -> None:
    """Each service would ask for another token, and each of those be refused."""
    scenario = by_app((20,) * 6, max_page_size=10)
    scenario.account["services"] = list(scenario.world.services)
    scenario.simulator.faults.add("unauthorized")
    result = scenario.sync(expect=4)
    assert {one["error"]["type"] for one in result.json["services"]} == {"CredentialsRefused"}
    assert scenario.simulator.tokens.granted == 2


def test_a_missing_right_is_no_reason_for_another_token(by_app: MakeScenario) -> None:
    """The next token would lack the same right."""
    scenario = by_app((20,))
    scenario.simulator.faults.add("permission")
    assert scenario.sync(expect=4).json["services"][0]["error"]["type"] == "PermissionMissing"
    assert scenario.simulator.tokens.granted == 1


def test_a_wrong_secret_is_one_clear_error(by_app: MakeScenario) -> None:
    """The host of the tokens refuses it, not the API; who reads it has to know where to look."""
    scenario = by_app((20,))
    scenario.account["client_secret"] = "wr0ng"
    result = scenario.sync(expect=4)
    (said,) = result.json["services"]
    assert said["error"]["type"] == "CredentialsRefused"
    assert "check client_id and client_secret" in said["error"]["message"]
    assert "wr0ng" not in result.out + result.err
    assert listed(scenario) == []


@pytest.mark.parametrize("name", ["error-503", "error-500-html", "html-200", "redirect"])
def test_a_host_of_tokens_in_trouble_is_told(by_app: MakeScenario, name: str) -> None:
    """It was not the API that failed; what it answered must not be taken for a token."""
    scenario = by_app((20,))
    scenario.simulator.faults.add(Fault(name, on="token"))
    scenario.settings["retry"]["attempts"] = 2
    (said,) = scenario.sync(expect=4).json["services"]
    assert "token" in said["error"]["message"]
    assert listed(scenario) == []


def test_a_host_of_tokens_that_recovers_costs_a_retry(by_app: MakeScenario) -> None:
    """A short outage of a host that is asked once an hour must not cost the run."""
    scenario = by_app((20,))
    scenario.simulator.faults.add(Fault("error-503", on="token", times=2))
    assert scenario.sync().totals["retries"] == 2
    scenario.assert_equal_to_world()


def test_what_is_said_of_a_life_need_not_be_true(by_app: MakeScenario) -> None:
    """Clocks differ, and apps are changed: a token that ends before its time costs a request."""
    scenario = by_app((300,), max_page_size=10, token_seconds=2, latency_ms=100)
    scenario.simulator.tokens.said_seconds = 3600
    scenario.sync()
    scenario.assert_equal_to_world()
    assert scenario.simulator.tokens.granted > 1


def test_check_says_which_kind_of_credential_is_in_use(by_app: MakeScenario) -> None:
    """Who changes over wants to see that the new one is in use."""
    scenario = by_app((20,))
    assert "by OAuth client credentials" in scenario.run("check").out
    for name in ("client_id", "client_secret"):
        del scenario.account[name]
    scenario.account["auth_token"] = scenario.world.auth_token
    assert "by the account's auth token" in scenario.run("check").out
    del scenario.account["auth_token"]
    scenario.account |= {"api_key": scenario.world.api_key, "api_secret": scenario.world.api_secret}
    assert "by an API key" in scenario.run("check").out
    scenario.account["services"] = list(scenario.world.services)
    scenario.simulator.faults.add(Fault("permission", on="services"))
    assert "by a Restricted API key that may not list services" in scenario.run("check").out


def listed(scenario: Scenario) -> list[str]:
    """What was asked of the API, besides tokens."""
    return [one.path for one in scenario.simulator.requests if one.path != "/v2/token"]
