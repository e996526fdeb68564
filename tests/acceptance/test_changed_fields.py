"""What was updated is told field by field, and most of a service at once with a warning."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.trial import Result, Trial

MakeTrial = Callable[..., Trial]


def events(result: Result, name: str) -> list[dict[str, Any]]:
    """Lines of the log with this event, as JSON."""
    lines = [json.loads(line) for line in result.err.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


def test_changed_fields_count_the_updated_rows(make_trial: MakeTrial) -> None:
    """Whoever sees 40 updates wants to know of what, and rows that are new or back are none."""
    trial = make_trial((30, 10))
    service = trial.services[0]
    trial.sync()
    gone = service.delete(2)
    trial.sync()
    chosen = service.sids()[:4]
    service.bring_back(len(gone))
    service.grow(3)
    for sid in chosen[:3]:
        service.change(sid, endpoint=f"new-{sid}")
    service.change(chosen[2], identity="somebody else", message_types=None)
    service.change(chosen[3], firmware={"major": 1})
    planned = trial.sync("--dry-run").services
    done = trial.sync()
    expected = {"identity": 1, "endpoint": 3, "message_types": 1, "extra": 1}
    for services in (planned, done.services):
        assert services[service.sid]["updated"] == 4
        assert services[service.sid]["changed_fields"] == expected
        assert services[trial.services[1].sid]["changed_fields"] == {}
    lines = trial.query(
        "SELECT changed_fields FROM sync_scans WHERE run_id = :run_id AND chat_service_sid = :sid",
        run_id=done.json["run_id"],
        sid=service.sid,
    )
    assert [json.loads(line["changed_fields"]) for line in lines] == [expected]
    assert trial.sync().services[service.sid]["changed_fields"] == {}


def test_changed_fields_of_a_group_are_added_up(make_trial: MakeTrial) -> None:
    """Shards are one run to whoever started them."""
    trial = make_trial((20,))
    trial.sync()
    sids = trial.services[0].sids()
    for sid in sids[:2]:
        trial.services[0].change(sid, endpoint="a")
        trial.sync("--run-group", "night")
    [service] = trial.run("status", "--run-group", "night", "--json").json["services"]
    assert service["changed_fields"] == {"endpoint": 2}


@pytest.mark.parametrize("dry_run", [False, True])
def test_most_of_a_service_updated_at_once_is_told(make_trial: MakeTrial, dry_run: bool) -> None:
    """An API that corrects all dates at once would pass for a busy day."""
    trial = make_trial((210, 110, 300))
    trial.sync()
    most, few, half = trial.services
    for sid in most.sids()[:106]:
        most.change(sid, date_updated="2024-01-01T00:00:00Z")
    for sid in few.sids()[:100]:
        few.change(sid, date_updated="2024-01-01T00:00:00Z")
    for sid in half.sids()[:150]:
        half.change(sid, date_updated="2024-01-01T00:00:00Z")
    arguments = ["--log-format", "json", *(["--dry-run"] if dry_run else [])]
    [event] = events(trial.sync(*arguments), "updates.unusual")
    assert (event["level"], event["account"], event["chat_service_sid"]) == (
        "warning",
        "main",
        most.sid,
    )
    assert (event["updated"], event["active"]) == (106, 210)
    assert event["changed_fields"] == {"date_updated": 106}


def test_parts_of_a_service_are_measured_together(make_trial: MakeTrial) -> None:
    """With a chain per type each part is small, and all of the service may have changed."""
    trial = make_trial((180,))
    trial.account["partition_by_type"] = True
    trial.sync()
    service = trial.services[0]
    for sid in service.sids():
        service.change(sid, endpoint=f"new-{sid}")
    [event] = events(trial.sync("--log-format", "json"), "updates.unusual")
    assert (event["updated"], event["changed_fields"]) == (180, {"endpoint": 180})
