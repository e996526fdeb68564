"""A crash at any instant leaves every service old or new, and the next run puts everything right (docs/promises.md §1, §8)."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.acceptance.crashing import CRASHED, forking
from tests.acceptance.trial import Trial

MakeTrial = Callable[..., Trial]
Run = Callable[[int | None], int]
Reset = Callable[[], None]

ROOT = Path(__file__).parents[2]
BAD_DATE = "half past nine"


@pytest.fixture
def forker() -> Iterator["subprocess.Popen[str]"]:
    """The process that runs commands and crashes them."""
    with forking() as process:
        yield process


def runner(forker: "subprocess.Popen[str]", trial: Trial, *arguments: str) -> Run:
    """Run the command line, to its end or to the N-th step; gives the exit code."""
    trial.write_config()

    def run(at: int | None) -> int:
        assert forker.stdin
        assert forker.stdout
        order = {"arguments": [*arguments, "--config", str(trial.config_path)], "at": at}
        print(json.dumps(order), file=forker.stdin, flush=True)
        return int(forker.stdout.readline())

    return run


def state(trial: Trial) -> dict[str, dict[str, Any]]:
    """What a reader sees of each service: its active rows, its deleted ones, its history."""
    rows = trial.query(
        "SELECT sid, chat_service_sid, content_hash, deleted_at, changed_at, first_seen_at FROM bindings ORDER BY sid"
    )
    past = trial.query(
        "SELECT sid, chat_service_sid, content_hash, valid_from, change FROM binding_versions ORDER BY sid, id"
    )
    return {
        service: {
            "active": trial.stored(f"deleted_at IS NULL AND chat_service_sid = '{service}'"),
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
        for service in trial.world.services
    }


def prepare(trial: Trial, concurrency: int = 1) -> None:
    """A warehouse with rows to insert, update, delete and restore, and one that has gone bad, in two services of two batches."""
    trial.account["concurrency"] = concurrency
    trial.sync()
    for service in trial.services:
        service.delete(2)
    trial.sync()
    for service in trial.services:
        service.bring_back(1)
        service.touch(3)
        service.delete(2)
        service.grow(2)
        bad = service.sids()[0]
        service.put(service.bindings[bad] | {"date_updated": BAD_DATE})


def try_every_crash(trial: Trial, run: Run, reset: Reset, stride: int = 1) -> int:
    """Crash at each step in turn until none is left; after each, look, run again, and compare with an undisturbed run."""
    old = state(trial)
    assert run(None) == 0
    new = state(trial)
    assert all(old[service] != new[service] for service in old)
    at = 0
    while True:
        at += stride
        reset()
        assert state(trial) == old
        code = run(at)
        seen = state(trial)
        for service in seen:
            assert seen[service] in (old[service], new[service]), (
                f"half of {service} after a crash at step {at}"
            )
        if code == 0:
            return at
        assert code == CRASHED
        trial.expire_leases()
        assert run(None) == 0, f"after a crash at step {at}"
        assert_whole(trial, run, new)


def assert_whole(trial: Trial, run: Run, new: dict[str, dict[str, Any]]) -> None:
    """Everything is as if nothing had happened, at the latest after one more run: what went on half way deletes nothing."""
    seen = state(trial)
    if any(seen[service]["deleted"] != new[service]["deleted"] for service in seen):
        assert trial.query("SELECT id FROM sync_scans WHERE resumed")
        assert run(None) == 0
        seen = state(trial)
    for service in seen:
        assert (seen[service]["active"], seen[service]["deleted"]) == (
            new[service]["active"],
            new[service]["deleted"],
        )
        assert sorted(seen[service]["past"]) == sorted(new[service]["past"])
    assert trial.query("SELECT * FROM sync_leases") == []
    assert (
        trial.query(
            "SELECT stage_id FROM scan_progress UNION SELECT stage_id FROM scan_seen UNION SELECT stage_id FROM scan_staged "
            "UNION SELECT stage_id FROM scan_absent"
        )
        == []
    )
    assert trial.query("SELECT id FROM sync_scans WHERE status = 'running'") == []
    assert trial.query("SELECT id FROM sync_runs WHERE status = 'running'") == []
    assert len(trial.query("SELECT id FROM rejected_bindings WHERE resolved_at IS NULL")) == len(
        trial.services
    )


def resetting_file(trial: Trial) -> Reset:
    """Bring the SQLite file back as it is now."""
    file, copy = trial.folder / "warehouse.sqlite", trial.folder / "before.sqlite"
    shutil.copy(file, copy)

    def reset() -> None:
        for path in trial.folder.glob("warehouse.sqlite*"):
            path.unlink()
        shutil.copy(copy, file)

    return reset


def resetting_database(trial: Trial) -> Reset:
    """Bring the PostgreSQL database back as it is now."""
    url = sa.make_url(trial.warehouse_url)
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


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), 13])
def test_a_crash_at_any_step_in_sqlite(
    make_trial: MakeTrial, forker: "subprocess.Popen[str]", stride: int
) -> None:
    """If a crash between two statements could be seen, then one day it would be."""
    trial = make_trial((6, 5), max_page_size=5)
    prepare(trial)
    assert try_every_crash(trial, runner(forker, trial, "sync"), resetting_file(trial), stride) > 50


@pytest.mark.slow
def test_a_crash_between_batches(make_trial: MakeTrial, forker: "subprocess.Popen[str]") -> None:
    """A scan of several batches goes on where it crashed; what it had put by then counts once and not twice."""
    trial = make_trial((56, 5), max_page_size=1)
    prepare(trial)
    assert (
        try_every_crash(trial, runner(forker, trial, "sync"), resetting_file(trial), stride=4) > 50
    )


@pytest.mark.slow
def test_a_crash_while_chains_are_linked(
    make_trial: MakeTrial, forker: "subprocess.Popen[str]"
) -> None:
    """What was staged apart must neither be published by half nor stay for ever."""
    trial = make_trial((24, 5), max_page_size=1)
    trial.account |= {"chains_per_service": 3, "page_size": 1}
    prepare(trial, concurrency=3)
    assert trial.query("SELECT link FROM page_links")
    assert (
        try_every_crash(trial, runner(forker, trial, "sync"), resetting_file(trial), stride=7) > 50
    )


@pytest.mark.slow
def test_a_crash_at_any_step_in_postgresql(
    make_trial: MakeTrial, forker: "subprocess.Popen[str]", postgres18_url: str
) -> None:
    """The same where another engine holds the transactions."""
    trial = make_trial((6, 5), url=postgres18_url, max_page_size=5)
    prepare(trial)
    assert (
        try_every_crash(trial, runner(forker, trial, "sync"), resetting_database(trial), stride=5)
        > 50
    )
