"""`rejects list`, `retry` and `discard`: the quarantine, seen from outside."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from etl.simulator.world import Service
from tests.acceptance.scenario import Scenario

BAD_DATE = "the day before yesterday"
GOOD_DATE = "2024-02-03T04:05:06Z"


def first_service(scenario: Scenario) -> Service:
    return next(iter(scenario.world.services.values()))


def break_rows(service: Service, number: int) -> list[str]:
    """Give so many bindings a date that cannot be read."""
    sids = service.sids()[:number]
    for sid in sids:
        service.change(sid, date_updated=BAD_DATE)
    return sids


def open_rejects(scenario: Scenario) -> list[dict[str, Any]]:
    return scenario.query("SELECT * FROM rejected_bindings WHERE resolved_at IS NULL ORDER BY id")


def retry(scenario: Scenario, *arguments: str, expect: int = 0) -> dict[str, Any]:
    return scenario.run("rejects", "retry", "--json", *arguments, expect=expect).json


def results(document: dict[str, Any]) -> dict[str | None, str]:
    return {
        one["sid"]: one["result"] for service in document["services"] for one in service["rejects"]
    }


def test_list_names_the_rows_and_keeps_the_payload_back(scenario: Scenario) -> None:
    """A terminal, its scrollback or a log of `--json` would hold identities that nobody asked to see."""
    service = first_service(scenario)
    (sid,) = break_rows(service, 1)
    scenario.sync()
    identity = service.bindings[sid]["identity"]
    shown = scenario.run("rejects", "list")
    as_json = scenario.run("rejects", "list", "--json")
    assert sid in shown.out
    assert "date_updated" in shown.out
    assert identity not in shown.out + shown.err + as_json.out + as_json.err
    assert [one["sid"] for one in as_json.json["rejects"]] == [sid]
    (whole,) = scenario.run("rejects", "list", "--json", "--payload").json["rejects"]
    assert json.loads(whole["payload"])["identity"] == identity


def test_list_without_json_refuses_payloads(scenario: Scenario) -> None:
    """A payload that is printed as a table would put identities on a screen."""
    assert scenario.run("rejects", "list", "--payload", expect=2).out == ""


def test_list_can_be_confined_to_a_service(scenario: Scenario) -> None:
    """An operator who looks into one service must not have to search among all others."""
    one, other = scenario.world.services.values()
    (sid,) = break_rows(one, 1)
    (foreign,) = break_rows(other, 1)
    scenario.sync()
    out = scenario.run("rejects", "list", "--service", one.sid).out
    assert sid in out
    assert foreign not in out
    assert scenario.run("rejects", "discard", "--service", one.sid, "--json").json == {
        "discarded": 1
    }
    assert [line["sid"] for line in open_rejects(scenario)] == [foreign]


def test_retry_loads_what_is_good_now_closes_what_is_gone_and_keeps_the_rest(
    scenario: Scenario,
) -> None:
    """A reject that was mended, or is gone, would stay in quarantine until somebody looked, and a bad one must not vanish."""
    service = first_service(scenario)
    mended, gone, still_bad = break_rows(service, 3)
    scenario.sync()
    service.change(mended, date_updated=GOOD_DATE)
    service.remove([gone])
    service.change(still_bad, date_updated="never", date_created="never")
    document = retry(scenario)
    assert results(document) == {mended: "loaded", gone: "gone", still_bad: "rejected"}
    assert document["totals"]["inserted"] == 1
    assert document["totals"]["rejected"] == 1
    (line,) = open_rejects(scenario)
    assert line["sid"] == still_bad
    assert "never" in line["payload"]
    assert line["run_id"] == document["run_id"]
    assert line["last_seen_at"] > line["first_seen_at"]
    del service.bindings[still_bad]
    scenario.assert_equal_to_world()


def test_more_living_rejects_than_are_asked_for_at_once_load(scenario: Scenario) -> None:
    """Were all portions staged under one number, a service with many rejects could never be retried."""
    service = first_service(scenario)
    service.grow(450)
    sids = break_rows(service, 450)
    scenario.sync()
    for sid in sids[1:]:
        service.change(sid, date_updated=GOOD_DATE)
    document = retry(scenario)
    assert document["totals"]["inserted"] == 449
    assert document["totals"]["rejected"] == 1
    assert [line["sid"] for line in open_rejects(scenario)] == sids[:1]
    del service.bindings[sids[0]]
    scenario.assert_equal_to_world()


def test_a_retried_row_is_published_like_a_scan_does(scenario: Scenario) -> None:
    """Without a past image of the replaced row, or with a lost `first_seen_at`, the history would be wrong for ever."""
    service = first_service(scenario)
    scenario.sync()
    first_seen = {
        row["sid"]: row["first_seen_at"]
        for row in scenario.query("SELECT sid, first_seen_at FROM bindings")
    }
    changed, returned = service.sids()[:2]
    service.remove([returned])
    scenario.sync()
    service.bring_back(1)
    for sid in (changed, returned):
        service.change(sid, date_updated=BAD_DATE)
    scenario.sync()
    for sid in (changed, returned):
        service.change(sid, date_updated=GOOD_DATE)
    totals = retry(scenario)["totals"]
    assert (totals["updated"], totals["restored"], totals["inserted"]) == (1, 1, 0)
    versions = scenario.query("SELECT sid, change FROM binding_versions ORDER BY id")
    assert [(one["sid"], one["change"]) for one in versions if one["sid"] == changed] == [
        (changed, "updated")
    ]
    assert [one["change"] for one in versions if one["sid"] == returned] == ["deleted", "restored"]
    now = {
        row["sid"]: row["first_seen_at"]
        for row in scenario.query("SELECT sid, first_seen_at FROM bindings")
    }
    assert now == first_seen
    scenario.assert_equal_to_world()
    assert scenario.sync().totals["unchanged"] == 350


def test_a_row_whose_sid_can_be_read_today_is_asked_for(scenario: Scenario) -> None:
    """What an older program could not read would wait for ever, although today's program can."""
    service = first_service(scenario)
    (sid,) = break_rows(service, 1)
    scenario.sync()
    (line,) = open_rejects(scenario)
    scenario.execute(
        "UPDATE rejected_bindings SET sid = NULL, fingerprint = '#older' WHERE id = :id",
        id=line["id"],
    )
    assert results(retry(scenario)) == {sid: "rejected"}
    (moved,) = open_rejects(scenario)
    assert moved["sid"] == sid
    assert moved["id"] != line["id"]
    service.change(sid, date_updated=GOOD_DATE)
    assert results(retry(scenario)) == {sid: "loaded"}
    scenario.assert_equal_to_world()


def test_a_row_without_a_readable_sid_stays(scenario: Scenario) -> None:
    """A row that nobody can ask for must not be thrown away as if it were dealt with."""
    first_service(scenario).put({"sid": "nonsense"}, key="odd")
    scenario.sync()
    document = retry(scenario)
    assert results(document) == {None: "rejected"}
    assert document["status"] == "succeeded"
    assert len(open_rejects(scenario)) == 1


def test_nothing_to_retry_is_no_run(scenario: Scenario) -> None:
    """A retry from cron that finds nothing must not fill the ledger."""
    assert scenario.run("rejects", "retry").out == "no open rejects\n"
    assert retry(scenario)["services"] == []
    assert scenario.query("SELECT * FROM sync_runs") == []


def test_rejects_that_the_api_says_nothing_of_stay_open(scenario: Scenario) -> None:
    """Without a word from the API a row is neither gone nor loaded, and the exit code has to say that work is left."""
    service = first_service(scenario)
    sids = break_rows(service, 2)
    scenario.sync()
    for sid in sids:
        service.change(sid, date_updated=GOOD_DATE)
    once = scenario.simulator.faults.add("forbidden", on="binding", times=1)
    document = retry(scenario, expect=3)
    assert sorted(results(document).values()) == ["loaded", "unanswered"]
    scenario.simulator.faults.remove(once)
    always = scenario.simulator.faults.add("forbidden", on="binding")
    assert retry(scenario, expect=4)["services"][0]["status"] == "failed"
    assert len(open_rejects(scenario)) == 1
    scenario.simulator.faults.remove(always)
    retry(scenario)
    assert open_rejects(scenario) == []
    scenario.assert_equal_to_world()


def test_retry_keeps_off_a_service_that_a_run_works_on(scenario: Scenario) -> None:
    """Two writers of one service at a time could publish an older row over a newer one."""
    service = first_service(scenario)
    break_rows(service, 1)
    scenario.sync()
    hold_lease(scenario, service.sid)
    before = scenario.query("SELECT * FROM rejected_bindings")
    document = retry(scenario, expect=6)
    assert document["services"][0]["status"] == "locked"
    assert scenario.query("SELECT * FROM rejected_bindings") == before


def test_rejects_of_an_account_that_left_the_configuration_are_told(scenario: Scenario) -> None:
    """Asked for with another account's key, such bindings would all seem gone."""
    break_rows(first_service(scenario), 1)
    scenario.sync()
    scenario.account["name"] = "renamed"
    assert "not configured" in scenario.run("rejects", "retry", expect=4).out
    assert len(open_rejects(scenario)) == 1


def test_discard_closes_and_the_next_run_opens_again(scenario: Scenario) -> None:
    """A discarded row that is still bad must come back to notice, or the quarantine would hide it for ever."""
    break_rows(first_service(scenario), 2)
    scenario.sync()
    assert scenario.run("rejects", "discard").out == "2 open rejects discarded\n"
    assert open_rejects(scenario) == []
    scenario.sync()
    assert len(open_rejects(scenario)) == 2


def test_a_retry_that_cannot_begin_still_gives_json(make_scenario: Callable[..., Scenario]) -> None:
    """A program that reads standard output would break on an empty one."""
    scenario = make_scenario((3,))
    scenario.execute("UPDATE bindings_etl_version SET version_num = 'from_the_future'")
    document = retry(scenario, expect=7)
    assert (document["mode"], document["status"], document["services"]) == ("retry", "failed", [])


@pytest.mark.parametrize("verb", ["list", "retry", "discard"])
def test_a_service_that_is_none_is_refused(scenario: Scenario, verb: str) -> None:
    """A mistyped service would be answered with "nothing to do"."""
    assert (
        "is not a service SID"
        in scenario.run("rejects", verb, "--service", "nonsense", expect=2).err
    )


def hold_lease(scenario: Scenario, service_sid: str) -> None:
    """As if another run worked on the service."""
    scenario.execute(
        "INSERT INTO sync_leases (chat_service_sid, scope, owner, run_id, host, acquired_at, expires_at) "
        "VALUES (:sid, 'service', 'somebody', 99, 'elsewhere', '2020-01-01 00:00:00.000000', '2999-01-01 00:00:00.000000')",
        sid=service_sid,
    )
