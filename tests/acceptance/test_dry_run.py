"""`--dry-run` reads, compares, prints the plan, and writes nothing at all; and the plan is what the next run does."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.scenario import Scenario, changes
from tests.acceptance.test_exit_codes import COUNTERS, RUN, SERVICE, assert_types
from tests.servers.postgres import PostgresServer

MakeScenario = Callable[..., Scenario]


def fingerprint(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file but the configuration: its bytes, and when it was last written."""
    files = [path for path in sorted(folder.iterdir()) if path.name != "config.yaml"]
    return {
        path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in files
    }


def unsettle(scenario: Scenario) -> None:
    """Changes of every kind at once."""
    for service in scenario.services:
        service.bring_back(2)
        service.touch(6)
        service.shuffle_message_types(4)
        service.delete(3)
        service.grow(5)
        service.put(service.bindings[service.sids()[0]] | {"date_created": "never"})


@pytest.fixture
def unsettled(make_scenario: MakeScenario) -> Scenario:
    """A warehouse that lags behind its world."""
    scenario = make_scenario((60, 40), max_page_size=15)
    scenario.sync()
    for service in scenario.services:
        service.delete(4)
    scenario.sync()
    unsettle(scenario)
    return scenario


@pytest.mark.parametrize("command", ["sync", "backfill"])
def test_a_dry_run_writes_no_byte(unsettled: Scenario, command: str) -> None:
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
    make_scenario: MakeScenario, own_postgres18: PostgresServer
) -> None:
    """A dry run that takes a transaction id has written something, if only a lease."""
    # A server to itself: transaction ids are counted over all its databases.
    url = own_postgres18.create_database()
    scenario = make_scenario((60, 40), url=url, max_page_size=15).migrate()
    scenario.sync()
    unsettle(scenario)
    before = (
        scenario.image(),
        scenario.query("SELECT pg_snapshot_xmax(pg_current_snapshot())::text AS next"),
    )
    assert changes(scenario.sync("--dry-run"))
    assert (
        scenario.image(),
        scenario.query("SELECT pg_snapshot_xmax(pg_current_snapshot())::text AS next"),
    ) == before


@pytest.mark.parametrize("mode", ["soft", "hard", "ignore"])
def test_the_plan_is_what_the_next_run_does(make_scenario: MakeScenario, mode: str) -> None:
    """A plan that counts otherwise than the run is worse than none."""
    scenario = make_scenario((60, 40), max_page_size=15)
    scenario.settings["deletes"] = {"mode": mode}
    scenario.sync()
    for service in scenario.services:
        service.delete(4)
    scenario.sync()
    unsettle(scenario)
    plan, done = scenario.sync("--dry-run"), scenario.sync()
    assert plan.totals == done.totals
    assert changes(done)
    for sid in scenario.world.services:
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
    unsettled: Scenario, arguments: tuple[str, ...]
) -> None:
    """What a filter leaves out must be left out of the plan as well."""
    plan = unsettled.backfill("--dry-run", *arguments)
    assert plan.totals == unsettled.backfill(*arguments).totals


def test_the_plan_knows_a_row_that_moved_behind_the_reader(make_scenario: MakeScenario) -> None:
    """A living row that the listing missed is asked about in a plan too, and is no delete there either."""
    scenario = make_scenario((60,), order="updated", max_page_size=10)
    scenario.sync()
    service = scenario.services[0]
    gone = service.delete(3)
    hidden = next(sid for sid in service.sids() if sid not in gone)
    service.change(hidden, endpoint="new")
    scenario.simulator.faults.add("duplicate-rows")
    body = service.bindings[hidden]

    def hide(request: object) -> None:
        """Listed by nobody, and there when asked for by name."""
        path = str(getattr(request, "path", ""))
        if path.endswith("/Bindings"):
            service.remove([hidden])
        elif path.endswith(hidden):
            service.put(body)

    scenario.interceptor.watch = hide
    plan = scenario.sync("--dry-run")
    service.remove([hidden])
    done = scenario.sync()
    assert changes(plan) == changes(done) == {"deleted": 3, "updated": 1}
    assert plan.totals["unchanged"] == done.totals["unchanged"]


def test_a_plan_that_the_guard_would_refuse_says_so(make_scenario: MakeScenario) -> None:
    """A dry run is the place to find out that the next run will refuse."""
    scenario = make_scenario((100,))
    scenario.sync()
    scenario.services[0].delete(50)
    result = scenario.sync("--dry-run", expect=5)
    assert (result.json["status"], changes(result)) == ("refused", {})
    assert changes(scenario.sync("--dry-run", "--allow-mass-delete")) == {"deleted": 50}
    assert len(scenario.stored()) == 100


def test_a_plan_of_a_service_that_fails(make_scenario: MakeScenario) -> None:
    """A plan with a hole must not look whole."""
    scenario = make_scenario((30, 20))
    struck = scenario.services[1].sid
    scenario.simulator.faults.add("forbidden", service=struck)
    result = scenario.sync("--dry-run", expect=3)
    assert result.services[struck]["status"] == "failed"
    assert changes(result) == {"inserted": 30}


def test_a_dry_run_needs_no_lease(make_scenario: MakeScenario) -> None:
    """A plan can be made while a run is at work, since it writes nothing."""
    scenario = make_scenario((20,))
    scenario.sync()
    scenario.execute(
        "INSERT INTO sync_leases (chat_service_sid, scope, owner, run_id, host, acquired_at, expires_at)"
        " VALUES (:sid, 'service', 'somebody', 99, 'elsewhere', '2026-01-01 00:00:00.000000', '2099-01-01 00:00:00.000000')",
        sid=scenario.services[0].sid,
    )
    assert scenario.sync("--dry-run").totals["unchanged"] == 20


def test_a_dry_run_makes_no_file(make_scenario: MakeScenario, tmp_path: Path) -> None:
    """SQLite makes a file of any name that is opened; a dry run against a wrong path must not leave one."""
    scenario = make_scenario((10,))
    scenario.settings["warehouse"]["url"] = f"sqlite:///{tmp_path / 'typing-error.sqlite'}"
    scenario.sync("--dry-run", expect=7)
    assert not (tmp_path / "typing-error.sqlite").exists()


@pytest.mark.slow  # what it remembers has to outgrow SQLite's memory before it goes to disk
def test_a_full_temporary_folder_is_told_as_what_it_is(make_scenario: MakeScenario) -> None:
    """A full /tmp is the operator's to clear; called a fault of the program, it would be reported to us."""
    scenario = make_scenario((100_000,), max_page_size=1000)
    scenario.account |= {"page_size": 1000, "services": list(scenario.world.services)}
    scenario.write_config()
    program = f"{sys.executable} -m etl sync --dry-run --json --config {scenario.config_path}"
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
