"""`purge`: what was deleted long ago leaves for good, and nothing else."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.acceptance.scenario import Scenario

TABLES = ("bindings", "binding_versions", "rejected_bindings")


def age(scenario: Scenario, table: str, column: str, days: int, where: str = "1 = 1") -> None:
    """As if so many days had passed since."""
    moment = f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d %H:%M:%S.%f}"
    scenario.execute(
        f"UPDATE {table} SET {column} = :moment WHERE {column} IS NOT NULL AND {where}",
        moment=moment,
    )


def delete_some(scenario: Scenario, number: int) -> list[str]:
    """Delete at the source and let a run find out."""
    service = next(iter(scenario.world.services.values()))
    sids = service.delete(number)
    scenario.sync()
    return sids


def image(scenario: Scenario) -> dict[str, list[dict[str, object]]]:
    return {table: scenario.query(f"SELECT * FROM {table} ORDER BY 1") for table in TABLES}


def counted(scenario: Scenario, *arguments: str) -> dict[str, int]:
    lines = scenario.run("purge", *arguments).out.splitlines()
    return {name: int(number) for name, number in (line.split() for line in lines[2:])}


def test_old_deleted_rows_leave_with_their_history(scenario: Scenario) -> None:
    """Rows that outlive their time in the warehouse are personal data kept without a reason."""
    scenario.sync()
    old = delete_some(scenario, 3)
    age(scenario, "bindings", "deleted_at", 31)
    age(scenario, "binding_versions", "valid_to", 31)
    young = delete_some(scenario, 2)
    assert counted(scenario, "--deleted-before", "30d") == {
        "bindings": 3,
        "binding_versions": 3,
        "rejected_bindings": 0,
    }
    assert {
        row["sid"]
        for row in scenario.query("SELECT sid FROM bindings WHERE deleted_at IS NOT NULL")
    } == set(young)
    assert {row["sid"] for row in scenario.query("SELECT sid FROM binding_versions")} == set(young)
    assert not set(old) & set(scenario.stored("1 = 1"))
    scenario.assert_equal_to_world()


def test_history_of_living_rows_stays(scenario: Scenario) -> None:
    """History is what the warehouse is for; age alone is no reason to lose it."""
    scenario.sync()
    next(iter(scenario.world.services.values())).touch(4)
    scenario.sync()
    age(scenario, "binding_versions", "valid_to", 400)
    before = image(scenario)
    assert sum(counted(scenario, "--deleted-before", "30d").values()) == 0
    assert image(scenario) == before


def test_history_of_hard_deleted_rows_leaves(scenario: Scenario) -> None:
    """With `deletes.mode: hard` the history is all that is left of a binding, and it would stay for ever."""
    scenario.settings["deletes"] = {"mode": "hard"}
    scenario.sync()
    delete_some(scenario, 3)
    age(scenario, "binding_versions", "valid_to", 31)
    young = delete_some(scenario, 2)
    assert counted(scenario, "--deleted-before", "4w") == {
        "bindings": 0,
        "binding_versions": 3,
        "rejected_bindings": 0,
    }
    assert {row["sid"] for row in scenario.query("SELECT sid FROM binding_versions")} == set(young)


def test_resolved_rejects_leave_and_open_ones_stay(scenario: Scenario) -> None:
    """A payload holds an identity; it has to leave in time, but not before the reject is dealt with."""
    service = next(iter(scenario.world.services.values()))
    resolved, still_open = service.sids()[:2]
    service.change(resolved, date_updated="never")
    scenario.sync()
    service.change(resolved, date_updated=None)
    service.change(still_open, date_updated="never")
    scenario.sync()
    age(scenario, "rejected_bindings", "resolved_at", 31)
    age(scenario, "rejected_bindings", "last_seen_at", 31)
    assert counted(scenario, "--deleted-before", "30d")["rejected_bindings"] == 1
    assert [row["sid"] for row in scenario.query("SELECT sid FROM rejected_bindings")] == [
        still_open
    ]


def test_a_dry_run_counts_the_same_and_writes_nothing(scenario: Scenario) -> None:
    """An operator decides by these numbers; were they others, or came at a price, they would be worth nothing."""
    scenario.sync()
    delete_some(scenario, 3)
    age(scenario, "bindings", "deleted_at", 31)
    age(scenario, "binding_versions", "valid_to", 31)
    before = image(scenario)
    planned = counted(scenario, "--deleted-before", "30d", "--dry-run")
    assert image(scenario) == before
    assert counted(scenario, "--deleted-before", "30d") == planned
    assert image(scenario) != before


@pytest.mark.parametrize(("cutoff", "leaves"), [("47h", 1), ("49h", 0), ("1d", 1), ("1w", 0)])
def test_ages_are_in_hours_days_or_weeks(scenario: Scenario, cutoff: str, leaves: int) -> None:
    """A unit that is misread purges a week's rows for an hour's."""
    scenario.sync()
    delete_some(scenario, 1)
    age(scenario, "bindings", "deleted_at", 2)
    assert counted(scenario, "--deleted-before", cutoff, "--dry-run")["bindings"] == leaves


def test_a_date_is_taken_as_utc(scenario: Scenario) -> None:
    """By local time the same command line would purge other rows on another host."""
    scenario.sync()
    delete_some(scenario, 1)
    scenario.execute(
        "UPDATE bindings SET deleted_at = '2026-01-31 23:59:59.000000' WHERE deleted_at IS NOT NULL"
    )
    assert counted(scenario, "--deleted-before", "2026-01-31", "--dry-run")["bindings"] == 0
    assert counted(scenario, "--deleted-before", "2026-02-01", "--dry-run")["bindings"] == 1
    assert (
        counted(scenario, "--deleted-before", "2026-02-01T00:30:00+01:00", "--dry-run")["bindings"]
        == 0
    )


@pytest.mark.parametrize("cutoff", ["30", "30m", "-3d", "soon", "999999999w", ""])
def test_what_is_no_age_and_no_time_is_refused(scenario: Scenario, cutoff: str) -> None:
    """A misread cutoff takes out rows that nobody can bring back."""
    assert scenario.run("purge", f"--deleted-before={cutoff}", expect=2).out == ""


def test_json_says_what_leaves_and_what_left(scenario: Scenario) -> None:
    """A scheduler that watches what is purged reads numbers, and one object also when nothing leaves."""
    scenario.sync()
    delete_some(scenario, 3)
    cutoffs = ("--deleted-before", "0h", "--versions-before", "0h", "--runs-before", "0h", "--json")
    planned = scenario.run("purge", *cutoffs, "--dry-run").json
    assert planned["dry_run"] is True
    assert planned["removed"] == {
        "bindings": 3, "binding_versions": 3, "rejected_bindings": 0, "sync_scans": 2, "sync_runs": 1,
        "shard_assignments": 0,
    }  # fmt: skip
    assert scenario.run("purge", *cutoffs).json == {**planned, "dry_run": False}
    assert set(scenario.run("purge", *cutoffs).json["removed"].values()) == {0}


def test_freshness_survives_the_purge_of_the_ledger(scenario: Scenario) -> None:
    """A service would be told as never read, and its scheduler would sound the alarm."""
    scenario.account["partition_by_type"] = True
    scenario.sync()
    scenario.account["partition_by_type"] = False
    scenario.sync()
    scenario.sync()
    before = scenario.query("SELECT * FROM service_freshness ORDER BY 1, 2")
    scenario.run("purge", "--runs-before", "0h")
    assert scenario.query("SELECT * FROM service_freshness ORDER BY 1, 2") == before
    assert all(one["last_complete_at"] for one in before)
    scenario.run("status", "--max-age", "1h")
    scenario.sync()
    scenario.assert_equal_to_world()


def test_a_cutoff_is_needed(scenario: Scenario) -> None:
    """With a default, a bare `purge` would take out rows by accident."""
    assert scenario.run("purge", expect=2).out == ""


def test_the_documented_way_to_be_rid_of_plain_values_leaves_none(scenario: Scenario) -> None:
    """Who switched privacy on with 0.1.0, which left the past as it was, believes that the people are gone."""
    scenario.sync()
    for service in scenario.services:
        service.touch(5)
        service.delete(3)
    [sid] = scenario.services[0].grow(1)
    scenario.services[0].change(sid, date_updated="never")
    scenario.sync()
    scenario.settings["privacy"] = {"identity": "drop", "endpoint": "drop"}
    scenario.execute("UPDATE privacy_rules SET identity = 'drop', endpoint = 'drop'")
    scenario.sync()
    people = "SELECT count(*) AS n FROM {} WHERE identity IS NOT NULL OR endpoint IS NOT NULL"
    assert scenario.query(people.format("binding_versions")) != [{"n": 0}]
    scenario.run("rejects", "discard")
    scenario.run("purge", "--deleted-before", "0d", "--versions-before", "0d")
    assert scenario.query(people.format("binding_versions")) == [{"n": 0}]
    assert scenario.query(people.format("bindings")) == [{"n": 0}]
    assert scenario.query("SELECT count(*) AS n FROM rejected_bindings") == [{"n": 0}]


@pytest.mark.parametrize("cutoff", ["30x", "30m"])
def test_what_is_no_cutoff_is_answered_with_both_forms(scenario: Scenario, cutoff: str) -> None:
    """Told of one form only, one takes the other for impossible."""
    said = scenario.run("purge", "--deleted-before", cutoff, expect=2).err
    assert "an age such as 30d" in said
    assert "2026-11-01" in said
