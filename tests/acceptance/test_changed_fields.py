"""What was updated is told field by field, and most of a service at once with a warning."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.scenario import Result, Scenario

MakeScenario = Callable[..., Scenario]


def events(result: Result, name: str) -> list[dict[str, Any]]:
    """Lines of the log with this event, as JSON."""
    lines = [json.loads(line) for line in result.err.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


def test_changed_fields_count_the_updated_rows(make_scenario: MakeScenario) -> None:
    """Whoever sees 40 updates wants to know of what, and rows that are new or back are none."""
    scenario = make_scenario((30, 10))
    service = scenario.services[0]
    scenario.sync()
    gone = service.delete(2)
    scenario.sync()
    chosen = service.sids()[:4]
    service.bring_back(len(gone))
    service.grow(3)
    for sid in chosen[:3]:
        service.change(sid, endpoint=f"new-{sid}")
    service.change(chosen[2], identity="somebody else", message_types=None)
    service.change(chosen[3], firmware={"major": 1})
    planned = scenario.sync("--dry-run").services
    done = scenario.sync()
    expected = {"identity": 1, "endpoint": 3, "message_types": 1, "extra": 1}
    for services in (planned, done.services):
        assert services[service.sid]["updated"] == 4
        assert services[service.sid]["changed_fields"] == expected
        assert services[scenario.services[1].sid]["changed_fields"] == {}
    lines = scenario.query(
        "SELECT changed_fields FROM sync_scans WHERE run_id = :run_id AND chat_service_sid = :sid",
        run_id=done.json["run_id"],
        sid=service.sid,
    )
    assert [json.loads(line["changed_fields"]) for line in lines] == [expected]
    assert scenario.sync().services[service.sid]["changed_fields"] == {}


def test_changed_fields_of_a_group_are_added_up(make_scenario: MakeScenario) -> None:
    """Shards are one run to whoever started them."""
    scenario = make_scenario((20,))
    scenario.sync()
    sids = scenario.services[0].sids()
    for sid in sids[:2]:
        scenario.services[0].change(sid, endpoint="a")
        scenario.sync("--run-group", "night")
    [service] = scenario.run("status", "--run-group", "night", "--json").json["services"]
    assert service["changed_fields"] == {"endpoint": 2}


@pytest.mark.parametrize("dry_run", [False, True])
def test_most_of_a_service_updated_at_once_is_told(
    make_scenario: MakeScenario, dry_run: bool
) -> None:
    """An API that corrects all dates at once would pass for a busy day."""
    scenario = make_scenario((210, 110, 300))
    scenario.sync()
    most, few, half = scenario.services
    for sid in most.sids()[:106]:
        most.change(sid, date_updated="2024-01-01T00:00:00Z")
    for sid in few.sids()[:100]:
        few.change(sid, date_updated="2024-01-01T00:00:00Z")
    for sid in half.sids()[:150]:
        half.change(sid, date_updated="2024-01-01T00:00:00Z")
    arguments = ["--log-format", "json", *(["--dry-run"] if dry_run else [])]
    [event] = events(scenario.sync(*arguments), "updates.unusual")
    assert (event["level"], event["account"], event["chat_service_sid"]) == (
        "warning",
        "main",
        most.sid,
    )
    assert (event["updated"], event["active"]) == (106, 210)
    assert event["changed_fields"] == {"date_updated": 106}


def test_parts_of_a_service_are_measured_together(make_scenario: MakeScenario) -> None:
    """With a chain per type each part is small, and all of the service may have changed."""
    scenario = make_scenario((180,))
    scenario.account["partition_by_type"] = True
    scenario.sync()
    service = scenario.services[0]
    for sid in service.sids():
        service.change(sid, endpoint=f"new-{sid}")
    [event] = events(scenario.sync("--log-format", "json"), "updates.unusual")
    assert (event["updated"], event["changed_fields"]) == (180, {"endpoint": 180})
