"""What a caller learns for every way a run can end: exit code, the JSON object, the ledger (docs/commands.md)."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from etl.simulator import Simulator, World
from tests.acceptance.scenario import Result, Scenario

MakeScenario = Callable[..., Scenario]

COUNTERS = {
    "pages": int, "requests": int, "retries": int, "fetched": int, "inserted": int, "updated": int, "unchanged": int,
    "deleted": int, "restored": int, "rejected": int,
}  # fmt: skip
RUN = {
    "run_id": int, "mode": str, "status": str, "started_at": str, "finished_at": str, "dry_run": bool, "totals": dict,
    "services": list,
}  # fmt: skip
SERVICE = {
    "account": str,
    "chat_service_sid": str,
    "status": str,
    "complete": bool,
    "error": (dict, type(None)),
    **COUNTERS,
}
ERROR = {
    "type": str,
    "message": str,
    "twilio_code": (int, type(None)),
    "request_id": (str, type(None)),
}


def assert_shape(document: dict[str, Any], *, began: bool = True) -> None:
    """The object holds what the README names, of the right type; more is allowed."""
    assert_types(document, RUN | ({} if began else {"run_id": type(None)}))
    assert_types(document["totals"], COUNTERS)
    for name in ("started_at", "finished_at"):
        assert document[name].endswith("Z")
        datetime.fromisoformat(document[name])
    assert document["started_at"] <= document["finished_at"]
    for service in document["services"]:
        assert_types(service, SERVICE)
        if service["error"] is not None:
            assert_types(service["error"], ERROR)
    for name in COUNTERS:
        together = sum(service[name] for service in document["services"])
        # Finding out which services there are belongs to none of them.
        beside = document["totals"][name] - together
        assert beside >= 0 if name in ("requests", "retries") else beside == 0


def assert_types(document: dict[str, Any], expected: dict[str, Any]) -> None:
    assert {
        name: isinstance(document[name], kind) for name, kind in expected.items()
    } == dict.fromkeys(expected, True)


def assert_in_ledger(scenario: Scenario, result: Result) -> None:
    """`sync_runs` and `sync_scans` say what the caller was told."""
    document = result.json
    [run] = scenario.query("SELECT * FROM sync_runs WHERE id = :id", id=document["run_id"])
    assert (run["mode"], run["status"], bool(run["dry_run"])) == (
        document["mode"],
        document["status"],
        False,
    )
    assert {name: run[name] for name in COUNTERS} == document["totals"]
    assert run["finished_at"] is not None
    assert run["version"]
    assert run["host"]
    scans = {
        scan["chat_service_sid"]: scan
        for scan in scenario.query("SELECT * FROM sync_scans WHERE run_id = :id", id=run["id"])
    }
    assert scans.keys() == result.services.keys()
    for sid, service in result.services.items():
        scan = scans[sid]
        assert (scan["status"], bool(scan["complete"])) == (service["status"], service["complete"])
        assert {name: scan[name] for name in COUNTERS} == {name: service[name] for name in COUNTERS}
        assert scan["finished_at"] is not None
        if service["error"]:
            assert (scan["error"], scan["twilio_request_id"]) == (
                service["error"]["message"],
                service["error"]["request_id"],
            )


def test_success_is_0_and_says_what_was_done(make_scenario: MakeScenario) -> None:
    """Whoever parses the object of a good run relies on each of its names."""
    scenario = make_scenario((30, 12))
    result = scenario.sync()
    assert_shape(result.json)
    assert_in_ledger(scenario, result)
    assert (result.json["mode"], result.json["status"], result.json["dry_run"]) == (
        "sync",
        "succeeded",
        False,
    )
    for service in scenario.services:
        told = result.services[service.sid]
        assert (told["account"], told["status"], told["complete"], told["error"]) == (
            "main",
            "published",
            True,
            None,
        )
        assert (told["pages"], told["requests"], told["fetched"], told["inserted"]) == (
            1,
            1,
            len(service),
            len(service),
        )


def test_an_account_without_services_is_nothing_to_do(make_scenario: MakeScenario) -> None:
    """An empty account is no failure: cron must not cry over it."""
    result = make_scenario(()).sync()
    assert_shape(result.json)
    assert (result.json["status"], result.json["services"]) == ("succeeded", [])


def test_empty_services_are_published(make_scenario: MakeScenario) -> None:
    """A service without bindings is read and complete, and its freshness is known."""
    scenario = make_scenario((0, 3))
    assert [entry["status"] for entry in scenario.sync().json["services"]] == [
        "published",
        "published",
    ]
    assert all(
        row["last_complete_at"]
        for row in scenario.query("SELECT last_complete_at FROM service_freshness")
    )


@pytest.mark.parametrize(
    "fault", ["error-503", "forbidden", "service-404", "html-200", "no-list", "loop"]
)
def test_one_service_that_fails_costs_one_service(make_scenario: MakeScenario, fault: str) -> None:
    """The other services are published, the failed one stays exactly as it was, and exit code 3 tells (docs/promises.md §5)."""
    scenario = make_scenario((30, 20, 25), max_page_size=10)
    scenario.settings["retry"]["attempts"] = 2
    scenario.sync()
    struck = scenario.services[1]
    before = scenario.stored(f"chat_service_sid = '{struck.sid}'")
    for service in scenario.services:
        service.touch(3)
        service.delete(2)
        service.grow(4)
    scenario.simulator.faults.add(fault, service=struck.sid, only_pages=[1])
    result = scenario.sync(expect=3)
    assert_shape(result.json)
    assert_in_ledger(scenario, result)
    assert result.json["status"] == "partial"
    assert {sid: told["status"] for sid, told in result.services.items()} == {
        service.sid: "failed" if service is struck else "published" for service in scenario.services
    }
    assert (
        result.services[struck.sid]["complete"],
        result.services[struck.sid]["error"] is None,
    ) == (False, False)
    others = [service.sid for service in scenario.services if service is not struck]
    assert scenario.stored() == {**scenario.expected(others), **before}
    scenario.simulator.faults.clear()
    scenario.sync("--fresh")
    scenario.assert_equal_to_world()


def test_an_error_carries_what_support_asks_for(make_scenario: MakeScenario) -> None:
    """Without Twilio's code and request id nobody at Twilio can look into it."""
    scenario = make_scenario((30,))
    scenario.simulator.faults.add("permission")
    result = scenario.sync(expect=4)
    assert_shape(result.json)
    error = result.json["services"][0]["error"]
    assert (error["type"], error["twilio_code"]) == ("PermissionMissing", 70051)
    assert error["request_id"].startswith("RQ")
    assert_in_ledger(scenario, result)


@pytest.mark.parametrize("fault", ["unauthorized", "error-500", "reset", "html-200"])
def test_nothing_that_can_be_read_is_4(make_scenario: MakeScenario, fault: str) -> None:
    """A run that read no service at all must not look like one that read some."""
    scenario = make_scenario((10, 10))
    scenario.settings["retry"]["attempts"] = 2
    scenario.simulator.faults.add(fault)
    result = scenario.sync(expect=4)
    assert_shape(result.json)
    assert_in_ledger(scenario, result)
    assert result.json["status"] == "failed"


def test_services_that_cannot_be_listed_are_4(make_scenario: MakeScenario) -> None:
    """With `services: all` a wrong key fails before any service is known; that too is a run with a status."""
    scenario = make_scenario((10,))
    scenario.account["api_secret"] = "wrong"
    result = scenario.sync(expect=4)
    document = result.json
    assert (document["status"], document["services"][0]["chat_service_sid"]) == ("failed", None)
    assert document["services"][0]["error"]["twilio_code"] == 20003
    [run] = scenario.query("SELECT status, error FROM sync_runs")
    assert run["status"] == "failed"
    assert "wrong" not in run["error"].split("credentials", 1)[0]


def test_one_account_that_fails_costs_one_account(
    make_scenario: MakeScenario, tmp_path: Path
) -> None:
    """Two customers in one file: the wrong key of one must not keep the other's rows old."""
    scenario = make_scenario((10, 5))
    scenario.settings["accounts"].append(
        {**scenario.account, "name": "other", "api_secret": "wrong"}
    )
    result = scenario.sync(expect=3)
    assert result.json["status"] == "partial"
    scenario.assert_equal_to_world()


def test_two_accounts_are_read_side_by_side(make_scenario: MakeScenario) -> None:
    """Each account has its own credentials and its own rows; mixing them would be the worst of leaks."""
    scenario = make_scenario((10, 5))
    world = World(seed=99)
    world.add_service(bindings=20)
    with Simulator(world, gzip=False).serve() as base_url:
        other = {
            "account_sid": world.account_sid,
            "api_key": world.api_key,
            "api_secret": world.api_secret,
            "base_url": base_url,
        }
        scenario.settings["accounts"].append({**scenario.account, **other, "name": "other"})
        scenario.sync()
        counted = scenario.query(
            "SELECT account, account_sid, count(*) AS n FROM bindings GROUP BY account, account_sid ORDER BY account"
        )
        assert counted == [
            {"account": "main", "account_sid": scenario.world.account_sid, "n": 15},
            {"account": "other", "account_sid": world.account_sid, "n": 20},
        ]
        scenario.services[0].delete(2)
        [service] = world.services.values()
        service.delete(2)
        assert scenario.sync("--account", "other").totals["deleted"] == 2


def test_a_chosen_service_is_the_only_one_read(make_scenario: MakeScenario) -> None:
    """`--service` must neither read nor delete anything of the others."""
    scenario = make_scenario((10, 12))
    one, other = scenario.services
    result = scenario.sync("--service", one.sid)
    assert list(result.services) == [one.sid]
    assert scenario.stored() == scenario.expected([one.sid])
    scenario.sync("--service", one.sid, "--service", other.sid)
    scenario.assert_equal_to_world()


def test_a_chosen_service_that_does_not_exist_is_told(make_scenario: MakeScenario) -> None:
    """A typing error in a SID must not pass for a service that was read."""
    scenario = make_scenario((10,))
    unknown = "IS" + "0" * 32
    result = scenario.sync("--service", unknown, expect=4)
    assert result.services[unknown]["error"]["type"] == "ServiceNotFound"
    assert (
        scenario.sync("--service", unknown, "--service", scenario.services[0].sid, expect=3).json[
            "status"
        ]
        == "partial"
    )


def break_key(scenario: Scenario) -> None:
    scenario.settings["accounts"][0]["colour"] = "blue"


def break_secret(scenario: Scenario) -> None:
    scenario.account["api_secret"] = "${NO_SUCH_VARIABLE}"


def break_url(scenario: Scenario) -> None:
    scenario.settings["warehouse"]["url"] = "not a url"


def break_engine(scenario: Scenario) -> None:
    scenario.settings["warehouse"]["url"] = "oracle://localhost/x"


@pytest.mark.parametrize("broken", [break_key, break_secret, break_url, break_engine])
@pytest.mark.parametrize("command", ["sync", "backfill"])
def test_a_wrong_configuration_is_2(
    make_scenario: MakeScenario, broken: Callable[[Scenario], None], command: str
) -> None:
    """A program that reads `--json` must find an object also where the run could not begin."""
    scenario = make_scenario((10,))
    broken(scenario)
    result = scenario.run(command, "--json", expect=2)
    assert_shape(result.json, began=False)
    assert (result.json["mode"], result.json["status"], result.json["services"]) == (
        command,
        "failed",
        [],
    )
    assert result.json["error"]["type"] == "ConfigurationError"
    assert result.json["error"]["message"] in result.err


@pytest.mark.parametrize(
    "arguments",
    [("--account", "nobody"), ("--service", "IS" + "0" * 32)],
    ids=["unknown account", "unknown service"],
)
def test_a_request_for_what_is_not_configured_is_2(
    make_scenario: MakeScenario, arguments: tuple[str, str]
) -> None:
    """What is not in the file cannot be read; saying nothing would look like success."""
    scenario = make_scenario((10,))
    scenario.account["services"] = [scenario.services[0].sid]
    result = scenario.sync(*arguments, expect=2)
    assert_shape(result.json, began=False)
    assert arguments[1] in result.json["error"]["message"]


@pytest.mark.parametrize(
    "arguments",
    [("--shard", "2/2"), ("--shard", "x"), ("--service", "IS1"), ("--no-such-option",)],
    ids=["shard beyond", "no shard", "no SID", "no option"],
)
def test_wrong_usage_is_2(make_scenario: MakeScenario, arguments: tuple[str, ...]) -> None:
    """A misspelt option in a crontab has to be told apart from a run that failed."""
    scenario = make_scenario((10,))
    result = scenario.sync(*arguments, expect=2)
    assert result.err
    assert scenario.query("SELECT * FROM sync_runs") == []


@pytest.mark.parametrize("command", ["sync", "backfill"])
def test_a_warehouse_that_is_not_migrated_is_7_and_names_the_command(
    make_scenario: MakeScenario, tmp_path: Path, command: str
) -> None:
    """Somebody who forgot `migrate` must be told so, and no table may be made behind Alembic's back."""
    scenario = make_scenario((10,))
    scenario.settings["warehouse"]["url"] = f"sqlite:///{tmp_path / 'empty.sqlite'}"
    result = scenario.run(command, "--json", expect=7)
    assert_shape(result.json, began=False)
    assert "migrate" in result.err
    assert result.json["error"]["message"] in result.err


def test_a_warehouse_of_another_revision_is_7(make_scenario: MakeScenario) -> None:
    """An older or newer program must not write into tables that it does not know."""
    scenario = make_scenario((10,))
    scenario.execute("UPDATE bindings_etl_version SET version_num = '20200101_01'")
    assert "migrate" in scenario.sync(expect=7).err


def test_a_warehouse_that_cannot_be_reached_is_7(
    make_scenario: MakeScenario, tmp_path: Path
) -> None:
    """A database that is down is no fault of the API; the caller has to know where to look."""
    scenario = make_scenario((10,))
    scenario.settings["retry"]["attempts"] = 1
    for url in (
        f"sqlite:///{tmp_path / 'no' / 'such' / 'folder' / 'file.sqlite'}",
        "postgresql://nobody:s3cret@127.0.0.1:9/none",
    ):
        scenario.settings["warehouse"]["url"] = url
        result = scenario.sync(expect=7)
        assert_shape(result.json, began=False)
        assert "s3cret" not in result.out + result.err


def test_a_summary_for_people_names_each_service(make_scenario: MakeScenario) -> None:
    """Without `--json` a person reads the same facts, and why something was not done."""
    scenario = make_scenario((10, 12))
    scenario.simulator.faults.add("forbidden", service=scenario.services[1].sid)
    result = scenario.run("sync", expect=3)
    assert all(service.sid in result.out for service in scenario.services)
    assert "partial" in result.out
    assert "HTTP 403" in result.out
    with pytest.raises(json.JSONDecodeError):
        json.loads(result.out)
