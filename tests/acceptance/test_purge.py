"""`purge`: what was deleted long ago leaves for good, and nothing else."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.acceptance.trial import Trial

TABLES = ("bindings", "binding_versions", "rejected_bindings")


def age(trial: Trial, table: str, column: str, days: int, where: str = "1 = 1") -> None:
    """As if so many days had passed since."""
    moment = f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d %H:%M:%S.%f}"
    trial.execute(
        f"UPDATE {table} SET {column} = :moment WHERE {column} IS NOT NULL AND {where}",
        moment=moment,
    )


def delete_some(trial: Trial, number: int) -> list[str]:
    """Delete at the source and let a run find out."""
    service = next(iter(trial.world.services.values()))
    sids = service.delete(number)
    trial.sync()
    return sids


def image(trial: Trial) -> dict[str, list[dict[str, object]]]:
    return {table: trial.query(f"SELECT * FROM {table} ORDER BY 1") for table in TABLES}


def counted(trial: Trial, *arguments: str) -> dict[str, int]:
    lines = trial.run("purge", *arguments).out.splitlines()
    return {name: int(number) for name, number in (line.split() for line in lines[2:])}


def test_old_deleted_rows_leave_with_their_history(trial: Trial) -> None:
    """Rows that outlive their time in the warehouse are personal data kept without a reason."""
    trial.sync()
    old = delete_some(trial, 3)
    age(trial, "bindings", "deleted_at", 31)
    age(trial, "binding_versions", "valid_to", 31)
    young = delete_some(trial, 2)
    assert counted(trial, "--deleted-before", "30d") == {
        "bindings": 3,
        "binding_versions": 3,
        "rejected_bindings": 0,
    }
    assert {
        row["sid"] for row in trial.query("SELECT sid FROM bindings WHERE deleted_at IS NOT NULL")
    } == set(young)
    assert {row["sid"] for row in trial.query("SELECT sid FROM binding_versions")} == set(young)
    assert not set(old) & set(trial.stored("1 = 1"))
    trial.assert_equal_to_world()


def test_history_of_living_rows_stays(trial: Trial) -> None:
    """History is what the warehouse is for; age alone is no reason to lose it."""
    trial.sync()
    next(iter(trial.world.services.values())).touch(4)
    trial.sync()
    age(trial, "binding_versions", "valid_to", 400)
    before = image(trial)
    assert sum(counted(trial, "--deleted-before", "30d").values()) == 0
    assert image(trial) == before


def test_history_of_hard_deleted_rows_leaves(trial: Trial) -> None:
    """With `deletes.mode: hard` the history is all that is left of a binding, and it would stay for ever."""
    trial.settings["deletes"] = {"mode": "hard"}
    trial.sync()
    delete_some(trial, 3)
    age(trial, "binding_versions", "valid_to", 31)
    young = delete_some(trial, 2)
    assert counted(trial, "--deleted-before", "4w") == {
        "bindings": 0,
        "binding_versions": 3,
        "rejected_bindings": 0,
    }
    assert {row["sid"] for row in trial.query("SELECT sid FROM binding_versions")} == set(young)


def test_resolved_rejects_leave_and_open_ones_stay(trial: Trial) -> None:
    """A payload holds an identity; it has to leave in time, but not before the reject is dealt with."""
    service = next(iter(trial.world.services.values()))
    resolved, still_open = service.sids()[:2]
    service.change(resolved, date_updated="never")
    trial.sync()
    service.change(resolved, date_updated=None)
    service.change(still_open, date_updated="never")
    trial.sync()
    age(trial, "rejected_bindings", "resolved_at", 31)
    age(trial, "rejected_bindings", "last_seen_at", 31)
    assert counted(trial, "--deleted-before", "30d")["rejected_bindings"] == 1
    assert [row["sid"] for row in trial.query("SELECT sid FROM rejected_bindings")] == [still_open]


def test_a_dry_run_counts_the_same_and_writes_nothing(trial: Trial) -> None:
    """An operator decides by these numbers; were they others, or came at a price, they would be worth nothing."""
    trial.sync()
    delete_some(trial, 3)
    age(trial, "bindings", "deleted_at", 31)
    age(trial, "binding_versions", "valid_to", 31)
    before = image(trial)
    planned = counted(trial, "--deleted-before", "30d", "--dry-run")
    assert image(trial) == before
    assert counted(trial, "--deleted-before", "30d") == planned
    assert image(trial) != before


@pytest.mark.parametrize(("cutoff", "leaves"), [("47h", 1), ("49h", 0), ("1d", 1), ("1w", 0)])
def test_ages_are_in_hours_days_or_weeks(trial: Trial, cutoff: str, leaves: int) -> None:
    """A unit that is misread purges a week's rows for an hour's."""
    trial.sync()
    delete_some(trial, 1)
    age(trial, "bindings", "deleted_at", 2)
    assert counted(trial, "--deleted-before", cutoff, "--dry-run")["bindings"] == leaves


def test_a_date_is_taken_as_utc(trial: Trial) -> None:
    """By local time the same command line would purge other rows on another host."""
    trial.sync()
    delete_some(trial, 1)
    trial.execute(
        "UPDATE bindings SET deleted_at = '2026-01-31 23:59:59.000000' WHERE deleted_at IS NOT NULL"
    )
    assert counted(trial, "--deleted-before", "2026-01-31", "--dry-run")["bindings"] == 0
    assert counted(trial, "--deleted-before", "2026-02-01", "--dry-run")["bindings"] == 1
    assert (
        counted(trial, "--deleted-before", "2026-02-01T00:30:00+01:00", "--dry-run")["bindings"]
        == 0
    )


@pytest.mark.parametrize("cutoff", ["30", "30m", "-3d", "soon", "999999999w", ""])
def test_what_is_no_age_and_no_time_is_refused(trial: Trial, cutoff: str) -> None:
    """A misread cutoff takes out rows that nobody can bring back."""
    assert trial.run("purge", f"--deleted-before={cutoff}", expect=2).out == ""


def test_json_says_what_leaves_and_what_left(trial: Trial) -> None:
    """A scheduler that watches what is purged reads numbers, and one object also when nothing leaves."""
    trial.sync()
    delete_some(trial, 3)
    cutoffs = ("--deleted-before", "0h", "--versions-before", "0h", "--runs-before", "0h", "--json")
    planned = trial.run("purge", *cutoffs, "--dry-run").json
    assert planned["dry_run"] is True
    assert planned["removed"] == {
        "bindings": 3, "binding_versions": 3, "rejected_bindings": 0, "sync_scans": 2, "sync_runs": 1,
        "shard_assignments": 0,
    }  # fmt: skip
    assert trial.run("purge", *cutoffs).json == {**planned, "dry_run": False}
    assert set(trial.run("purge", *cutoffs).json["removed"].values()) == {0}


def test_freshness_survives_the_purge_of_the_ledger(trial: Trial) -> None:
    """A service would be told as never read, and its scheduler would sound the alarm."""
    trial.account["partition_by_type"] = True
    trial.sync()
    trial.account["partition_by_type"] = False
    trial.sync()
    trial.sync()
    before = trial.query("SELECT * FROM service_freshness ORDER BY 1, 2")
    trial.run("purge", "--runs-before", "0h")
    assert trial.query("SELECT * FROM service_freshness ORDER BY 1, 2") == before
    assert all(one["last_complete_at"] for one in before)
    trial.run("status", "--max-age", "1h")
    trial.sync()
    trial.assert_equal_to_world()


def test_a_cutoff_is_needed(trial: Trial) -> None:
    """With a default, a bare `purge` would take out rows by accident."""
    assert trial.run("purge", expect=2).out == ""


def test_the_documented_way_to_be_rid_of_plain_values_leaves_none(trial: Trial) -> None:
    """Who switched privacy on with 0.1.0, which left the past as it was, believes that the people are gone."""
    trial.sync()
    for service in trial.services:
        service.touch(5)
        service.delete(3)
    [sid] = trial.services[0].grow(1)
    trial.services[0].change(sid, date_updated="never")
    trial.sync()
    trial.settings["privacy"] = {"identity": "drop", "endpoint": "drop"}
    trial.execute("UPDATE privacy_rules SET identity = 'drop', endpoint = 'drop'")
    trial.sync()
    people = "SELECT count(*) AS n FROM {} WHERE identity IS NOT NULL OR endpoint IS NOT NULL"
    assert trial.query(people.format("binding_versions")) != [{"n": 0}]
    trial.run("rejects", "discard")
    trial.run("purge", "--deleted-before", "0d", "--versions-before", "0d")
    assert trial.query(people.format("binding_versions")) == [{"n": 0}]
    assert trial.query(people.format("bindings")) == [{"n": 0}]
    assert trial.query("SELECT count(*) AS n FROM rejected_bindings") == [{"n": 0}]


@pytest.mark.parametrize("cutoff", ["30x", "30m"])
def test_what_is_no_cutoff_is_answered_with_both_forms(trial: Trial, cutoff: str) -> None:
    """Told of one form only, one takes the other for impossible."""
    said = trial.run("purge", "--deleted-before", cutoff, expect=2).err
    assert "an age such as 30d" in said
    assert "2026-11-01" in said
