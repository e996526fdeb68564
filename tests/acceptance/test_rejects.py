"""One bad row costs one row (docs/promises.md §4): it goes whole into quarantine, the others load, and it is not absent."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from etl.simulator.world import Service
from tests.acceptance.scenario import Scenario, changes, expected_row

MakeScenario = Callable[..., Scenario]

STRANGER = "f" * 32

# Kind of damage → what to do to a good row (bytes are sent as they are), and whether its SID can still be read.
DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], Any], bool]] = {
    "sid missing": (
        lambda row: {name: value for name, value in row.items() if name != "sid"},
        False,
    ),
    "sid null": (lambda row: row | {"sid": None}, False),
    "sid a number": (lambda row: row | {"sid": 7}, False),
    "sid malformed": (lambda row: row | {"sid": "BSnot-a-sid"}, False),
    "sid of another kind": (lambda row: row | {"sid": row["chat_service_sid"]}, False),
    "credential_sid malformed": (lambda row: row | {"credential_sid": "CR1"}, True),
    "account_sid malformed": (lambda row: row | {"account_sid": "nobody"}, True),
    "chat_service_sid malformed": (lambda row: row | {"chat_service_sid": 12}, True),
    "date_created unreadable": (lambda row: row | {"date_created": "yesterday"}, True),
    "date_updated unreadable": (lambda row: row | {"date_updated": "2026-13-01T00:00:00Z"}, True),
    "date a number": (lambda row: row | {"date_updated": 1_700_000_000}, True),
    "message_types an object": (lambda row: row | {"message_types": {"new_message": True}}, True),
    "message_types a text": (lambda row: row | {"message_types": "new_message"}, True),
    "message_types not of texts": (lambda row: row | {"message_types": ["new_message", 3]}, True),
    "another service's row": (lambda row: row | {"chat_service_sid": f"IS{STRANGER}"}, True),
    "another account's row": (lambda row: row | {"account_sid": f"AC{STRANGER}"}, True),
    "NUL in a text": (lambda row: row | {"identity": "a\x00b"}, True),
    "NUL in a field not known": (lambda row: row | {"device": {"name": ["a\x00b"]}}, True),
    "half a surrogate pair": (lambda row: row | {"endpoint": "\ud83d"}, True),
    "not UTF-8": (
        lambda row: json.dumps(row | {"endpoint": "@"}).encode().replace(b'"@"', b'"\xff\xfe"'),
        True,
    ),
    "number beyond all bounds": (
        lambda row: json.dumps(row | {"n": "@"}).encode().replace(b'"@"', b"1e999999"),
        True,
    ),
    "not an object": (lambda row: row["sid"], False),
    "null": (lambda _: None, False),
    "a list": (lambda row: [row], False),
}


def spoil(service: Service, sid: str, damage: str) -> Any:
    """Send this row damaged from now on, in its usual place."""
    bad = DAMAGES[damage][0](service.bindings[sid])
    service.put(bad, key=sid)
    return bad


def quarantine(scenario: Scenario) -> list[dict[str, Any]]:
    return scenario.query("SELECT * FROM rejected_bindings ORDER BY id")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_row_costs_one_row(make_scenario: MakeScenario, damage: str) -> None:
    """A single row that cannot be loaded must not cost its page, its service or its own last good image."""
    _, readable = DAMAGES[damage]
    scenario = make_scenario((40, 10), max_page_size=15)
    scenario.sync()
    before = scenario.stored()
    service = scenario.services[0]
    sid, gone = service.sids()[4], service.sids()[30]
    bad = spoil(service, sid, damage)
    service.remove([gone])
    added = service.grow(3)
    result = scenario.sync()
    # Where a row names no SID it could be any binding's, so nothing is proven absent.
    assert changes(result) == {"inserted": 3, "rejected": 1} | ({"deleted": 1} if readable else {})
    [line] = quarantine(scenario)
    assert (line["sid"], line["account"], line["chat_service_sid"]) == (
        sid if readable else None,
        "main",
        service.sid,
    )
    assert line["resolved_at"] is None
    assert line["reason"]
    if not isinstance(bad, bytes):
        assert json.loads(line["payload"]) == bad
    new = {one: expected_row(service.bindings[one]) for one in added}
    kept = {one: row for one, row in before.items() if one != gone or not readable}
    assert scenario.stored() == kept | new


def test_every_bad_row_at_once_costs_those_rows(
    make_scenario: MakeScenario, postgres18_url: str
) -> None:
    """On PostgreSQL, which takes fewer texts than SQLite, many bad rows must still leave all the others."""
    scenario = make_scenario((60,), url=postgres18_url, max_page_size=25)
    service = scenario.services[0]
    sids = service.sids()
    bad = dict(zip(sids[::2], DAMAGES, strict=False))
    for sid, damage in bad.items():
        spoil(service, sid, damage)
    result = scenario.sync()
    assert changes(result) == {"inserted": 60 - len(DAMAGES), "rejected": len(DAMAGES)}
    assert scenario.stored() == {
        sid: expected_row(service.bindings[sid]) for sid in sids if sid not in bad
    }
    assert len(quarantine(scenario)) == len(DAMAGES)


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize(("bad", "fails"), [(16, True), (15, False)])
def test_a_scan_that_rejects_most_of_what_is_active_has_failed(
    make_scenario: MakeScenario, bad: int, fails: bool, dry: tuple[str, ...]
) -> None:
    """A change of the API that spoils most rows must not look like a service that is fresh and complete."""
    scenario = make_scenario((30, 10))
    scenario.sync()
    before = scenario.stored()
    service = scenario.services[0]
    service.touch(4)
    for sid in service.sids()[:bad]:
        service.change(sid, date_updated="half past nine")
    result = scenario.sync(*dry, expect=3 if fails else 0)
    told = result.services[service.sid]
    assert (told["status"] == "failed") is fails
    assert told["rejected"] == bad
    if fails:
        assert "for one reason: date_updated is not a date that can be read" in str(told["error"])
        assert scenario.stored() == before


def test_a_few_bad_rows_of_a_small_service_are_a_few_bad_rows(make_scenario: MakeScenario) -> None:
    """Ten rows prove no common fault, were they all that there is; one bad row costs one row."""
    scenario = make_scenario((10,))
    service = scenario.services[0]
    for sid in service.sids():
        service.change(sid, date_updated="half past nine")
    assert changes(scenario.sync()) == {"rejected": 10}
    service.grow(1)
    assert changes(scenario.sync()) == {"rejected": 10, "inserted": 1}


@pytest.mark.parametrize("damage", ["date_created unreadable", "sid missing"])
def test_the_same_bad_row_again_updates_its_line(make_scenario: MakeScenario, damage: str) -> None:
    """A bad row that stays for a year must be one line with two dates, and not a line per run."""
    scenario = make_scenario((10,))
    sid = scenario.services[0].sids()[2]
    spoil(scenario.services[0], sid, damage)
    scenario.sync()
    [first] = quarantine(scenario)
    result = scenario.sync()
    assert changes(result) == {"rejected": 1}
    [again] = quarantine(scenario)
    assert again["first_seen_at"] == first["first_seen_at"]
    assert again["last_seen_at"] > first["last_seen_at"]
    assert (again["id"], again["run_id"], again["resolved_at"]) == (
        first["id"],
        result.json["run_id"],
        None,
    )


def test_a_bad_row_that_gets_another_fault_keeps_one_line_with_the_newest(
    make_scenario: MakeScenario,
) -> None:
    """The line must show what is wrong now, or a person would look for the wrong thing."""
    scenario = make_scenario((10,))
    service = scenario.services[0]
    sid = service.sids()[2]
    good = service.bindings[sid]
    service.put(good | {"date_created": "never"}, key=sid)
    scenario.sync()
    service.put(good | {"credential_sid": "CR"}, key=sid)
    scenario.sync()
    [line] = quarantine(scenario)
    assert "credential_sid" in line["reason"]
    assert json.loads(line["payload"])["credential_sid"] == "CR"


def test_a_bad_row_is_resolved_when_it_loads_and_opens_again(make_scenario: MakeScenario) -> None:
    """A line that stays open after the row has loaded cries wolf; one that stays closed when it is bad again is silence."""
    scenario = make_scenario((10,))
    service = scenario.services[0]
    sid = service.sids()[2]
    good = service.bindings[sid]
    spoil(service, sid, "date_created unreadable")
    assert changes(scenario.sync()) == {"inserted": 9, "rejected": 1}
    service.remove([sid])
    service.put(good)
    assert changes(scenario.sync()) == {"inserted": 1}
    [line] = quarantine(scenario)
    assert line["resolved_at"] is not None
    scenario.assert_equal_to_world()
    spoil(service, sid, "date_created unreadable")
    assert changes(scenario.sync()) == {"rejected": 1}
    [again] = quarantine(scenario)
    assert (again["id"], again["resolved_at"]) == (line["id"], None)


def test_a_bad_row_without_sid_is_resolved_when_it_is_gone(make_scenario: MakeScenario) -> None:
    """Such a line can never load under a name; when the listing no longer has it, it must not stay open for ever."""
    scenario = make_scenario((10,))
    key = scenario.services[0].put("not an object")
    scenario.sync()
    scenario.services[0].remove([key])
    scenario.sync()
    [line] = quarantine(scenario)
    assert line["resolved_at"] is not None


def test_a_bad_row_in_two_services_is_two_lines(make_scenario: MakeScenario) -> None:
    """The same malformed text in two services concerns two services; one line would hide one of them."""
    scenario = make_scenario((10, 10))
    for service in scenario.services:
        service.put({"nonsense": True})
    scenario.sync()
    assert {line["chat_service_sid"] for line in quarantine(scenario)} == set(
        scenario.world.services
    )


def test_a_whole_page_of_bad_rows_deletes_nothing(make_scenario: MakeScenario) -> None:
    """When the API changes a format over night, every row is bad, and none of them is gone."""
    scenario = make_scenario((40,), max_page_size=10)
    scenario.sync()
    before = scenario.image()
    service = scenario.services[0]
    for sid in service.sids():
        spoil(service, sid, "date_updated unreadable")
    result = scenario.sync(expect=3)
    assert changes(result) == {"rejected": 40}
    assert result.totals["unchanged"] == 0
    after = scenario.image()
    assert (after["bindings"], after["binding_versions"]) == (
        before["bindings"],
        before["binding_versions"],
    )


def test_open_rejects_are_counted_with_the_service(make_scenario: MakeScenario) -> None:
    """A dashboard that watches `service_freshness` has to see that rows are missing."""
    scenario = make_scenario((10, 5))
    spoil(scenario.services[0], scenario.services[0].sids()[0], "sid malformed")
    scenario.sync()
    told = {
        row["chat_service_sid"]: row["rejected_open"]
        for row in scenario.query("SELECT * FROM service_freshness")
    }
    assert told == {scenario.services[0].sid: 1, scenario.services[1].sid: 0}
