"""A crash at any instant leaves every service old or new, and the next run puts everything right (docs/promises.md §1, §8)."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from etl.warehouse.engines.ducklake.ownership import MARK
from tests.acceptance.crashing import CRASHED, forking
from tests.acceptance.scenario import Scenario

MakeScenario = Callable[..., Scenario]
Run = Callable[[int | None], int]
Reset = Callable[[], None]

ROOT = Path(__file__).parents[2]
BAD_DATE = "half past nine"


@pytest.fixture
def forker() -> Iterator["subprocess.Popen[str]"]:
    """The process that runs commands and crashes them."""
    with forking() as process:
        yield process


def runner(forker: "subprocess.Popen[str]", scenario: Scenario, *arguments: str) -> Run:
    """Run the command line, to its end or to the N-th step; gives the exit code."""
    scenario.write_config()

    def run(at: int | None) -> int:
        assert forker.stdin
        assert forker.stdout
        order = {"arguments": [*arguments, "--config", str(scenario.config_path)], "at": at}
        print(json.dumps(order), file=forker.stdin, flush=True)
        return int(forker.stdout.readline())

    return run


def state(scenario: Scenario) -> dict[str, dict[str, Any]]:
    """What a reader sees of each service: its active rows, its deleted ones, its history."""
    rows = scenario.query(
        "SELECT sid, chat_service_sid, content_hash, deleted_at, changed_at, first_seen_at FROM bindings ORDER BY sid"
    )
    past = scenario.query(
        "SELECT sid, chat_service_sid, content_hash, valid_from, change FROM binding_versions ORDER BY sid, id"
    )
    return {
        service: {
            "active": scenario.stored(f"deleted_at IS NULL AND chat_service_sid = '{service}'"),
            "deleted": {
                row["sid"]
                for row in rows
                if row["chat_service_sid"] == service and row["deleted_at"]
            },
            "past": [
                (one["sid"], one["content_hash"], one["change"])
                for one in past
                if one["chat_service_sid"] == service
            ],
        }
        for service in scenario.world.services
    }


def prepare(scenario: Scenario, concurrency: int = 1) -> None:
    """A warehouse with rows to insert, update, delete and restore, and one that has gone bad, in two services of two batches."""
    scenario.account["concurrency"] = concurrency
    scenario.sync()
    for service in scenario.services:
        service.delete(2)
    scenario.sync()
    for service in scenario.services:
        service.bring_back(1)
        service.touch(3)
        service.delete(2)
        service.grow(2)
        bad = service.sids()[0]
        service.put(service.bindings[bad] | {"date_updated": BAD_DATE})


def try_every_crash(scenario: Scenario, run: Run, reset: Reset, stride: int = 1) -> int:
    """Crash at each step in turn until none is left; after each, look, run again, and compare with an undisturbed run."""
    old = state(scenario)
    assert run(None) == 0
    new = state(scenario)
    assert all(old[service] != new[service] for service in old)
    at = 0
    while True:
        at += stride
        reset()
        assert state(scenario) == old
        code = run(at)
        seen = state(scenario)
        for service in seen:
            assert seen[service] in (old[service], new[service]), (
                f"half of {service} after a crash at step {at}"
            )
        if code == 0:
            return at
        assert code == CRASHED
        scenario.expire_leases()
        assert run(None) == 0, f"after a crash at step {at}"
        assert_whole(scenario, run, new)


def assert_whole(scenario: Scenario, run: Run, new: dict[str, dict[str, Any]]) -> None:
    """Everything is as if nothing had happened, at the latest after one more run: what went on half way deletes nothing."""
    seen = state(scenario)
    if any(seen[service]["deleted"] != new[service]["deleted"] for service in seen):
        assert scenario.query("SELECT id FROM sync_scans WHERE resumed")
        assert run(None) == 0
        seen = state(scenario)
    for service in seen:
        assert (seen[service]["active"], seen[service]["deleted"]) == (
            new[service]["active"],
            new[service]["deleted"],
        )
        assert sorted(seen[service]["past"]) == sorted(new[service]["past"])
    assert scenario.query("SELECT * FROM sync_leases") == []
    assert (
        scenario.query(
            "SELECT stage_id FROM scan_progress UNION SELECT stage_id FROM scan_seen UNION SELECT stage_id FROM scan_staged "
            "UNION SELECT stage_id FROM scan_absent"
        )
        == []
    )
    assert scenario.query("SELECT id FROM sync_scans WHERE status = 'running'") == []
    assert scenario.query("SELECT id FROM sync_runs WHERE status = 'running'") == []
    assert len(scenario.query("SELECT id FROM rejected_bindings WHERE resolved_at IS NULL")) == len(
        scenario.services
    )


def resetting_file(scenario: Scenario) -> Reset:
    """Bring the SQLite file back as it is now."""
    file, copy = scenario.folder / "warehouse.sqlite", scenario.folder / "before.sqlite"
    shutil.copy(file, copy)

    def reset() -> None:
        for path in scenario.folder.glob("warehouse.sqlite*"):
            path.unlink()
        shutil.copy(copy, file)

    return reset


def resetting_lake(scenario: Scenario) -> Reset:
    """Bring the catalog back as it is now; no file of the data is ever changed."""
    file = Path(scenario.warehouse_url.removeprefix("ducklake+duckdb:///"))
    copy = file.with_name("before")
    shutil.copy(file, copy)

    def reset() -> None:
        file.with_name(f"{file.name}.wal").unlink(missing_ok=True)
        shutil.copy(copy, file)

    return reset


def resetting_database(scenario: Scenario) -> Reset:
    """Bring the PostgreSQL database back as it is now."""
    url = sa.make_url(scenario.warehouse_url.removeprefix("ducklake+"))
    name, copy = url.database, f"{url.database}_before"
    administration = sa.create_engine(
        url.set(database="postgres"), poolclass=sa.NullPool, isolation_level="AUTOCOMMIT"
    )

    def administer(*statements: str) -> None:
        with administration.connect() as conn:
            for statement in statements:
                conn.exec_driver_sql(statement)

    administer(
        f'DROP DATABASE IF EXISTS "{copy}" WITH (FORCE)',
        f'CREATE DATABASE "{copy}" TEMPLATE "{name}"',
    )
    return lambda: administer(
        f'DROP DATABASE "{name}" WITH (FORCE)', f'CREATE DATABASE "{name}" TEMPLATE "{copy}"'
    )


def resetting_shared_lake(scenario: Scenario) -> Reset:
    """Bring a catalog in PostgreSQL back as it is now: another database, which takes over the folder."""
    reset_catalog = resetting_database(scenario)

    def reset() -> None:
        reset_catalog()
        (scenario.folder / "lake" / MARK).unlink(missing_ok=True)

    return reset


@pytest.mark.parametrize(
    "stride",
    [37, pytest.param(7, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.nightly)],
)
def test_a_crash_at_any_step_in_sqlite(
    make_scenario: MakeScenario, forker: "subprocess.Popen[str]", stride: int
) -> None:
    """If a crash between two statements could be seen, then one day it would be."""
    scenario = make_scenario((6, 5), max_page_size=5)
    prepare(scenario)
    assert (
        try_every_crash(
            scenario, runner(forker, scenario, "sync"), resetting_file(scenario), stride
        )
        > 50
    )


@pytest.mark.parametrize(
    "stride",
    [pytest.param(17, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.nightly)],
)
def test_a_crash_between_batches(
    make_scenario: MakeScenario, forker: "subprocess.Popen[str]", stride: int
) -> None:
    """A scan of several batches goes on where it crashed; what it had staged counts once and not twice."""
    scenario = make_scenario((56, 5), max_page_size=1)
    prepare(scenario)
    assert (
        try_every_crash(
            scenario, runner(forker, scenario, "sync"), resetting_file(scenario), stride
        )
        > 50
    )


@pytest.mark.parametrize(
    "stride",
    [pytest.param(29, marks=pytest.mark.slow), pytest.param(7, marks=pytest.mark.nightly)],
)
def test_a_crash_while_chains_are_linked(
    make_scenario: MakeScenario, forker: "subprocess.Popen[str]", stride: int
) -> None:
    """What was staged apart must neither be published by half nor stay for ever."""
    scenario = make_scenario((24, 5), max_page_size=1)
    scenario.account |= {"chains_per_service": 3, "page_size": 1}
    prepare(scenario, concurrency=3)
    assert scenario.query("SELECT link FROM page_links")
    assert (
        try_every_crash(
            scenario, runner(forker, scenario, "sync"), resetting_file(scenario), stride
        )
        > 50
    )


@pytest.mark.parametrize(
    "stride", [pytest.param(61, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.nightly)]
)
def test_a_crash_at_any_step_in_ducklake(
    make_scenario: MakeScenario, forker: "subprocess.Popen[str]", ducklake_url: str, stride: int
) -> None:
    """Rows lie in files, and which of them count in a catalog: a commit must change both or none."""
    scenario = make_scenario((6, 5), url=ducklake_url, max_page_size=5)
    prepare(scenario)
    assert (
        try_every_crash(
            scenario, runner(forker, scenario, "sync"), resetting_lake(scenario), stride
        )
        > 50
    )


@pytest.mark.nightly
def test_a_crash_at_any_step_in_a_shared_ducklake(
    make_scenario: MakeScenario, forker: "subprocess.Popen[str]", ducklake_postgres_url: str
) -> None:
    """The same where the catalog is in PostgreSQL."""
    scenario = make_scenario((6, 5), url=ducklake_postgres_url, max_page_size=5)
    prepare(scenario)
    run, reset = runner(forker, scenario, "sync"), resetting_shared_lake(scenario)
    assert try_every_crash(scenario, run, reset, stride=41) > 50


@pytest.mark.parametrize(
    "stride",
    [pytest.param(23, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.nightly)],
)
def test_a_crash_at_any_step_in_postgresql(
    make_scenario: MakeScenario, forker: "subprocess.Popen[str]", postgres18_url: str, stride: int
) -> None:
    """The same where another engine holds the transactions."""
    scenario = make_scenario((6, 5), url=postgres18_url, max_page_size=5)
    prepare(scenario)
    assert (
        try_every_crash(
            scenario, runner(forker, scenario, "sync"), resetting_database(scenario), stride
        )
        > 50
    )
