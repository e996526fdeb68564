"""`erase`: every trace of one identity leaves, and nothing of anybody else."""

import json
from typing import Any

import pytest

from etl.simulator.world import Service
from tests.acceptance.test_rejects_command import hold_lease
from tests.acceptance.trial import Result, Trial

NAME = "Zoë O'Hara +1%_\\ 日本"


def first_service(trial: Trial) -> Service:
    return next(iter(trial.world.services.values()))


def settle_in(service: Service, identity: str = NAME, number: int = 3) -> list[str]:
    """Give so many bindings to one person."""
    sids = service.sids()[:number]
    for sid in sids:
        service.change(sid, identity=identity)
    return sids


def erase(trial: Trial, *arguments: str, identity: str = NAME, expect: int = 0) -> Result:
    result = trial.run("erase", "--identity", identity, *arguments, expect=expect)
    assert identity not in result.out + result.err
    return result


def counted(result: Result) -> dict[str, int]:
    return {
        name: int(number) for name, number in (line.split() for line in result.out.splitlines()[2:])
    }


def everything(trial: Trial) -> str:
    """All text of all tables, with JSON's escapes undone."""
    names = [
        row["name"] for row in trial.query("SELECT name FROM sqlite_master WHERE type = 'table'")
    ]
    values = [
        value
        for name in names
        for row in trial.query(f"SELECT * FROM {name}")
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


def test_rows_history_and_quarantine_leave(trial: Trial) -> None:
    """A trace that is left anywhere breaks the promise that was made to the person who asked."""
    service = first_service(trial)
    sids = settle_in(service, number=4)
    trial.sync()
    service.remove(sids[:1])
    service.change(sids[1], endpoint="another")
    service.change(sids[2], date_updated="never")
    trial.sync()
    service.put({"sid": "nonsense", "identity": NAME}, key="odd")
    trial.sync()
    assert NAME in everything(trial)
    others = len(trial.query("SELECT sid FROM bindings")) - 4
    assert counted(erase(trial)) == {
        "bindings": 4, "binding_versions": 2, "rejected_bindings": 2, "scan_staged": 0, "scan_seen": 0, "scan_absent": 0, "scan_progress": 0,
        "page_links": 0,
    }  # fmt: skip
    text = everything(trial)
    assert NAME not in text
    assert not any(sid in text for sid in sids)
    assert len(trial.query("SELECT sid FROM bindings")) == others
    assert trial.query("SELECT * FROM sync_leases") == []


@pytest.mark.parametrize("other", ["Zoë", NAME.upper(), NAME + " ", NAME.replace("%_", "xx")])
def test_nobody_else_is_touched(trial: Trial, other: str) -> None:
    """A likeness, another case or a pattern must not cost another person's rows."""
    service = first_service(trial)
    settle_in(service, other)
    service.put({"sid": "nonsense", "identity": other}, key="odd")
    trial.sync()
    before = trial.query("SELECT * FROM bindings"), trial.query("SELECT * FROM rejected_bindings")
    assert sum(counted(erase(trial)).values()) == 0
    assert (
        trial.query("SELECT * FROM bindings"),
        trial.query("SELECT * FROM rejected_bindings"),
    ) == before


def test_hashed_rows_are_found_by_the_clear_name(trial: Trial) -> None:
    """With `privacy.identity: hmac` the person still asks by name."""
    service = first_service(trial)
    trial.settings["privacy"] = {"identity": "hmac", "key": "a key"}
    sids = settle_in(service)
    trial.sync()
    for sid in sids:
        service.change(sid, endpoint="another phone")
    trial.sync()
    assert NAME not in everything(trial)
    found = counted(erase(trial))
    assert (found["bindings"], found["binding_versions"]) == (3, 3)
    assert not any(sid in everything(trial) for sid in sids)


def test_a_dry_run_counts_the_same_and_writes_nothing(trial: Trial) -> None:
    """An operator decides by these numbers, and may only want to know whether there is anything at all."""
    settle_in(first_service(trial))
    trial.sync()
    before = everything(trial)
    planned = counted(erase(trial, "--dry-run"))
    assert everything(trial) == before
    assert counted(erase(trial)) == planned
    assert planned["bindings"] == 3


def test_rejected_rows_are_found_however_they_hold_the_name(trial: Trial) -> None:
    """A row is in quarantine because it is malformed; the name in it may be escaped, nested, or in text that is no JSON."""
    service = first_service(trial)
    rows: list[Any] = [
        {"sid": None, "identity": NAME},
        {"sid": None, "identity": [NAME]},
        [NAME],
        json.dumps({"identity": NAME, "sid": 7}, ensure_ascii=False).encode(),
    ]
    for place, row in enumerate(rows):
        service.put(row, key=f"odd{place}")
    trial.sync()
    line = trial.query("SELECT * FROM rejected_bindings")[0]
    trial.execute(
        "INSERT INTO rejected_bindings "
        "(fingerprint, run_id, account, chat_service_sid, reason, payload, first_seen_at, last_seen_at) "
        "VALUES ('#broken', 1, 'main', :service, 'no JSON', :payload, :at, :at)",
        service=service.sid,
        payload=f'{{"identity": {json.dumps(NAME, ensure_ascii=False)}, "endpoint": "\\xff"}}',
        at=line["first_seen_at"],
    )
    assert counted(erase(trial))["rejected_bindings"] == len(rows) + 1
    assert trial.query("SELECT * FROM rejected_bindings") == []


@pytest.mark.parametrize(
    "row",
    [
        r'{"identity": "jos\u00e9 \"x\"", "endpoint": "\ud83d", "sid": "%s"}',
        r'{"identity": "jos\u00e9 \u0022x\u0022", "endpoint": "\udc00", "sid": null}',
        r'{"url": "https:\/\/host\/B?Identity=jos%%C3%%A9+%%22x%%22", "sid": 7}',
    ],
)
def test_rejected_rows_are_found_however_they_spell_the_name(trial: Trial, row: str) -> None:
    """Half a character beside an escaped name made the row unreadable, and the erasure passed it over."""
    service = first_service(trial)
    spelled = row % service.sids()[0] if "%s" in row else row % ()
    service.put(spelled.encode(), key="odd")
    trial.sync()
    assert len(trial.query("SELECT * FROM rejected_bindings")) == 1
    assert counted(erase(trial, identity='josé "x"'))["rejected_bindings"] == 1
    assert trial.query("SELECT * FROM rejected_bindings") == []


def test_what_was_dropped_names_nobody_in_the_quarantine_either(trial: Trial) -> None:
    """With `privacy.identity: drop` a rejected row was where the name could still be read."""
    service = first_service(trial)
    trial.settings["privacy"] = {"identity": "drop"}
    [sid] = settle_in(service, number=1)
    trial.sync()
    service.change(sid, date_updated="never")
    trial.sync()
    assert len(trial.query("SELECT * FROM rejected_bindings")) == 1
    assert NAME not in everything(trial)
    assert sum(counted(erase(trial)).values()) == 0


def test_rows_hashed_by_a_key_of_the_past_are_found(trial: Trial) -> None:
    """After a change of `privacy.key` what was deleted before, and all history, keeps the old key's hashes."""
    service = first_service(trial)
    sids = settle_in(service, number=3)
    trial.settings["privacy"] = {"identity": "hmac", "key": "the first key"}
    trial.sync()
    service.remove(sids[:2])
    trial.sync()
    trial.settings["privacy"] = {"identity": "hmac", "key": "the second key"}
    trial.run("rekey")
    trial.sync()
    trial.execute("DELETE FROM bindings WHERE sid = :sid", sid=sids[2])
    trial.execute("DELETE FROM binding_versions WHERE sid = :sid", sid=sids[2])
    missed = erase(trial, "--dry-run")
    assert sum(counted(missed).values()) == 0
    assert "privacy.old_keys does not name" in missed.err
    trial.settings["privacy"]["old_keys"] = ["the first key"]
    result = erase(trial)
    assert "privacy.old_keys" not in result.err
    found = counted(result)
    assert (found["bindings"], found["binding_versions"]) == (2, 2)
    assert not any(sid in everything(trial) for sid in sids)


def test_unfinished_scans_that_met_the_identity_are_dropped(trial: Trial) -> None:
    """What an interrupted scan has put by would bring the identity back, from before the erasure."""
    service = first_service(trial)
    settle_in(service)
    trial.simulator.faults.add("forbidden", only_pages=[2], service=service.sid)
    trial.sync(expect=3)
    assert NAME in everything(trial)
    assert counted(erase(trial))["scan_progress"] == 1
    assert NAME not in everything(trial)


def test_unfinished_scans_narrowed_to_the_identity_are_dropped(trial: Trial) -> None:
    """Their links hold the name itself: none is stored, and what they have met leaves."""
    service = first_service(trial)
    trial.account["page_size"] = 2
    settle_in(service, number=5)
    trial.simulator.faults.add("forbidden", only_pages=[2], service=service.sid)
    trial.run("backfill", "--identity", NAME, "--identity", "somebody else", expect=None)
    stages = trial.query("SELECT next_link FROM scan_progress")
    assert {stage["next_link"] for stage in stages} == {""}
    assert counted(erase(trial))["scan_progress"] == 1
    assert trial.query("SELECT * FROM scan_progress WHERE pages > 0") == []


def test_a_service_that_is_worked_on_is_not_touched(trial: Trial) -> None:
    """A run that is alive would publish the identity again a moment later."""
    service = first_service(trial)
    settle_in(service)
    trial.sync()
    hold_lease(trial, service.sid)
    before = everything(trial)
    assert service.sid in erase(trial, expect=6).err
    assert everything(trial) == before


def test_a_run_elsewhere_does_not_stand_in_the_way(trial: Trial) -> None:
    """A request for erasure must not wait until no service at all is being read."""
    one, other = trial.world.services.values()
    settle_in(one)
    trial.sync()
    hold_lease(trial, other.sid)
    assert counted(erase(trial))["bindings"] == 3


def test_the_next_sync_is_said_to_bring_it_back(trial: Trial) -> None:
    """An operator who only erases here would believe that the person is gone for good."""
    settle_in(first_service(trial))
    trial.sync()
    assert "deleted at Twilio too" in erase(trial).err
    assert trial.sync().totals["inserted"] == 3


def test_an_identity_that_is_nowhere_is_told(trial: Trial) -> None:
    """Whoever misspells a name must not believe that its owner's request has been met."""
    trial.sync()
    result = erase(trial, identity="nobody of this name")
    assert "no trace of the identity; check that it is spelled" in result.out
    assert "next sync" not in result.err


def test_an_empty_identity_is_refused(trial: Trial) -> None:
    """An unset variable in a script must not be taken for a person."""
    assert trial.run("erase", "--identity", "", expect=2).out == ""
