"""`status` as an alert asks it."""

from collections.abc import Callable

import pytest

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
