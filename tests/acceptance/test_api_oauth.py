"""OAuth client credentials: tokens that are granted, end, and are taken back (docs/api.md §4.2)."""

from collections.abc import Callable
from typing import Any

import pytest

from etl.simulator import Fault
from etl.simulator.replies import Reply
from tests.acceptance.front import Request
from tests.acceptance.trial import Trial

MakeTrial = Callable[..., Trial]


@pytest.fixture
def by_app(make_trial: MakeTrial) -> MakeTrial:
    """A trial whose account signs in as an OAuth app."""

    def make(*arguments: Any, **options: Any) -> Trial:
        trial = make_trial(*arguments, **options)
        for name in ("api_key", "api_secret"):
            del trial.account[name]
        trial.account |= {
            "client_id": trial.world.client_id,
            "client_secret": trial.world.client_secret,
        }
        return trial

    return make


def assert_told_nothing(trial: Trial, *told: str) -> None:
    for secret in (trial.world.client_secret, trial.world.client_id, "Bearer"):
        assert all(secret not in text for text in told)


def test_a_run_signs_in_by_one_token(by_app: MakeTrial) -> None:
    """A token a request would double the requests."""
    trial = by_app((230, 120), max_page_size=20)
    result = trial.sync("--log-level", "debug")
    trial.assert_equal_to_world()
    assert trial.simulator.tokens.granted == 1
    assert_told_nothing(trial, result.out, result.err, trial.run("config", "show").out)


def test_a_token_is_renewed_before_it_ends(by_app: MakeTrial) -> None:
    """Tokens of a minute are allowed; a first load takes hours."""
    trial = by_app((300,), max_page_size=10, token_seconds=0.4, latency_ms=20)
    result = trial.sync()
    trial.assert_equal_to_world()
    assert trial.simulator.tokens.granted > 1
    assert result.totals["requests"] == len(listed(trial))


def test_a_token_that_is_refused_is_renewed_once(by_app: MakeTrial) -> None:
    """Twilio takes tokens back when the app changes; the run goes on with the next one."""
    trial = by_app((200,), max_page_size=10)

    def take_back(request: Request) -> Reply | None:
        if request.is_listing and request.page in (3, 7) and request.page not in taken:
            taken.append(request.page)
            trial.simulator.tokens.expire()
        return None

    taken: list[int | None] = []
    trial.front.watch = take_back
    trial.account["services"] = list(trial.world.services)
    result = trial.sync()
    assert result.totals["retries"] == 0
    assert trial.simulator.tokens.granted == 3
    trial.assert_equal_to_world()


def test_a_key_that_is_refused_for_good_does_not_ask_for_ever(by_app: MakeTrial) -> None:
    """Each service would ask for another token, and each of those be refused."""
    trial = by_app((20,) * 6, max_page_size=10)
    trial.account["services"] = list(trial.world.services)
    trial.simulator.faults.add("unauthorized")
    result = trial.sync(expect=4)
    assert {one["error"]["type"] for one in result.json["services"]} == {"CredentialsRefused"}
    assert trial.simulator.tokens.granted == 2


def test_a_missing_right_is_no_reason_for_another_token(by_app: MakeTrial) -> None:
    """The next token would lack the same right."""
    trial = by_app((20,))
    trial.simulator.faults.add("permission")
    assert trial.sync(expect=4).json["services"][0]["error"]["type"] == "PermissionMissing"
    assert trial.simulator.tokens.granted == 1


def test_a_wrong_secret_is_one_clear_error(by_app: MakeTrial) -> None:
    """The host of the tokens refuses it, not the API; who reads it has to know where to look."""
    trial = by_app((20,))
    trial.account["client_secret"] = "wr0ng"
    result = trial.sync(expect=4)
    (said,) = result.json["services"]
    assert said["error"]["type"] == "CredentialsRefused"
    assert "check client_id and client_secret" in said["error"]["message"]
    assert "wr0ng" not in result.out + result.err
    assert listed(trial) == []


@pytest.mark.parametrize("name", ["error-503", "error-500-html", "html-200", "redirect"])
def test_a_host_of_tokens_in_trouble_is_told(by_app: MakeTrial, name: str) -> None:
    """It was not the API that failed; what it answered must not be taken for a token."""
    trial = by_app((20,))
    trial.simulator.faults.add(Fault(name, on="token"))
    trial.settings["retry"]["attempts"] = 2
    (said,) = trial.sync(expect=4).json["services"]
    assert "token" in said["error"]["message"]
    assert listed(trial) == []


def test_a_host_of_tokens_that_recovers_costs_a_retry(by_app: MakeTrial) -> None:
    """A short outage of a host that is asked once an hour must not cost the run."""
    trial = by_app((20,))
    trial.simulator.faults.add(Fault("error-503", on="token", times=2))
    assert trial.sync().totals["retries"] == 2
    trial.assert_equal_to_world()


def test_what_is_said_of_a_life_need_not_be_true(by_app: MakeTrial) -> None:
    """Clocks differ, and apps are changed: a token that ends before its time costs a request."""
    trial = by_app((100,), max_page_size=10, token_seconds=0.2, latency_ms=30)
    trial.simulator.tokens.said_seconds = 3600
    trial.sync()
    trial.assert_equal_to_world()
    assert trial.simulator.tokens.granted > 1


def test_check_says_which_kind_of_credential_is_in_use(by_app: MakeTrial) -> None:
    """Who changes over wants to see that the new one is in use."""
    trial = by_app((20,))
    assert "by OAuth client credentials" in trial.run("check").out
    for name in ("client_id", "client_secret"):
        del trial.account[name]
    trial.account["auth_token"] = trial.world.auth_token
    assert "by the account's auth token" in trial.run("check").out
    del trial.account["auth_token"]
    trial.account |= {"api_key": trial.world.api_key, "api_secret": trial.world.api_secret}
    assert "by an API key" in trial.run("check").out
    trial.account["services"] = list(trial.world.services)
    trial.simulator.faults.add(Fault("permission", on="services"))
    assert "by a Restricted API key that may not list services" in trial.run("check").out


def listed(trial: Trial) -> list[str]:
    """What was asked of the API, besides tokens."""
    return [one.path for one in trial.simulator.requests if one.path != "/v2/token"]
