"""`--dry-run` reads, compares, prints the plan, and writes nothing at all; and the plan is what the next run does."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.test_exit_codes import COUNTERS, RUN, SERVICE, assert_types
from tests.acceptance.trial import Trial, changes
from tests.servers.postgres import PostgresServer

MakeTrial = Callable[..., Trial]


def fingerprint(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file but the configuration: its bytes, and when it was last written."""
    files = [path for path in sorted(folder.iterdir()) if path.name != "config.yaml"]
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in files
    }


def unsettle(trial: Trial) -> None:
    """Changes of every kind at once."""
    for service in trial.services:
        service.bring_back(2)
        service.touch(6)
        service.shuffle_message_types(4)
        service.delete(3)
        service.grow(5)
        service.put(service.bindings[service.sids()[0]] | {"date_created": "never"})


@pytest.fixture
def unsettled(make_trial: MakeTrial) -> Trial:
    """A warehouse that lags behind its world."""
    trial = make_trial((60, 40), max_page_size=15)
    trial.sync()
    for service in trial.services:
        service.delete(4)
    trial.sync()
    unsettle(trial)
    return trial


@pytest.mark.parametrize("command", ["sync", "backfill"])
def test_a_dry_run_writes_no_byte(unsettled: Trial, command: str) -> None:
    """Whoever tries a new configuration on the real warehouse relies on nothing happening, not even in the ledger."""
    before = fingerprint(unsettled.folder)
    result = unsettled.run(command, "--dry-run", "--json")
    assert fingerprint(unsettled.folder) == before
    document = result.json
    assert_types(document, RUN | {"run_id": type(None)})
    assert (document["mode"], document["dry_run"]) == (command, True)
    for service in document["services"]:
        assert_types(service, SERVICE)


def test_a_dry_run_writes_no_row_in_postgresql(
    make_trial: MakeTrial, own_postgres18: PostgresServer
) -> None:
    """A dry run that takes a transaction id has written something, if only a lease."""
    # A server to itself: transaction ids are counted over all its databases.
    url = own_postgres18.create_database()
    trial = make_trial((60, 40), url=url, max_page_size=15).migrate()
    trial.sync()
    unsettle(trial)
    before = (
        trial.image(),
        trial.query("SELECT pg_snapshot_xmax(pg_current_snapshot())::text AS next"),
    )
    assert changes(trial.sync("--dry-run"))
    assert (
        trial.image(),
        trial.query("SELECT pg_snapshot_xmax(pg_current_snapshot())::text AS next"),
    ) == before


@pytest.mark.parametrize("mode", ["soft", "hard", "ignore"])
def test_the_plan_is_what_the_next_run_does(make_trial: MakeTrial, mode: str) -> None:
    """A plan that counts otherwise than the run is worse than none."""
    trial = make_trial((60, 40), max_page_size=15)
    trial.settings["deletes"] = {"mode": mode}
    trial.sync()
    for service in trial.services:
        service.delete(4)
    trial.sync()
    unsettle(trial)
    plan, done = trial.sync("--dry-run"), trial.sync()
    assert plan.totals == done.totals
    assert changes(done)
    for sid in trial.world.services:
        assert {name: plan.services[sid][name] for name in COUNTERS} == {
            name: done.services[sid][name] for name in COUNTERS
        }


@pytest.mark.parametrize(
    "arguments",
    [
        ("--type", "apn"),
        ("--type", "fcm", "--type", "gcm"),
        ("--since", "2023-01-01"),
        ("--until", "2022-06-30"),
    ],
)
def test_the_plan_of_a_narrowed_backfill_is_what_it_does(
    unsettled: Trial, arguments: tuple[str, ...]
) -> None:
    """What a filter leaves out must be left out of the plan as well."""
    plan = unsettled.backfill("--dry-run", *arguments)
    assert plan.totals == unsettled.backfill(*arguments).totals


def test_the_plan_knows_a_row_that_moved_behind_the_reader(make_trial: MakeTrial) -> None:
    """A living row that the listing missed is asked about in a plan too, and is no delete there either."""
    trial = make_trial((60,), order="updated", max_page_size=10)
    trial.sync()
    service = trial.services[0]
    gone = service.delete(3)
    hidden = next(sid for sid in service.sids() if sid not in gone)
    service.change(hidden, endpoint="new")
    trial.simulator.faults.add("duplicate-rows")
    body = service.bindings[hidden]

    def hide(request: object) -> None:
        """Listed by nobody, and there when asked for by name."""
        path = str(getattr(request, "path", ""))
        if path.endswith("/Bindings"):
            service.remove([hidden])
        elif path.endswith(hidden):
            service.put(body)

    trial.front.watch = hide
    plan = trial.sync("--dry-run")
    service.remove([hidden])
    done = trial.sync()
    assert changes(plan) == changes(done) == {"deleted": 3, "updated": 1}
    assert plan.totals["unchanged"] == done.totals["unchanged"]


def test_a_plan_that_the_guard_would_refuse_says_so(make_trial: MakeTrial) -> None:
    """A dry run is the place to find out that the next run will refuse."""
    trial = make_trial((100,))
    trial.sync()
    trial.services[0].delete(50)
    result = trial.sync("--dry-run", expect=5)
    assert (result.json["status"], changes(result)) == ("refused", {})
    assert changes(trial.sync("--dry-run", "--allow-mass-delete")) == {"deleted": 50}
    assert len(trial.stored()) == 100


def test_a_plan_of_a_service_that_fails(make_trial: MakeTrial) -> None:
    """A plan with a hole must not look whole."""
    trial = make_trial((30, 20))
    struck = trial.services[1].sid
    trial.simulator.faults.add("forbidden", service=struck)
    result = trial.sync("--dry-run", expect=3)
    assert result.services[struck]["status"] == "failed"
    assert changes(result) == {"inserted": 30}


def test_a_dry_run_needs_no_lease(make_trial: MakeTrial) -> None:
    """A plan can be made while a run is at work, since it writes nothing."""
    trial = make_trial((20,))
    trial.sync()
    trial.execute(
        "INSERT INTO sync_leases (chat_service_sid, scope, owner, run_id, host, acquired_at, expires_at)"
        " VALUES (:sid, 'service', 'somebody', 99, 'elsewhere', '2026-01-01 00:00:00.000000', '2099-01-01 00:00:00.000000')",
        sid=trial.services[0].sid,
    )
    assert trial.sync("--dry-run").totals["unchanged"] == 20


def test_a_dry_run_makes_no_file(make_trial: MakeTrial, tmp_path: Path) -> None:
    """SQLite makes a file of any name that is opened; a dry run against a wrong path must not leave one."""
    trial = make_trial((10,))
    trial.settings["warehouse"]["url"] = f"sqlite:///{tmp_path / 'typing-error.sqlite'}"
    trial.sync("--dry-run", expect=7)
    assert not (tmp_path / "typing-error.sqlite").exists()


@pytest.mark.slow  # what it remembers has to outgrow SQLite's memory before it goes to disk
def test_a_full_temporary_folder_is_told_as_what_it_is(make_trial: MakeTrial) -> None:
    """A full /tmp is the operator's to clear; called a fault of the program, it would be reported to us."""
    trial = make_trial((100_000,), max_page_size=1000)
    trial.account |= {"page_size": 1000, "services": list(trial.world.services)}
    trial.write_config()
    program = f"{sys.executable} -m etl sync --dry-run --json --config {trial.config_path}"
    ended = subprocess.run(
        ["bash", "-c", f"ulimit -f 64; exec {program}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    error = json.loads(ended.stdout)["services"][0]["error"]
    assert error["type"] == "ScratchUnusable"
    assert "temporary folder" in error["message"]
    assert "SQLITE_TMPDIR" in error["message"]
