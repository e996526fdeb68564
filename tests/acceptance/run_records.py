"""What a run left behind for those who have to find out what happened: log events and the ledger."""

import json
import re
from typing import Any

from tests.acceptance.scenario import Result, Scenario

is_request_id = re.compile(r"RQ[0-9a-f]{32}").fullmatch


def events(result: Result, name: str) -> list[dict[str, Any]]:
    """The log events of this name, in their order."""
    lines = [json.loads(line) for line in result.err.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


def last_run(scenario: Scenario) -> dict[str, Any]:
    """The newest line of `sync_runs`."""
    return scenario.query("SELECT * FROM sync_runs ORDER BY id DESC LIMIT 1")[0]


def last_scan(scenario: Scenario, service_sid: str) -> dict[str, Any]:
    """The newest line of `sync_scans` of a service."""
    query = "SELECT * FROM sync_scans WHERE chat_service_sid = :sid ORDER BY id DESC LIMIT 1"
    return scenario.query(query, sid=service_sid)[0]


def report_on(result: Result, service_sid: str) -> dict[str, Any]:
    """What the JSON says of a service."""
    found: list[dict[str, Any]] = [
        one for one in result.json["services"] if one["chat_service_sid"] == service_sid
    ]
    assert len(found) == 1, result.out
    return found[0]


def assert_failed(
    scenario: Scenario, result: Result, service_sid: str, kind: str, *, request_id: bool = True
) -> dict[str, Any]:
    """A service failed for this reason, and JSON, log and ledger tell the same; gives what the JSON says of it."""
    said = report_on(result, service_sid)
    assert (said["status"], said["complete"], said["error"]["type"]) == ("failed", False, kind), (
        said
    )
    kept = last_scan(scenario, service_sid)
    assert (kept["status"], kept["complete"], kept["error"]) == (
        "failed",
        False,
        said["error"]["message"],
    )
    assert kept["twilio_request_id"] == said["error"]["request_id"]
    assert bool(is_request_id(said["error"]["request_id"] or "")) == request_id, said
    (logged,) = [
        event for event in events(result, "scan.failed") if event["chat_service_sid"] == service_sid
    ]
    assert (logged["error"], logged["twilio_request_id"]) == (kind, said["error"]["request_id"])
    return said


def assert_complete(scenario: Scenario, result: Result) -> None:
    """Everything was read to its end and published, and the ledger says so."""
    scenario.assert_equal_to_world()
    assert result.json["status"] == last_run(scenario)["status"] == "succeeded"
    for said in result.json["services"]:
        kept = last_scan(scenario, said["chat_service_sid"])
        assert (said["status"], said["complete"], said["error"]) == ("published", True, None)
        assert (kept["status"], kept["complete"], kept["error"], kept["twilio_request_id"]) == (
            "published",
            True,
            None,
            None,
        )
        assert {name: kept[name] for name in ("pages", "requests", "retries")} == {
            name: said[name] for name in ("pages", "requests", "retries")
        }
