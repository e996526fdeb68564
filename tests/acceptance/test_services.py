"""The services of an account: to whom they belong, and what becomes of them (docs/warehouse.md; docs/promises.md §3)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from etl.simulator import World
from tests.acceptance.scenario import Scenario

MakeScenario = Callable[..., Scenario]

ON_BOTH = pytest.mark.parametrize("url_fixture", ["sqlite_url", "postgres18_url"])


@pytest.fixture
def stocked(
    url_fixture: str, make_scenario: MakeScenario, request: pytest.FixtureRequest
) -> Scenario:
    """Two services, in the engine of the moment, that are not loaded yet."""
    return make_scenario((30, 20), url=request.getfixturevalue(url_fixture), max_page_size=10)


def add_block(scenario: Scenario, name: str, *, first: bool = False, **changed: object) -> None:
    """One more block of the file, like that of the account `main` save for what is changed."""
    block = {**scenario.account, **changed, "name": name}
    accounts = scenario.settings["accounts"]
    scenario.settings["accounts"] = [block, *accounts] if first else [*accounts, block]


def readers(scenario: Scenario) -> dict[str, set[str]]:
    """Under which accounts' names the rows of each service stand."""
    found: dict[str, set[str]] = {}
    rows = scenario.query("SELECT DISTINCT account, chat_service_sid FROM bindings")
    for row in rows:
        found.setdefault(row["chat_service_sid"], set()).add(row["account"])
    return found


@ON_BOTH
def test_a_service_of_two_accounts_belongs_to_the_first_that_reads_it(stocked: Scenario) -> None:
    """Both would take each other's lease and throw each other's stage away, run after run."""
    add_block(stocked, "again")
    for number in range(2):
        result = stocked.sync()
        told = {(one["account"], one["status"]): one for one in result.json["services"]}
        assert set(told) == {("main", "published"), ("again", "skipped")}
        assert told["again", "skipped"]["note"].startswith("account main reads this service")
        assert result.json["status"] == "succeeded"
        assert result.totals["inserted"] == (0 if number else 50)
    assert readers(stocked) == {sid: {"main"} for sid in stocked.world.services}
    assert stocked.query("SELECT count(*) AS n FROM binding_versions") == [{"n": 0}]
    stocked.assert_equal_to_world()


@ON_BOTH
@pytest.mark.parametrize("first", [False, True], ids=["below", "above"])
def test_a_copied_key_is_found_and_the_right_account_is_loaded(
    stocked: Scenario, first: bool
) -> None:
    """A copied line stopped every account, and nothing said which line it was."""
    add_block(stocked, "copy", first=first, account_sid=World(seed=9).account_sid)
    for _ in range(2):
        result = stocked.sync(expect=3)
        [failed] = [one for one in result.json["services"] if one["status"] == "failed"]
        assert (failed["account"], failed["error"]["type"]) == ("copy", "ConfigurationError")
        assert f"copy opens {stocked.world.account_sid}, which is account main" in str(failed)
        stocked.assert_equal_to_world()
    checked = stocked.run("check", "--json", expect=2)
    [fault] = [one for one in checked.json["findings"] if not one["ok"]]
    assert (fault["subject"], fault["name"]) == ("account", "copy")
    assert "which is account main" in fault["message"]


def test_check_tells_of_a_block_that_is_a_copy(make_scenario: MakeScenario) -> None:
    """A block that reads nothing is a slip, which nobody sees in a run that succeeds."""
    scenario = make_scenario((3,))
    add_block(scenario, "again")
    checked = scenario.run("check", "--json", expect=2)
    [fault] = [one for one in checked.json["findings"] if not one["ok"]]
    assert fault["message"].startswith(
        "account again has the account_sid and the key of account main"
    )
    scenario.settings["accounts"][1] |= {
        "api_key": None,
        "api_secret": None,
        "auth_token": scenario.world.auth_token,
    }
    checked = scenario.run("check", "--json")
    assert "so account again leaves it out" in checked.out


def test_an_account_that_lists_a_service_reads_it(make_scenario: MakeScenario) -> None:
    """Whoever names a service has said more than whoever takes what there is."""
    scenario = make_scenario((3, 4))
    named = scenario.services[0].sid
    add_block(scenario, "chosen", services=[named])
    scenario.sync()
    assert readers(scenario) == {named: {"chosen"}, scenario.services[1].sid: {"main"}}


def freshness(scenario: Scenario) -> dict[str, dict[str, object]]:
    """What the view tells of each service."""
    rows = scenario.query("SELECT * FROM service_freshness")
    return {row["chat_service_sid"]: row for row in rows}


def assert_figures_exact(scenario: Scenario) -> None:
    """The kept figures are what counting gives."""
    kept = scenario.query("SELECT chat_service_sid, active, deleted FROM services ORDER BY 1")
    counted = scenario.query(
        "SELECT s.chat_service_sid, COUNT(b.sid) - COUNT(b.deleted_at) AS active, "
        "COUNT(b.deleted_at) AS deleted FROM services s LEFT JOIN bindings b "
        "ON b.chat_service_sid = s.chat_service_sid GROUP BY s.chat_service_sid ORDER BY 1"
    )
    assert kept == counted


@ON_BOTH
def test_figures_stay_exact_whatever_changes_the_rows(stocked: Scenario) -> None:
    """A figure that drifts by one row is wrong for ever: nobody counts again."""
    first, second = stocked.services
    stocked.sync()
    assert_figures_exact(stocked)
    gone = first.delete(4)
    second.touch(3)
    stocked.sync()
    assert_figures_exact(stocked)
    assert freshness(stocked)[first.sid]["deleted"] == 4
    first.bring_back(1)
    stocked.backfill("--service", first.sid)
    assert_figures_exact(stocked)
    stocked.run("purge", "--deleted-before", "0h")
    assert_figures_exact(stocked)
    assert [freshness(stocked)[first.sid][name] for name in ("active", "deleted")] == [27, 0]
    identity = next(iter(second.bindings.values()))["identity"]
    stocked.run("erase", "--identity", identity)
    assert_figures_exact(stocked)
    assert freshness(stocked)[second.sid]["active"] != 20
    second.change(next(iter(second.bindings)), date_created="never")
    stocked.sync()
    second.change(next(iter(second.bindings)), date_created="2024-01-01T00:00:00Z")
    stocked.run("rejects", "retry")
    assert_figures_exact(stocked)
    stocked.settings["deletes"] = {"mode": "hard"}
    second.delete(2)
    first.bring_back(len(gone))
    stocked.sync()
    assert_figures_exact(stocked)
    stocked.account["partition_by_type"] = True
    first.delete(3)
    stocked.sync()
    assert_figures_exact(stocked)
    stocked.assert_equal_to_world()


def test_a_mistaken_sid_is_no_service(make_scenario: MakeScenario) -> None:
    """A slip in the list of services would be told as never read for ever, also once it is mended."""
    scenario = make_scenario((3,))
    real, mistaken = scenario.services[0].sid, "IS" + "f" * 32
    scenario.account["services"] = [real, mistaken]
    scenario.sync(expect=3)
    assert set(freshness(scenario)) == {real}
    assert scenario.query("SELECT chat_service_sid FROM services") == [{"chat_service_sid": real}]
    assert mistaken not in scenario.run("status", "--json").json["services"]


def test_a_service_that_answered_once_is_known_though_it_was_never_read(
    make_scenario: MakeScenario,
) -> None:
    """Its rows are missing for good reason, and somebody has to see that they are."""
    scenario = make_scenario((30,), max_page_size=10, faults=["no-list:2"])
    [service] = scenario.services
    scenario.account["services"] = [service.sid]
    scenario.sync(expect=4)
    assert freshness(scenario)[service.sid]["last_complete_at"] is None


def test_deletes_that_the_guard_holds_are_seen(make_scenario: MakeScenario, tmp_path: Path) -> None:
    """A fresh green time over 40 bindings that may be gone would be believed."""
    scenario = make_scenario((100, 5))
    scenario.sync()
    [large, _] = scenario.services
    large.delete(40)
    scenario.sync(expect=5)
    assert freshness(scenario)[large.sid]["deletes_held"] == 40
    told = scenario.run("status", "--json").json["services"]
    assert {one["chat_service_sid"]: one["deletes_held"] for one in told}[large.sid] == 40
    [line] = [one for one in scenario.run("status").out.splitlines() if one.startswith(large.sid)]
    assert "deletes held" in line
    assert "40" in line.split()
    scenario.run("report", "--out", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert "40 bindings still count that the last" in page
    scenario.sync("--allow-mass-delete")
    assert freshness(scenario)[large.sid]["deletes_held"] == 0
    scenario.run("report", "--out", str(tmp_path / "page.html"))
    assert "40 deletes held" not in (tmp_path / "page.html").read_text()


def test_names_of_services_are_kept_or_dropped(make_scenario: MakeScenario, tmp_path: Path) -> None:
    """Friendly names may name customers; whoever drops them finds none in any table or page."""
    scenario = make_scenario((3, 2))
    name = scenario.services[0].friendly_name
    scenario.sync()
    assert freshness(scenario)[scenario.services[0].sid]["friendly_name"] == name
    scenario.settings["privacy"] = {"service_names": "drop"}
    scenario.sync("--service", scenario.services[1].sid)
    assert scenario.query("SELECT DISTINCT friendly_name FROM services") == [
        {"friendly_name": None}
    ]
    scenario.run("report", "--out", str(tmp_path / "page.html"))
    assert name not in (tmp_path / "page.html").read_text()


# --- services that are gone ---


def state_of(scenario: Scenario, sid: str) -> tuple[object, bool]:
    """A service's state, and whether its rows were taken out."""
    [row] = scenario.query("SELECT state, gone_at FROM services WHERE chat_service_sid = :s", s=sid)
    return row["state"], row["gone_at"] is not None


def active(scenario: Scenario, sid: str) -> int:
    """How many of a service's bindings exist, in the view that most people use."""
    query = "SELECT count(*) AS n FROM active_bindings WHERE chat_service_sid = :s"
    count: int = scenario.query(query, s=sid)[0]["n"]
    return count


@ON_BOTH
def test_a_service_that_is_gone_at_twilio_goes(stocked: Scenario) -> None:
    """Its rows would stay in `active_bindings` for ever: people are told to push to devices that are gone."""
    stocked.sync()
    kept, gone = stocked.services
    service = stocked.world.services[gone.sid]
    stocked.world.remove_service(gone.sid)
    planned = stocked.sync("--dry-run")
    assert planned.services[gone.sid]["deleted"] == 20
    assert state_of(stocked, gone.sid) == ("active", False)
    result = stocked.sync()
    told = result.services[gone.sid]
    assert (told["status"], told["deleted"], told["error"]) == ("published", 20, None)
    assert told["note"].startswith("the service is gone at Twilio")
    assert active(stocked, gone.sid) == 0
    assert state_of(stocked, gone.sid) == ("gone", True)
    assert set(freshness(stocked)) == {kept.sid}
    assert len(stocked.query("SELECT sid FROM binding_versions WHERE change = 'deleted'")) == 20
    assert_figures_exact(stocked)
    stocked.assert_equal_to_world()
    again = stocked.sync()
    assert set(again.services) == {kept.sid}
    stocked.world.services = {**stocked.world.services, gone.sid: service}
    assert stocked.sync().services[gone.sid]["restored"] == 20
    assert state_of(stocked, gone.sid) == ("active", False)
    stocked.assert_equal_to_world()


def test_the_guard_keeps_a_large_service_that_is_gone(make_scenario: MakeScenario) -> None:
    """Thousands of rows must not vanish because a list was short; a person decides."""
    scenario = make_scenario((30, 10))
    scenario.sync()
    gone = scenario.services[0].sid
    scenario.world.remove_service(gone)
    result = scenario.sync(expect=5)
    told = result.services[gone]
    assert (told["status"], told["error"]["type"]) == ("refused", "DeletesRefused")
    assert f"retire --service {gone}" in told["error"]["message"]
    assert active(scenario, gone) == 30
    assert freshness(scenario)[gone]["deletes_held"] == 30
    assert scenario.sync("--dry-run", expect=5).services[gone]["status"] == "refused"
    assert scenario.sync("--allow-mass-delete").services[gone]["deleted"] == 30
    assert state_of(scenario, gone) == ("gone", True)


def test_a_service_that_is_only_unlisted_is_read(make_scenario: MakeScenario) -> None:
    """A list that misses a living service must not cost a row."""
    scenario = make_scenario((4, 5))
    scenario.sync()
    scenario.simulator.faults.add("hidden-row", on="services")
    hidden = scenario.world.services[min(scenario.world.services)]
    hidden.grow(2)
    result = scenario.sync()
    assert result.services[hidden.sid]["inserted"] == 2
    assert result.json["status"] == "succeeded"
    scenario.assert_equal_to_world()


@pytest.mark.parametrize("fault", ["forbidden", "gateway-404", "unauthorized", "html-200"])
def test_a_service_of_which_the_api_says_nothing_stays(
    make_scenario: MakeScenario, fault: str
) -> None:
    """Only Twilio's own 404 proves that a service is gone."""
    scenario = make_scenario((4, 5))
    scenario.sync()
    gone = scenario.services[0].sid
    scenario.world.remove_service(gone)
    scenario.simulator.faults.add(fault, on="service")
    told = scenario.sync().services[gone]
    assert (told["status"], active(scenario, gone)) == ("skipped", 4)
    assert "did not say whether it is gone" in told["note"]
    assert state_of(scenario, gone) == ("active", False)


def test_a_404_without_a_word_counts_where_a_listed_service_answers(
    make_scenario: MakeScenario,
) -> None:
    """A proxy that knows no single services answers 404 for the living too."""
    scenario = make_scenario((4, 5, 6))
    scenario.sync()
    gone = scenario.services[0].sid
    scenario.world.remove_service(gone)
    everywhere = scenario.simulator.faults.add("empty-404", on="service")
    assert scenario.sync().services[gone]["status"] == "skipped"
    scenario.simulator.faults.remove(everywhere)
    scenario.simulator.faults.add("empty-404", on="service", service=gone)
    assert scenario.sync().services[gone]["status"] == "published"
    assert active(scenario, gone) == 0


@pytest.mark.parametrize("services", [0, 2])
def test_a_key_of_another_account_proves_nothing(
    make_scenario: MakeScenario, services: int
) -> None:
    """With the wrong key every service is 404; small ones would be deleted below the guard's limits."""
    scenario = make_scenario((4, 5))
    scenario.sync()
    other = World(seed=7)
    for _ in range(services):
        other.add_service(3)
    scenario.simulator.worlds.append(other)
    scenario.account |= {"api_key": other.api_key, "api_secret": other.api_secret}
    scenario.sync(expect=None)
    assert sum(active(scenario, service.sid) for service in scenario.services) == 9
    assert {state_of(scenario, service.sid) for service in scenario.services} == {("active", False)}


def test_the_last_service_of_an_account_goes_too(make_scenario: MakeScenario) -> None:
    """An empty list is a list, where the key opens the right account."""
    scenario = make_scenario((4,))
    scenario.sync()
    [gone] = scenario.services
    scenario.world.remove_service(gone.sid)
    assert scenario.sync().services[gone.sid]["status"] == "published"
    assert (active(scenario, gone.sid), state_of(scenario, gone.sid)) == (0, ("gone", True))


def test_what_is_configured_nowhere_is_told_and_kept(make_scenario: MakeScenario) -> None:
    """Whoever takes a service out of the file has not said that its rows are to go."""
    scenario = make_scenario((4, 5))
    first, second = (service.sid for service in scenario.services)
    scenario.account["services"] = [first, second]
    scenario.sync()
    scenario.account["services"] = [first]
    scenario.sync()
    assert state_of(scenario, second) == ("unconfigured", False)
    assert freshness(scenario)[second]["state"] == "unconfigured"
    assert active(scenario, second) == 5
    scenario.account["services"] = "all"
    scenario.sync()
    assert state_of(scenario, second) == ("active", False)


def test_deletes_are_ignored_where_that_is_said(make_scenario: MakeScenario) -> None:
    """`deletes.mode: ignore` keeps rows, of services that are gone too."""
    scenario = make_scenario((30, 4))
    scenario.settings["deletes"] = {"mode": "ignore"}
    scenario.sync()
    gone = scenario.services[0].sid
    scenario.world.remove_service(gone)
    scenario.sync()
    assert (active(scenario, gone), state_of(scenario, gone)) == (30, ("gone", True))


# --- the command `retire` ---


@ON_BOTH
def test_retire_takes_out_what_the_guard_has_kept(stocked: Scenario) -> None:
    """A person who knows that a service is gone needs one command, and not a lifted guard for all."""
    stocked.sync()
    gone = stocked.services[0].sid
    stocked.world.remove_service(gone)
    stocked.sync(expect=5)
    before = stocked.image()
    planned = stocked.run("retire", "--service", gone, "--dry-run", "--json")
    assert (planned.json["dry_run"], planned.json["run_id"]) == (True, None)
    assert planned.services[gone]["deleted"] == 30
    assert stocked.image() == before
    done = stocked.run("retire", "--service", gone, "--json")
    assert (done.json["mode"], done.json["status"]) == ("retire", "succeeded")
    assert (done.services[gone]["status"], done.totals["deleted"]) == ("published", 30)
    assert (active(stocked, gone), state_of(stocked, gone)) == (0, ("gone", True))
    assert set(freshness(stocked)) == {stocked.services[0].sid}
    assert stocked.query("SELECT run_id FROM bindings WHERE chat_service_sid = :s LIMIT 1", s=gone)
    stocked.sync()
    stocked.assert_equal_to_world()


def test_retire_leaves_what_is_alive(make_scenario: MakeScenario) -> None:
    """A slip in a SID must not cost a living service."""
    scenario = make_scenario((4, 5))
    scenario.sync()
    alive = scenario.services[0].sid
    result = scenario.run("retire", "--service", alive, "--json", expect=5)
    assert "alive at Twilio, and account main" in result.services[alive]["error"]["message"]
    assert (active(scenario, alive), state_of(scenario, alive)) == (4, ("active", False))
    scenario.run("retire", "--service", "IS" + "f" * 32, expect=2)
    scenario.run("retire", expect=2)


@pytest.mark.parametrize("fault", ["forbidden", "empty-404", "gateway-404"])
def test_retire_needs_twilios_word(make_scenario: MakeScenario, fault: str) -> None:
    """What a proxy says of a service is no proof, for a person either."""
    scenario = make_scenario((4, 5))
    scenario.sync()
    gone = scenario.services[0].sid
    scenario.world.remove_service(gone)
    scenario.simulator.faults.add(fault, on="service")
    result = scenario.run("retire", "--service", gone, "--json", expect=4)
    assert result.services[gone]["status"] == "failed"
    assert (active(scenario, gone), state_of(scenario, gone)) == (4, ("active", False))


def test_retire_asks_nobody_about_what_is_configured_nowhere(make_scenario: MakeScenario) -> None:
    """A service of which another team takes care now has to leave freshness, alive or not."""
    scenario = make_scenario((30, 5))
    kept, left = scenario.services[1].sid, scenario.services[0].sid
    scenario.sync()
    scenario.account["services"] = [kept]
    asked = scenario.interceptor.requests
    result = scenario.run("retire", "--service", left, "--json")
    assert (scenario.interceptor.requests, result.totals["deleted"]) == (asked, 30)
    assert (active(scenario, left), state_of(scenario, left)) == (0, ("unconfigured", True))
    assert set(freshness(scenario)) == {kept}


def test_retire_waits_for_no_run(make_scenario: MakeScenario) -> None:
    """A run that reads the service would publish what has just been taken out."""
    scenario = make_scenario((4, 5))
    scenario.sync()
    left = scenario.services[0].sid
    scenario.account["services"] = [scenario.services[1].sid]
    scenario.execute(
        "INSERT INTO sync_leases (chat_service_sid, scope, owner, run_id, host, acquired_at, "
        "expires_at) VALUES (:s, 'service', 'me', 1, 'host', '2026-01-01', '2999-01-01 00:00:00')",
        s=left,
    )
    result = scenario.run("retire", "--service", left, "--json", expect=6)
    assert result.services[left]["status"] == "locked"
    assert active(scenario, left) == 4


# --- the command `services` ---


def work_list(scenario: Scenario, *options: str, expect: int = 0) -> list[dict[str, Any]]:
    """`services --json`, which is a list."""
    listed: list[dict[str, Any]] = json.loads(
        scenario.run("services", "--json", *options, expect=expect).out
    )
    return listed


def test_services_is_the_work_list_biggest_first(make_scenario: MakeScenario) -> None:
    """A scheduler that fans out over a list without a new service would never read it."""
    scenario = make_scenario((3, 9))
    small, large = (service.sid for service in scenario.services)
    before = work_list(scenario)
    assert {(one["chat_service_sid"], one["rows"], one["last_complete_at"]) for one in before} == {
        (small, 0, None),
        (large, 0, None),
    }
    scenario.sync()
    new = scenario.world.add_service(2).sid
    listed = work_list(scenario, "--account", "main")
    assert [(one["chat_service_sid"], one["rows"]) for one in listed] == [
        (large, 9),
        (small, 3),
        (new, 0),
    ]
    assert set(listed[0]) == {"account", "chat_service_sid", "rows", "last_complete_at"}
    assert listed[0]["last_complete_at"].endswith("Z")
    assert large in scenario.run("services").out
    scenario.world.remove_service(small)
    assert small not in scenario.run("services").out
    scenario.run("services", "--account", "nobody", expect=2)


def test_services_lists_what_it_knows_of_an_account_that_cannot_be_asked(
    make_scenario: MakeScenario,
) -> None:
    """An hour without the list of services must not stop the reading of those that are known."""
    scenario = make_scenario((3, 9))
    scenario.sync()
    scenario.simulator.faults.add("forbidden", on="services")
    add_block(scenario, "chosen", services=[scenario.services[0].sid])
    listed = work_list(scenario, expect=3)
    assert [(one["account"], one["rows"]) for one in listed] == [("main", 9), ("chosen", 3)]
    scenario.run("services", "--account", "main", expect=4)
