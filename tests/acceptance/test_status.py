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
