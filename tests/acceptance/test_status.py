"""`status` as an alert asks it."""

from collections.abc import Callable

import pytest

from etl.simulator.replies import error
from tests.acceptance.trial import Trial

MakeTrial = Callable[..., Trial]


def make_older(trial: Trial, seconds: int) -> None:
    """As if the last readings had ended so long ago."""
    changed = {"sync_scans": "finished_at"}
    tables = trial.query("SELECT name FROM sqlite_master WHERE name = 'services'")
    if tables:
        changed["services"] = "last_complete_at"
    for table, column in changed.items():
        trial.execute(
            f"UPDATE {table} SET {column} = strftime('%Y-%m-%d %H:%M:%f000', {column}, '-{seconds} seconds')"
        )


def test_an_age_is_asked_for(make_trial: MakeTrial) -> None:
    """cron calls somebody by the exit code: 0 while all is fresh, 8 once one service is not."""
    trial = make_trial((3, 3))
    trial.sync()
    fresh = trial.run("status", "--max-age", "30m", "--json").json
    assert (fresh["max_age_seconds"], fresh["stale"]) == (1800, [])
    make_older(trial, 1900)
    trial.sync("--service", trial.services[0].sid)
    told = trial.run("status", "--max-age", "30m", "--json", expect=8).json
    [stale] = told["stale"]
    assert (stale["account"], stale["chat_service_sid"]) == ("main", trial.services[1].sid)
    assert 1900 <= stale["age_seconds"] < 2000
    trial.run("status", "--max-age", "1h")
    shown = trial.run("status", "--max-age", "30m", expect=8).out
    assert trial.services[1].sid in shown.partition("older than asked for")[2]


def test_nothing_was_ever_read(make_trial: MakeTrial) -> None:
    """A job that was never started, or fails from its first day, is what such an alert is for."""
    trial = make_trial((3,))
    trial.run("status", "--max-age", "30m", expect=8)
    trial.run("status")
    trial.account["services"] = [trial.services[0].sid]
    told = trial.run("status", "--max-age", "30m", "--json", expect=8).json
    assert [one["chat_service_sid"] for one in told["stale"]] == [trial.services[0].sid]


def test_an_empty_account_is_fresh(make_trial: MakeTrial) -> None:
    """There is no service that could be old, and the account was looked at."""
    trial = make_trial(())
    trial.sync()
    trial.run("status", "--max-age", "30m")


@pytest.mark.parametrize("age", ["30", "m", "30y", "-5m", "5 m", "999999999w", ""])
def test_an_age_that_is_none_is_refused(trial: Trial, age: str) -> None:
    """A slip of the pen in cron must not pass for an alert that never fires."""
    trial.run("status", f"--max-age={age}", expect=2)


def test_a_group_of_shards_is_asked_about_as_one_run(make_trial: MakeTrial) -> None:
    """Who starts eight pods wants one answer: what was done, and whether all of it was."""
    trial = make_trial((3, 4, 5, 6))
    for index in range(3):
        result = trial.sync("--shard", f"{index}/3", "--run-group", "first load")
        assert result.json["run_group"] == "first load"
    assert trial.sync().json["run_group"] is None
    told = trial.run("status", "--run-group", "first load", "--json").json
    assert (told["run_group"], told["status"], told["totals"]["inserted"]) == (
        "first load",
        "succeeded",
        18,
    )
    assert sorted(one["shard"] for one in told["runs"]) == ["0/3", "1/3", "2/3"]
    assert sorted(one["chat_service_sid"] for one in told["services"]) == sorted(
        trial.world.services
    )
    shown = trial.run("status", "--run-group", "first load").out
    assert "first load: succeeded (exit code 0)" in shown


def test_a_group_in_which_one_failed_exits_as_one_run(make_trial: MakeTrial) -> None:
    """Seven good shards must not hide the eighth; once it is tried again, all is well."""
    trial = make_trial((3, 4))
    one, other = (service.sid for service in trial.services)
    trial.front.watch = lambda request: (
        error(20006) if request.is_listing and request.service == other else None
    )
    trial.backfill("--service", one, "--run-group", "g")
    trial.backfill("--service", other, "--run-group", "g", expect=4)
    told = trial.run("status", "--run-group", "g", "--json", expect=3).json
    assert told["status"] == "partial"
    assert "not done" in trial.run("status", "--run-group", "g", expect=3).out
    trial.front.watch = None
    trial.backfill("--service", other, "--run-group", "g")
    trial.run("status", "--run-group", "g")
    make_older(trial, 1900)
    trial.run("status", "--run-group", "g", "--max-age", "30m", expect=8)


def test_a_group_that_is_not_there_is_a_slip(trial: Trial) -> None:
    """Zero runs added up would pass for a success."""
    trial.run("status", "--run-group", "typo", expect=2)
    assert trial.run("sync", "--run-group", "", expect=2).out == ""
    assert trial.run("sync", "--run-group", "x" * 129, expect=2).out == ""
    assert trial.run("sync", "--run-group", "a\nb", expect=2).out == ""


def test_a_run_that_could_not_begin_names_its_group(trial: Trial) -> None:
    """Whoever reads hooks and logs of many runs sorts them by it."""
    trial.settings["warehouse"]["url"] = "sqlite:////nowhere/at/all.db"
    assert trial.sync("--run-group", "g", expect=7).json["run_group"] == "g"


def test_a_killed_run_is_shown_as_such_once_its_lease_has_lapsed(make_trial: MakeTrial) -> None:
    """`running` for hours, until somebody starts the next one, hides that the job is dead."""
    trial = make_trial((3,))
    trial.sync("--run-group", "g")
    trial.execute("UPDATE sync_runs SET status = 'running', finished_at = NULL")
    trial.execute("UPDATE sync_scans SET status = 'running', finished_at = NULL")
    sid = trial.services[0].sid
    trial.execute(
        "INSERT INTO sync_leases VALUES (:sid, 'service', 'o', 1, 'h', "
        "'2001-01-01 00:00:00.000000', '2999-01-01 00:00:00.000000')",
        sid=sid,
    )
    assert trial.run("status", "--json").json["runs"][0]["status"] == "running"
    group = ("status", "--run-group", "g")
    assert trial.run(*group, "--json", expect=3).json["status"] == "running"
    trial.execute("UPDATE sync_leases SET expires_at = '2001-01-01 00:00:00.000000'")
    [run] = trial.run("status", "--json").json["runs"]
    assert (run["status"], run["error"]) == ("interrupted", "the process ended without a word")
    assert "  killed  " in trial.run("status").out
    assert trial.run(*group, "--json", expect=3).json["status"] == "interrupted"
    assert trial.query("SELECT status FROM sync_runs") == [{"status": "running"}]


def test_a_run_without_a_lease_is_killed_only_after_a_silence(make_trial: MakeTrial) -> None:
    """Between two services a run holds no lease for a moment, and lives."""
    trial = make_trial((3,))
    trial.sync()
    trial.execute("UPDATE sync_runs SET status = 'running', finished_at = NULL")
    trial.execute("UPDATE sync_runs SET started_at = '2001-01-01 00:00:00.000000'")
    assert trial.run("status", "--json").json["runs"][0]["status"] == "running"
    make_older(trial, 7200)
    trial.execute("UPDATE sync_scans SET started_at = '2001-01-01 00:00:00.000000'")
    assert trial.run("status", "--json").json["runs"][0]["status"] == "interrupted"


def test_the_worst_service_comes_first_with_its_last_error(make_trial: MakeTrial) -> None:
    """Who is called at night reads the first line."""
    trial = make_trial((3, 3, 3))
    trial.sync()
    bad = trial.services[1].sid
    trial.front.watch = lambda request: (
        error(20006) if request.is_listing and request.service == bad else None
    )
    trial.sync(expect=3)
    told = trial.run("status", "--json").json["services"]
    assert (told[0]["chat_service_sid"], told[0]["health"]) == (bad, "failing")
    assert "20006" in told[0]["last_error"] or "403" in told[0]["last_error"]
    assert [line["health"] for line in told[1:]] == ["fine", "fine"]
    shown = trial.run("status").out
    assert shown.startswith("status at ")
    assert " UTC\n" in shown
    assert "just now" in shown
    [first] = [line for line in shown.splitlines() if line.startswith("IS")][:1]
    assert first.startswith(bad)
    trial.front.watch = None
    trial.sync()
    assert {line["last_error"] for line in trial.run("status", "--json").json["services"]} == {None}


def test_a_limit_cuts_the_lists(make_trial: MakeTrial) -> None:
    """Somebody who wants the last run and the worst service must not page for them."""
    trial = make_trial((1, 1, 1))
    for _ in range(3):
        trial.sync()
    told = trial.run("status", "--json", "--limit", "1").json
    assert (len(told["services"]), [run["id"] for run in told["runs"]]) == (1, [3])
    shown = trial.run("status", "--limit", "1").out
    assert sum(line.startswith("IS") for line in shown.splitlines()) == 1
    assert "… and 2 more; --all lists every service" in shown
    trial.run("status", "--limit", "0", expect=2)


def test_of_many_services_those_in_trouble_are_shown(make_trial: MakeTrial) -> None:
    """Five in trouble among sixty must not be looked for."""
    trial = make_trial((1,))
    trial.sync()
    for number in range(40):
        trial.execute(
            "INSERT INTO services SELECT :sid, account, friendly_name, state, first_seen_at, last_seen_at, "
            "gone_at, last_complete_at, active, deleted, :held FROM services WHERE chat_service_sid = :like",
            sid=f"IS{number:032x}",
            like=trial.services[0].sid,
            held=int(number < 5),
        )
    shown = trial.run("status").out
    counts = shown.partition("41 services:")[2]
    assert counts.split()[:2] == ["state", "services"]
    assert "deletes held         5" in counts
    listed = [line.split()[0] for line in shown.splitlines() if line.startswith("IS")]
    assert listed == [f"IS{number:032x}" for number in range(5)]
    assert "--all lists all 41 services" in shown
    every = trial.run("status", "--all").out
    assert sum(line.startswith("IS") for line in every.splitlines()) == 41
    assert len(trial.run("status", "--json").json["services"]) == 41
