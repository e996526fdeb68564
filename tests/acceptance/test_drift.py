"""Nothing drifts in silence (docs/promises.md §13): what nobody knows is loaded, told once, and listed."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.scenario import Result, Scenario
from tests.acceptance.test_changed_fields import events

MakeScenario = Callable[..., Scenario]


def sync(scenario: Scenario, *arguments: str) -> Result:
    return scenario.sync("--log-format", "json", *arguments)


def told(result: Result) -> list[tuple[str, str, str]]:
    """What the events said, in order."""
    return sorted(
        (event["chat_service_sid"], event["kind"], event["name"])
        for event in events(result, "drift.seen")
    )


def listed(scenario: Scenario) -> dict[tuple[str, str, str], int]:
    """What `status` lists: how many rows have it."""
    lines: list[dict[str, Any]] = scenario.run("status", "--json").json["drift"]
    assert all(line["first_seen_at"].endswith("Z") for line in lines)
    return {(one["chat_service_sid"], one["kind"], one["name"]): one["rows"] for one in lines}


def drift_everywhere(scenario: Scenario) -> dict[tuple[str, str, str], int]:
    """The first service with all that can be new, and what should be told of it."""
    service = scenario.services[0]
    sids = service.sids()
    for sid in sids[:3]:
        service.change(sid, firmware={"major": 1}, binding_type="WebPush")
    for sid in sids[2:7]:
        service.change(sid, message_types=["new_message", "twilio.sync.event"])
    for sid in sids[5:9]:
        service.change(sid, date_created="Thu, 04 May 2023 09:42:00 +0000")
    service.change(sids[8], date_updated="2023-05-04T09:42:00.125+02:00")
    counted = {
        ("field", "firmware"): 3,
        ("binding_type", "webpush"): 3,
        ("message_type", "twilio.sync.event"): 5,
        ("time_form", "Aaa, 00 Aaa 0000 00:00:00 +0000"): 4,
        ("time_form", "0000-00-00T00:00:00.000+00:00"): 1,
    }
    return {(service.sid, kind, name): number for (kind, name), number in counted.items()}


def test_what_is_known_today_is_no_drift(scenario: Scenario) -> None:
    """Whoever is told of drift that is none stops listening."""
    for service in scenario.services:
        sids = service.sids()
        service.change(sids[0], binding_type="TWILSOCK", message_types=["Added_To_Channel "])
        service.change(sids[1], binding_type="gcm", message_types=["invited_to_channel"])
        service.change(sids[2], message_types=None, date_created=None, credential_sid=None)
        service.change(sids[3], message_types=["twilio.channel.removed_from_channel", ""])
    assert told(sync(scenario)) == []
    assert listed(scenario) == {}


@pytest.mark.parametrize("first_load", [True, False])
def test_what_nobody_knows_is_loaded_told_once_and_listed(
    scenario: Scenario, first_load: bool
) -> None:
    """A field, a type or a form of time that is new would else be noticed by chance, years later."""
    if not first_load:
        sync(scenario)
    expected = drift_everywhere(scenario)
    assert told(sync(scenario)) == sorted(expected)
    assert listed(scenario) == expected
    assert told(sync(scenario)) == told(sync(scenario, "--fresh")) == []
    assert listed(scenario) == expected


def test_the_rows_that_have_it_are_counted_whatever_becomes_of_them(scenario: Scenario) -> None:
    """A count that only grows would call a thing wide-spread that is long gone."""
    expected = drift_everywhere(scenario)
    service = scenario.services[0]
    sids = service.sids()
    sync(scenario)
    since = scenario.query("SELECT name, first_seen_at FROM schema_drift ORDER BY name")
    service.change(sids[0], binding_type="apn")
    service.change(sids[20], firmware=None)
    service.remove(sids[2:4])
    sync(scenario)
    for kind, name, number in (
        ("field", "firmware", 3),
        ("binding_type", "webpush", 1),
        ("message_type", "twilio.sync.event", 3),
    ):
        expected[service.sid, kind, name] = number
    assert listed(scenario) == expected
    scenario.run("erase", "--identity", service.bindings[sids[1]]["identity"])
    assert listed(scenario)[service.sid, "binding_type", "webpush"] == 0
    assert scenario.query("SELECT name, first_seen_at FROM schema_drift ORDER BY name") == since


def test_each_service_and_each_part_of_it_tells_its_own(scenario: Scenario) -> None:
    """Parts are read side by side, and what two of them meet at once is told once."""
    scenario.account["partition_by_type"] = True
    for service in scenario.services:
        for sid in service.sids():
            service.change(sid, firmware=1)
    expected = {(one.sid, "field", "firmware"): len(one.bindings) for one in scenario.services}
    assert told(sync(scenario)) == sorted(expected)
    assert listed(scenario) == expected


def test_a_dry_run_writes_no_drift(scenario: Scenario) -> None:
    """It writes nothing at all; the run after it tells."""
    expected = drift_everywhere(scenario)
    sync(scenario, "--dry-run")
    assert listed(scenario) == {}
    assert told(sync(scenario)) == sorted(expected)


def test_names_without_end_fill_nothing(make_scenario: MakeScenario) -> None:
    """A server that makes up a name for each row must not fill the table, the log or the memory."""
    scenario = make_scenario((130,))
    service = scenario.services[0]
    for number, sid in enumerate(service.sids()):
        service.change(sid, **{f"field_{number}": number}, message_types=[f"type-{number}"])
    service.change(service.sids()[0], **{"x" * 300: 1, "\x1b[2J": 1})
    result = sync(scenario)
    assert len(told(result)) == len(listed(scenario)) == 100
    assert scenario.stored() == scenario.expected()
    assert (
        "\x1b" not in scenario.run("status").out + scenario.run("status", "--json").out + result.err
    )


def test_no_value_is_among_what_is_told(scenario: Scenario) -> None:
    """The value of a field nobody knows may be a person's name."""
    service = scenario.services[0]
    sid = service.sids()[0]
    service.change(sid, owner={"name": "Ada Lovelace"}, date_created="2019-12-24 18:30:11+01:00")
    result = sync(scenario)
    page = scenario.folder / "report.html"
    scenario.run("report", "--out", str(page))
    shown = result.err + scenario.run("status").out + page.read_text(encoding="utf-8")
    lines = str(scenario.query("SELECT kind, name FROM schema_drift"))
    assert "owner" in shown
    assert "0000-00-00 00:00:00+00:00" in shown
    for secret in ("Ada", "Lovelace", "2019-12-24 18:30"):
        assert secret not in shown + lines


def test_a_reject_that_loads_at_last_tells_what_is_new(scenario: Scenario) -> None:
    """Rows come in through `rejects retry` as well."""
    service = scenario.services[0]
    sid = service.sids()[0]
    row = service.bindings[sid]
    service.put(row | {"date_created": "never"})
    sync(scenario)
    service.put(row | {"firmware": 1})
    result = scenario.run("rejects", "retry", "--json", "--log-format", "json")
    assert told(result) == [(service.sid, "field", "firmware")]
    assert listed(scenario) == {(service.sid, "field", "firmware"): 1}


def test_names_that_privacy_hides_are_not_told(scenario: Scenario) -> None:
    """An app that names a field or a type after a person would write that person into the log."""
    scenario.settings["privacy"] = {"identity": "hmac", "endpoint": "hmac", "key": "k" * 32}
    service = scenario.services[0]
    sids = service.sids()
    for sid in sids[:2]:
        service.change(
            sid,
            identity="ada.lovelace",
            binding_type="web-ada.lovelace",
            message_types=["new_message", "typing", "for-ada.lovelace"],
            **{"of ada.lovelace": 1, "firmware": 1},
        )
    service.change(sids[2], binding_type="web", message_types=["typing"])
    result = sync(scenario)
    names = {("field", "firmware"): 2, ("binding_type", "web"): 1, ("message_type", "typing"): 3}
    assert listed(scenario) == {(service.sid, *name): rows for name, rows in names.items()}
    assert "lovelace" not in result.err + str(scenario.query("SELECT * FROM schema_drift"))
