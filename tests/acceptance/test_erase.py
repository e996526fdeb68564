"""`erase`: every trace of one identity leaves, and nothing of anybody else."""

import json
from typing import Any

import pytest

from etl.simulator.world import Service
from tests.acceptance.scenario import Result, Scenario
from tests.acceptance.test_rejects_command import hold_lease

NAME = "Zoë O'Hara +1%_\\ 日本"


def first_service(scenario: Scenario) -> Service:
    return next(iter(scenario.world.services.values()))


def settle_in(service: Service, identity: str = NAME, number: int = 3) -> list[str]:
    """Give so many bindings to one person."""
    sids = service.sids()[:number]
    for sid in sids:
        service.change(sid, identity=identity)
    return sids


def erase(scenario: Scenario, *arguments: str, identity: str = NAME, expect: int = 0) -> Result:
    result = scenario.run("erase", "--identity", identity, *arguments, expect=expect)
    assert identity not in result.out + result.err
    return result


def counted(result: Result) -> dict[str, int]:
    return {
        name: int(number) for name, number in (line.split() for line in result.out.splitlines()[2:])
    }


def everything(scenario: Scenario) -> str:
    """All text of all tables, with JSON's escapes undone."""
    names = [
        row["name"] for row in scenario.query("SELECT name FROM sqlite_master WHERE type = 'table'")
    ]
    values = [
        value
        for name in names
        for row in scenario.query(f"SELECT * FROM {name}")
        for value in row.values()
    ]
    return "\n".join(str(value) for value in values) + "\n".join(
        unescaped(str(value)) for value in values
    )


def unescaped(text: str) -> str:
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except ValueError:
        return text


def test_rows_history_and_quarantine_leave(scenario: Scenario) -> None:
    """A trace that is left anywhere breaks the promise that was made to the person who asked."""
    service = first_service(scenario)
    sids = settle_in(service, number=4)
    scenario.sync()
    service.remove(sids[:1])
    service.change(sids[1], endpoint="another")
    service.change(sids[2], date_updated="never")
    scenario.sync()
    service.put({"sid": "nonsense", "identity": NAME}, key="odd")
    scenario.sync()
    assert NAME in everything(scenario)
    others = len(scenario.query("SELECT sid FROM bindings")) - 4
    assert counted(erase(scenario)) == {
        "bindings": 4, "binding_versions": 2, "rejected_bindings": 2, "scan_staged": 0, "scan_seen": 0, "scan_absent": 0, "scan_progress": 0,
        "page_links": 0,
    }  # fmt: skip
    text = everything(scenario)
    assert NAME not in text
    assert not any(sid in text for sid in sids)
    assert len(scenario.query("SELECT sid FROM bindings")) == others
    assert scenario.query("SELECT * FROM sync_leases") == []


@pytest.mark.parametrize("other", ["Zoë", NAME.upper(), NAME + " ", NAME.replace("%_", "xx")])
def test_nobody_else_is_touched(scenario: Scenario, other: str) -> None:
    """A likeness, another case or a pattern must not cost another person's rows."""
    service = first_service(scenario)
    settle_in(service, other)
    service.put({"sid": "nonsense", "identity": other}, key="odd")
    scenario.sync()
    before = (
        scenario.query("SELECT * FROM bindings"),
        scenario.query("SELECT * FROM rejected_bindings"),
    )
    assert sum(counted(erase(scenario)).values()) == 0
    assert (
        scenario.query("SELECT * FROM bindings"),
        scenario.query("SELECT * FROM rejected_bindings"),
    ) == before


def test_hashed_rows_are_found_by_the_clear_name(scenario: Scenario) -> None:
    """With `privacy.identity: hmac` the person still asks by name."""
    service = first_service(scenario)
    scenario.settings["privacy"] = {"identity": "hmac", "key": "a key"}
    sids = settle_in(service)
    scenario.sync()
    for sid in sids:
        service.change(sid, endpoint="another phone")
    scenario.sync()
    assert NAME not in everything(scenario)
    found = counted(erase(scenario))
    assert (found["bindings"], found["binding_versions"]) == (3, 3)
    assert not any(sid in everything(scenario) for sid in sids)


def test_a_dry_run_counts_the_same_and_writes_nothing(scenario: Scenario) -> None:
    """An operator decides by these numbers, and may only want to know whether there is anything at all."""
    settle_in(first_service(scenario))
    scenario.sync()
    before = everything(scenario)
    planned = counted(erase(scenario, "--dry-run"))
    assert everything(scenario) == before
    assert counted(erase(scenario)) == planned
    assert planned["bindings"] == 3


def test_rejected_rows_are_found_however_they_hold_the_name(scenario: Scenario) -> None:
    """A row is in quarantine because it is malformed; the name in it may be escaped, nested, or in text that is no JSON."""
    service = first_service(scenario)
    rows: list[Any] = [
        {"sid": None, "identity": NAME},
        {"sid": None, "identity": [NAME]},
        [NAME],
        json.dumps({"identity": NAME, "sid": 7}, ensure_ascii=False).encode(),
    ]
    for place, row in enumerate(rows):
        service.put(row, key=f"odd{place}")
    scenario.sync()
    line = scenario.query("SELECT * FROM rejected_bindings")[0]
    scenario.execute(
        "INSERT INTO rejected_bindings "
        "(fingerprint, run_id, account, chat_service_sid, reason, payload, first_seen_at, last_seen_at) "
        "VALUES ('#broken', 1, 'main', :service, 'no JSON', :payload, :at, :at)",
        service=service.sid,
        payload=f'{{"identity": {json.dumps(NAME, ensure_ascii=False)}, "endpoint": "\\xff"}}',
        at=line["first_seen_at"],
    )
    assert counted(erase(scenario))["rejected_bindings"] == len(rows) + 1
    assert scenario.query("SELECT * FROM rejected_bindings") == []


@pytest.mark.parametrize(
    "row",
    [
        r'{"identity": "jos\u00e9 \"x\"", "endpoint": "\ud83d", "sid": "%s"}',
        r'{"identity": "jos\u00e9 \u0022x\u0022", "endpoint": "\udc00", "sid": null}',
        r'{"url": "https:\/\/host\/B?Identity=jos%%C3%%A9+%%22x%%22", "sid": 7}',
    ],
)
def test_rejected_rows_are_found_however_they_spell_the_name(scenario: Scenario, row: str) -> None:
    """Half a character beside an escaped name made the row unreadable, and the erasure passed it over."""
    service = first_service(scenario)
    spelled = row % service.sids()[0] if "%s" in row else row % ()
    service.put(spelled.encode(), key="odd")
    scenario.sync()
    assert len(scenario.query("SELECT * FROM rejected_bindings")) == 1
    assert counted(erase(scenario, identity='josé "x"'))["rejected_bindings"] == 1
    assert scenario.query("SELECT * FROM rejected_bindings") == []


def test_what_was_dropped_names_nobody_in_the_quarantine_either(scenario: Scenario) -> None:
    """With `privacy.identity: drop` a rejected row was where the name could still be read."""
    service = first_service(scenario)
    scenario.settings["privacy"] = {"identity": "drop"}
    [sid] = settle_in(service, number=1)
    scenario.sync()
    service.change(sid, date_updated="never")
    scenario.sync()
    assert len(scenario.query("SELECT * FROM rejected_bindings")) == 1
    assert NAME not in everything(scenario)
    assert sum(counted(erase(scenario)).values()) == 0


def test_rows_hashed_by_a_key_of_the_past_are_found(scenario: Scenario) -> None:
    """After a change of `privacy.key` what was deleted before, and all history, keeps the old key's hashes."""
    service = first_service(scenario)
    sids = settle_in(service, number=3)
    scenario.settings["privacy"] = {"identity": "hmac", "key": "the first key"}
    scenario.sync()
    service.remove(sids[:2])
    scenario.sync()
    scenario.settings["privacy"] = {"identity": "hmac", "key": "the second key"}
    scenario.run("rekey")
    scenario.sync()
    scenario.execute("DELETE FROM bindings WHERE sid = :sid", sid=sids[2])
    scenario.execute("DELETE FROM binding_versions WHERE sid = :sid", sid=sids[2])
    missed = erase(scenario, "--dry-run")
    assert sum(counted(missed).values()) == 0
    assert "privacy.old_keys does not name" in missed.err
    scenario.settings["privacy"]["old_keys"] = ["the first key"]
    result = erase(scenario)
    assert "privacy.old_keys" not in result.err
    found = counted(result)
    assert (found["bindings"], found["binding_versions"]) == (2, 2)
    assert not any(sid in everything(scenario) for sid in sids)


def test_unfinished_scans_that_met_the_identity_are_dropped(scenario: Scenario) -> None:
    """What an interrupted scan has staged would bring the identity back, from before the erasure."""
    service = first_service(scenario)
    settle_in(service)
    scenario.simulator.faults.add("forbidden", only_pages=[2], service=service.sid)
    scenario.sync(expect=3)
    assert NAME in everything(scenario)
    assert counted(erase(scenario))["scan_progress"] == 1
    assert NAME not in everything(scenario)


def test_unfinished_scans_narrowed_to_the_identity_are_dropped(scenario: Scenario) -> None:
    """Their links hold the name itself: none is stored, and what they have met leaves."""
    service = first_service(scenario)
    scenario.account["page_size"] = 2
    settle_in(service, number=5)
    scenario.simulator.faults.add("forbidden", only_pages=[2], service=service.sid)
    scenario.run("backfill", "--identity", NAME, "--identity", "somebody else", expect=None)
    stages = scenario.query("SELECT next_link FROM scan_progress")
    assert {stage["next_link"] for stage in stages} == {""}
    assert counted(erase(scenario))["scan_progress"] == 1
    assert scenario.query("SELECT * FROM scan_progress WHERE pages > 0") == []


def test_a_service_that_is_worked_on_is_not_touched(scenario: Scenario) -> None:
    """A run that is alive would publish the identity again a moment later."""
    service = first_service(scenario)
    settle_in(service)
    scenario.sync()
    hold_lease(scenario, service.sid)
    before = everything(scenario)
    assert service.sid in erase(scenario, expect=6).err
    assert everything(scenario) == before


def test_a_run_elsewhere_does_not_stand_in_the_way(scenario: Scenario) -> None:
    """A request for erasure must not wait until no service at all is being read."""
    one, other = scenario.world.services.values()
    settle_in(one)
    scenario.sync()
    hold_lease(scenario, other.sid)
    assert counted(erase(scenario))["bindings"] == 3


def test_the_next_sync_is_said_to_bring_it_back(scenario: Scenario) -> None:
    """An operator who only erases here would believe that the person is gone for good."""
    settle_in(first_service(scenario))
    scenario.sync()
    assert "deleted at Twilio too" in erase(scenario).err
    assert scenario.sync().totals["inserted"] == 3


def test_an_identity_that_is_nowhere_is_told(scenario: Scenario) -> None:
    """Whoever misspells a name must not believe that its owner's request has been met."""
    scenario.sync()
    result = erase(scenario, identity="nobody of this name")
    assert "no trace of the identity; check that it is spelled" in result.out
    assert "next sync" not in result.err


def test_an_empty_identity_is_refused(scenario: Scenario) -> None:
    """An unset variable in a script must not be taken for a person."""
    assert scenario.run("erase", "--identity", "", expect=2).out == ""
