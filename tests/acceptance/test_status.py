"""`status` as an alert asks it."""

from collections.abc import Callable

import pytest

from etl.simulator.replies import error
from tests.acceptance.scenario import Scenario

MakeScenario = Callable[..., Scenario]


def make_older(scenario: Scenario, seconds: int) -> None:
    """As if the last readings had ended so long ago."""
    changed = {"sync_scans": "finished_at"}
    tables = scenario.query("SELECT name FROM sqlite_master WHERE name = 'services'")
    if tables:
        changed["services"] = "last_complete_at"
    for table, column in changed.items():
        scenario.execute(
            f"UPDATE {table} SET {column} = strftime('%Y-%m-%d %H:%M:%f000', {column}, '-{seconds} seconds')"
        )


def test_an_age_is_asked_for(make_scenario: MakeScenario) -> None:
    """cron calls somebody by the exit code: 0 while all is fresh, 8 once one service is not."""
    scenario = make_scenario((3, 3))
    scenario.sync()
    fresh = scenario.run("status", "--max-age", "30m", "--json").json
    assert (fresh["max_age_seconds"], fresh["stale"]) == (1800, [])
    make_older(scenario, 1900)
    scenario.sync("--service", scenario.services[0].sid)
    told = scenario.run("status", "--max-age", "30m", "--json", expect=8).json
    [stale] = told["stale"]
    assert (stale["account"], stale["chat_service_sid"]) == ("main", scenario.services[1].sid)
    assert 1900 <= stale["age_seconds"] < 2000
    scenario.run("status", "--max-age", "1h")
    shown = scenario.run("status", "--max-age", "30m", expect=8).out
    assert scenario.services[1].sid in shown.partition("older than asked for")[2]


def test_nothing_was_ever_read(make_scenario: MakeScenario) -> None:
    """A job that was never started, or fails from its first day, is what such an alert is for."""
    scenario = make_scenario((3,))
    scenario.run("status", "--max-age", "30m", expect=8)
    scenario.run("status")
    scenario.account["services"] = [scenario.services[0].sid]
    told = scenario.run("status", "--max-age", "30m", "--json", expect=8).json
    assert [one["chat_service_sid"] for one in told["stale"]] == [scenario.services[0].sid]


def test_an_empty_account_is_fresh(make_scenario: MakeScenario) -> None:
    """There is no service that could be old, and the account was looked at."""
    scenario = make_scenario(())
    scenario.sync()
    scenario.run("status", "--max-age", "30m")


@pytest.mark.parametrize("age", ["30", "m", "30y", "-5m", "5 m", "999999999w", ""])
def test_an_age_that_is_none_is_refused(scenario: Scenario, age: str) -> None:
    """A slip of the pen in cron must not pass for an alert that never fires."""
    scenario.run("status", f"--max-age={age}", expect=2)


def test_a_group_of_shards_is_asked_about_as_one_run(make_scenario: MakeScenario) -> None:
    """Who starts eight pods wants one answer: what was done, and whether all of it was."""
    scenario = make_scenario((3, 4, 5, 6))
    for index in range(3):
        result = scenario.sync("--shard", f"{index}/3", "--run-group", "first load")
        assert result.json["run_group"] == "first load"
    assert scenario.sync().json["run_group"] is None
    told = scenario.run("status", "--run-group", "first load", "--json").json
    assert (told["run_group"], told["status"], told["totals"]["inserted"]) == (
        "first load",
        "succeeded",
        18,
    )
    assert sorted(one["shard"] for one in told["runs"]) == ["0/3", "1/3", "2/3"]
    assert sorted(one["chat_service_sid"] for one in told["services"]) == sorted(
        scenario.world.services
    )
    shown = scenario.run("status", "--run-group", "first load").out
    assert "first load: succeeded (exit code 0)" in shown


def test_a_group_in_which_one_failed_exits_as_one_run(make_scenario: MakeScenario) -> None:
    """Seven good shards must not hide the eighth; once it is tried again, all is well."""
    scenario = make_scenario((3, 4))
    one, other = (service.sid for service in scenario.services)
    scenario.interceptor.watch = lambda request: (
        error(20006) if request.is_listing and request.service == other else None
    )
    scenario.backfill("--service", one, "--run-group", "g")
    scenario.backfill("--service", other, "--run-group", "g", expect=4)
    told = scenario.run("status", "--run-group", "g", "--json", expect=3).json
    assert told["status"] == "partial"
    assert "not done" in scenario.run("status", "--run-group", "g", expect=3).out
    scenario.interceptor.watch = None
    scenario.backfill("--service", other, "--run-group", "g")
    scenario.run("status", "--run-group", "g")
    make_older(scenario, 1900)
    scenario.run("status", "--run-group", "g", "--max-age", "30m", expect=8)


def test_a_group_that_is_not_there_is_a_slip(scenario: Scenario) -> None:
    """Zero runs added up would pass for a success."""
    scenario.run("status", "--run-group", "typo", expect=2)
    assert scenario.run("sync", "--run-group", "", expect=2).out == ""
    assert scenario.run("sync", "--run-group", "x" * 129, expect=2).out == ""
    assert scenario.run("sync", "--run-group", "a\nb", expect=2).out == ""


def test_a_run_that_could_not_begin_names_its_group(scenario: Scenario) -> None:
    """Whoever reads hooks and logs of many runs sorts them by it."""
    scenario.settings["warehouse"]["url"] = "sqlite:////nowhere/at/all.db"
    assert scenario.sync("--run-group", "g", expect=7).json["run_group"] == "g"


def test_a_killed_run_is_shown_as_such_once_its_lease_has_lapsed(
    make_scenario: MakeScenario,
) -> None:
    """`running` for hours, until somebody starts the next one, hides that the job is dead."""
    scenario = make_scenario((3,))
    scenario.sync("--run-group", "g")
    scenario.execute("UPDATE sync_runs SET status = 'running', finished_at = NULL")
    scenario.execute("UPDATE sync_scans SET status = 'running', finished_at = NULL")
    sid = scenario.services[0].sid
    scenario.execute(
        "INSERT INTO sync_leases VALUES (:sid, 'service', 'o', 1, 'h', "
        "'2001-01-01 00:00:00.000000', '2999-01-01 00:00:00.000000')",
        sid=sid,
    )
    assert scenario.run("status", "--json").json["runs"][0]["status"] == "running"
    group = ("status", "--run-group", "g")
    assert scenario.run(*group, "--json", expect=3).json["status"] == "running"
    scenario.execute("UPDATE sync_leases SET expires_at = '2001-01-01 00:00:00.000000'")
    [run] = scenario.run("status", "--json").json["runs"]
    assert (run["status"], run["error"]) == ("interrupted", "the process ended without a word")
    assert "  killed  " in scenario.run("status").out
    assert scenario.run(*group, "--json", expect=3).json["status"] == "interrupted"
    assert scenario.query("SELECT status FROM sync_runs") == [{"status": "running"}]


def test_a_run_without_a_lease_is_killed_only_after_a_silence(make_scenario: MakeScenario) -> None:
    """Between two services a run holds no lease for a moment, and lives."""
    scenario = make_scenario((3,))
    scenario.sync()
    scenario.execute("UPDATE sync_runs SET status = 'running', finished_at = NULL")
    scenario.execute("UPDATE sync_runs SET started_at = '2001-01-01 00:00:00.000000'")
    assert scenario.run("status", "--json").json["runs"][0]["status"] == "running"
    make_older(scenario, 7200)
    scenario.execute("UPDATE sync_scans SET started_at = '2001-01-01 00:00:00.000000'")
    assert scenario.run("status", "--json").json["runs"][0]["status"] == "interrupted"


def test_the_worst_service_comes_first_with_its_last_error(make_scenario: MakeScenario) -> None:
    """Who is called at night reads the first line."""
    scenario = make_scenario((3, 3, 3))
    scenario.sync()
    bad = scenario.services[1].sid
    scenario.interceptor.watch = lambda request: (
        error(20006) if request.is_listing and request.service == bad else None
    )
    scenario.sync(expect=3)
    told = scenario.run("status", "--json").json["services"]
    assert (told[0]["chat_service_sid"], told[0]["health"]) == (bad, "failing")
    assert "20006" in told[0]["last_error"] or "403" in told[0]["last_error"]
    assert [line["health"] for line in told[1:]] == ["fine", "fine"]
    shown = scenario.run("status").out
    assert shown.startswith("status at ")
    assert " UTC\n" in shown
    assert "just now" in shown
    [first] = [line for line in shown.splitlines() if line.startswith("IS")][:1]
    assert first.startswith(bad)
    scenario.interceptor.watch = None
    scenario.sync()
    assert {line["last_error"] for line in scenario.run("status", "--json").json["services"]} == {
        None
    }


def test_a_limit_cuts_the_lists(make_scenario: MakeScenario) -> None:
    """Somebody who wants the last run and the worst service must not page for them."""
    scenario = make_scenario((1, 1, 1))
    for _ in range(3):
        scenario.sync()
    told = scenario.run("status", "--json", "--limit", "1").json
    assert (len(told["services"]), [run["id"] for run in told["runs"]]) == (1, [3])
    shown = scenario.run("status", "--limit", "1").out
    assert sum(line.startswith("IS") for line in shown.splitlines()) == 1
    assert "… and 2 more; --all lists every service" in shown
    scenario.run("status", "--limit", "0", expect=2)


def test_of_many_services_those_in_trouble_are_shown(make_scenario: MakeScenario) -> None:
    """Five in trouble among sixty must not be looked for."""
    scenario = make_scenario((1,))
    scenario.sync()
    for number in range(40):
        scenario.execute(
            "INSERT INTO services SELECT :sid, account, friendly_name, state, first_seen_at, last_seen_at, "
            "gone_at, last_complete_at, active, deleted, :held FROM services WHERE chat_service_sid = :like",
            sid=f"IS{number:032x}",
            like=scenario.services[0].sid,
            held=int(number < 5),
        )
    shown = scenario.run("status").out
    counts = shown.partition("41 services:")[2]
    assert counts.split()[:2] == ["state", "services"]
    assert "deletes held         5" in counts
    listed = [line.split()[0] for line in shown.splitlines() if line.startswith("IS")]
    assert listed == [f"IS{number:032x}" for number in range(5)]
    assert "--all lists all 41 services" in shown
    every = scenario.run("status", "--all").out
    assert sum(line.startswith("IS") for line in every.splitlines()) == 41
    assert len(scenario.run("status", "--json").json["services"]) == 41
