"""The main job: what a run promises (docs/promises.md §1, §2), over real HTTP; SQLite, and PostgreSQL where the engine matters."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from etl import config
from etl.simulator import Fault
from etl.simulator.replies import Reply, json_reply
from etl.stopping import Stop
from etl.sync.context import Request as Order
from etl.sync.run import execute
from etl.sync.run_state import RunState
from etl.warehouse.engines import read_url
from tests.acceptance.interceptor import Request
from tests.acceptance.scenario import Scenario, changes, wait_until

MakeScenario = Callable[..., Scenario]

ON_BOTH = pytest.mark.parametrize("url_fixture", ["sqlite_url", "postgres18_url"])


@pytest.fixture
def stocked(
    url_fixture: str, make_scenario: MakeScenario, request: pytest.FixtureRequest
) -> Scenario:
    """A first load of two small services."""
    scenario = make_scenario((60, 40), url=request.getfixturevalue(url_fixture), max_page_size=25)
    scenario.sync()
    return scenario


def test_a_first_load_holds_the_whole_world(scenario: Scenario) -> None:
    """A page, a service or a column that is lost on the way would show here."""
    result = scenario.sync()
    assert result.totals["inserted"] == len(scenario.expected()) == 350
    scenario.assert_equal_to_world()
    assert scenario.query("SELECT * FROM binding_versions") == []


@ON_BOTH
def test_a_first_load_finds_a_sid_that_is_stored_under_another_service(stocked: Scenario) -> None:
    """A first load compares with nothing; a binding that has moved here all the same is one change and keeps its past."""
    old, new = stocked.services[0], stocked.world.add_service(bindings=10)
    sid = old.sids()[5]
    binding = old.bindings[sid] | {"chat_service_sid": new.sid}
    old.remove([sid])
    new.bindings[sid] = binding
    result = stocked.sync("--service", new.sid)
    assert changes(result) == {"inserted": 10, "updated": 1}
    [version] = stocked.query(
        "SELECT chat_service_sid FROM binding_versions WHERE sid = :sid", sid=sid
    )
    assert version["chat_service_sid"] == old.sid
    assert changes(stocked.sync()) == {}
    stocked.assert_equal_to_world()


def test_every_request_is_counted(scenario: Scenario) -> None:
    """Whoever watches the account's limits relies on the totals; finding out which services there are costs requests too."""
    scenario.simulator.faults.add("error-500", on="services", times=1)
    totals = scenario.sync().totals
    assert (totals["requests"], totals["retries"]) == (len(scenario.simulator.requests), 1)
    [line] = scenario.query("SELECT requests, retries FROM sync_runs")
    assert line == {"requests": totals["requests"], "retries": 1}


def test_a_failed_discovery_leaves_its_request_id_in_the_ledger(scenario: Scenario) -> None:
    """Twilio's support asks for it, and the log may be gone by then."""
    scenario.simulator.faults.add("permission", on="services")
    request_id = scenario.sync(expect=4).json["services"][0]["error"]["request_id"]
    [line] = scenario.query("SELECT error FROM sync_runs")
    assert request_id
    assert request_id in line["error"]


class Broken(Stop):
    """Stands for a fault of the program, in a part that the run itself uses."""

    @property
    def requested(self) -> bool:
        raise RuntimeError


def test_a_fault_of_the_program_closes_the_line_of_the_run(scenario: Scenario) -> None:
    """A run that ended must not look as if it were still at work."""
    scenario.account["services"] = [service.sid for service in scenario.services]
    settings = config.load(scenario.write_config(), read_url)
    with pytest.raises(RuntimeError):
        execute(settings, Order(), Broken(), RunState())
    [line] = scenario.query("SELECT status, finished_at, error FROM sync_runs")
    assert line["status"] == "failed"
    assert line["finished_at"]
    assert "RuntimeError" in line["error"]


def test_a_repeat_writes_no_row(scenario: Scenario) -> None:
    """Rewriting what did not change would wear out the warehouse and every replica of it."""
    scenario.sync()
    before = scenario.image()
    result = scenario.sync()
    assert result.totals["unchanged"] == 350
    assert changes(result) == {}
    after = scenario.image()
    for table in ("bindings", "binding_versions", "rejected_bindings"):
        assert after[table] == before[table], table


def test_a_repeat_changes_no_byte_of_the_tables_in_sqlite(scenario: Scenario) -> None:
    """A row written with the values it had before is a write all the same; SQLite's own triggers see it."""
    scenario.sync()
    with sqlite3.connect(scenario.folder / "warehouse.sqlite") as db:
        for table in ("bindings", "binding_versions"):
            for event in ("INSERT", "UPDATE", "DELETE"):
                db.execute(
                    f"CREATE TRIGGER no_{event}_{table} BEFORE {event} ON {table} BEGIN SELECT RAISE(ABORT, 'row written'); END"
                )
    db.close()
    assert scenario.sync().totals["unchanged"] == 350


def test_a_repeat_writes_no_row_in_postgresql(
    make_scenario: MakeScenario, postgres18_url: str
) -> None:
    """An upsert that rewrites rows in place is invisible in their columns, and bloats the table with every run."""
    scenario = make_scenario((60, 40), url=postgres18_url)
    scenario.sync()
    versions = "SELECT sid, xmin::text AS xmin, ctid::text AS ctid FROM bindings ORDER BY sid"
    before = (scenario.query(versions), written(scenario))
    scenario.sync()
    assert (scenario.query(versions), written(scenario)) == before


def written(scenario: Scenario) -> list[dict[str, Any]]:
    """PostgreSQL's own count of rows written, once every session of the run has ended and handed its figures in."""
    sessions = "SELECT pid FROM pg_stat_activity WHERE application_name = 'bindings-etl' AND datname = current_database()"
    wait_until(lambda: not scenario.query(sessions))
    return scenario.query(
        "SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables"
        " WHERE relname IN ('bindings', 'binding_versions') ORDER BY relname"
    )


@ON_BOTH
def test_changes_deletes_and_returns_are_followed(stocked: Scenario) -> None:
    """Each kind of change has its own way through the program; a missed one would leave the warehouse wrong for ever."""
    for service in stocked.services:
        service.delete(3)
        service.touch(7)
        service.grow(5)
    assert changes(stocked.sync()) == {"inserted": 10, "updated": 14, "deleted": 6}
    stocked.assert_equal_to_world()
    for service in stocked.services:
        service.bring_back(2)
    assert changes(stocked.sync()) == {"restored": 4}
    stocked.assert_equal_to_world()


@ON_BOTH
def test_another_order_of_message_types_is_no_change(stocked: Scenario) -> None:
    """The types are a set; taking their order for content would flood the history."""
    before = stocked.image()["bindings"]
    assert all(service.shuffle_message_types(10) for service in stocked.services)
    assert changes(stocked.sync()) == {}
    assert stocked.image()["bindings"] == before


@ON_BOTH
def test_history_tells_every_image_and_when_it_held(stocked: Scenario) -> None:
    """A gap or an overlap in a SID's history would give an analyst two answers, or none, for one moment."""
    service = stocked.services[0]
    [sid] = service.sids()[:1]
    first = stocked.stored()[sid]
    service.change(sid, endpoint="second")
    stocked.sync()
    back = service.bindings[sid]
    service.remove([sid])
    stocked.sync()
    service.put(back)
    stocked.sync()
    past = stocked.query("SELECT * FROM binding_versions WHERE sid = :sid ORDER BY id", sid=sid)
    assert [(one["change"], one["endpoint"]) for one in past] == [
        ("updated", first["endpoint"]), ("deleted", "second"), ("restored", "second"),
    ]  # fmt: skip
    [now] = stocked.query("SELECT * FROM bindings WHERE sid = :sid", sid=sid)
    borders = [past[0]["first_seen_at"], *(one["valid_to"] for one in past)]
    assert [*(one["valid_from"] for one in past), now["changed_at"]] == borders
    assert (now["deleted_at"], now["endpoint"]) == (None, "second")
    assert {one["first_seen_at"] for one in [*past, now]} == {borders[0]}
    runs = [run["id"] for run in stocked.query("SELECT id FROM sync_runs ORDER BY id")]
    assert [one["run_id"] for one in [*past, now]] == [*runs[1:], runs[-1]]
    told = stocked.query(
        "SELECT * FROM binding_history WHERE sid = :sid ORDER BY valid_from", sid=sid
    )
    assert [bool(one["is_deleted"]) for one in told] == [False, False, True, False]
    assert [str(one["valid_to"]) for one in told[:-1]] == [
        str(one["valid_from"]) for one in told[1:]
    ]
    assert told[-1]["valid_to"] is None


@ON_BOTH
def test_a_deleted_row_keeps_its_content_and_says_when(stocked: Scenario) -> None:
    """Soft deletion that loses the row's content, or stamps rows that were deleted before, would be a hard one in disguise."""
    before = stocked.stored()
    gone = stocked.services[0].delete(4)
    stocked.sync()
    deleted = stocked.query(
        "SELECT sid, deleted_at, changed_at, run_id FROM bindings WHERE deleted_at IS NOT NULL ORDER BY sid"
    )
    assert [one["sid"] for one in deleted] == sorted(gone)
    assert all(one["deleted_at"] == one["changed_at"] for one in deleted)
    assert stocked.stored("deleted_at IS NOT NULL") == {sid: before[sid] for sid in gone}
    stocked.sync()
    assert (
        stocked.query(
            "SELECT sid, deleted_at, changed_at, run_id FROM bindings WHERE deleted_at IS NOT NULL ORDER BY sid"
        )
        == deleted
    )


@ON_BOTH
def test_hard_deletes_take_the_row_out_and_a_return_is_a_restore(stocked: Scenario) -> None:
    """The last image of a hard-deleted row lives in the history alone; its return must find `first_seen_at` there."""
    stocked.settings["deletes"] = {"mode": "hard"}
    service = stocked.services[0]
    [sid] = service.delete(1)
    [before] = stocked.query("SELECT * FROM bindings WHERE sid = :sid", sid=sid)
    assert changes(stocked.sync()) == {"deleted": 1}
    assert stocked.query("SELECT * FROM bindings WHERE sid = :sid", sid=sid) == []
    [last] = stocked.query("SELECT * FROM binding_versions WHERE sid = :sid", sid=sid)
    assert (last["change"], last["content_hash"]) == ("deleted", before["content_hash"])
    assert service.bring_back(1) == [sid]
    assert changes(stocked.sync()) == {"restored": 1}
    [after] = stocked.query("SELECT * FROM bindings WHERE sid = :sid", sid=sid)
    assert after["first_seen_at"] == before["first_seen_at"]
    told = stocked.query(
        "SELECT is_deleted FROM binding_history WHERE sid = :sid ORDER BY valid_from", sid=sid
    )
    assert [bool(one["is_deleted"]) for one in told] == [False, True, False]
    stocked.assert_equal_to_world()


def test_ignored_deletes_stay_active_and_cost_no_request(make_scenario: MakeScenario) -> None:
    """`mode: ignore` is for those whose table is an archive; a deletion there would be a loss."""
    scenario = make_scenario((60,))
    scenario.sync()
    before = scenario.image()["bindings"]
    scenario.settings["deletes"] = {"mode": "ignore", "max_fraction": 0, "min_rows": 0}
    scenario.services[0].delete(50)
    result = scenario.sync()
    assert changes(result) == {}
    [told] = result.json["services"]
    assert told["requests"] == told["pages"] == 1
    assert scenario.image()["bindings"] == before


@pytest.mark.parametrize("page_size", [1, 7, 50, 1000])
def test_the_page_size_does_not_change_the_result(
    make_scenario: MakeScenario, page_size: int
) -> None:
    """A size that does not divide the number of rows, or that the server lowers, would lose the rows at the seams."""
    scenario = make_scenario((50, 13), max_page_size=50)
    scenario.account["page_size"] = page_size
    scenario.sync()
    scenario.assert_equal_to_world()


@pytest.mark.parametrize("oversize", ["refuse", "refuse20001"])
def test_a_refused_page_size_is_followed_down(make_scenario: MakeScenario, oversize: str) -> None:
    """Twilio lowered the maximum once without notice; the next run has to go on with smaller pages."""
    scenario = make_scenario((120,), max_page_size=50, oversize=oversize)
    scenario.account["page_size"] = 1000
    scenario.sync()
    scenario.assert_equal_to_world()


@pytest.mark.parametrize("order", ["sid", "updated"])
def test_the_order_of_rows_does_not_change_the_result(
    make_scenario: MakeScenario, order: str
) -> None:
    """The API documents no order; a program that leans on one works by luck."""
    scenario = make_scenario((130, 30), order=order, max_page_size=40)
    scenario.sync()
    for service in scenario.services:
        service.touch(9)
        service.delete(5)
    scenario.sync()
    scenario.assert_equal_to_world()


@pytest.mark.parametrize("quirk", ["empty-page", "duplicate-rows", "error-503:3", "throttle:3"])
def test_quirks_of_the_api_hide_no_change(make_scenario: MakeScenario, quirk: str) -> None:
    """What the API is known to do now and then may neither lose a change nor delete a row that is there."""
    scenario = make_scenario((90, 30), max_page_size=10)
    scenario.sync()
    for service in scenario.services:
        service.touch(5)
        service.delete(2)
    scenario.simulator.faults.add(quirk)
    assert changes(scenario.sync()) == {"updated": 10, "deleted": 4}
    scenario.assert_equal_to_world()


def test_a_relative_next_link_is_followed(make_scenario: MakeScenario) -> None:
    """Twilio's older APIs give path and query only; such a link must not end the listing."""
    scenario = make_scenario((45,), max_page_size=10)
    scenario.simulator.faults.add("relative-link")
    scenario.sync()
    scenario.assert_equal_to_world()


@pytest.mark.parametrize("fault", ["loop", "loop-long"])
def test_a_repeated_link_ends_the_listing(make_scenario: MakeScenario, fault: str) -> None:
    """A link that leads back would keep the run from ever ending."""
    scenario = make_scenario((45,), max_page_size=10)
    scenario.simulator.faults.add(fault)
    [service] = scenario.sync(expect=4).json["services"]
    assert (service["status"], service["complete"], service["error"]["type"]) == (
        "failed",
        False,
        "RepeatedLink",
    )
    assert scenario.stored() == {}


def test_a_repeated_page_under_new_links_ends_the_listing(make_scenario: MakeScenario) -> None:
    """A link that counts up and leads to the same rows for ever is never the same, and the listing never at its end."""
    scenario = make_scenario((45,), max_page_size=10)
    scenario.interceptor.watch = lambda request: (
        same_page(scenario, request) if request.is_listing else None
    )
    [service] = scenario.sync(expect=4).json["services"]
    assert (service["error"]["type"], service["requests"]) == ("RepeatedLink", 12)


def same_page(scenario: Scenario, request: Request) -> Reply:
    """Row one, and a link to the next page that shows it again."""
    row = next(iter(scenario.services[0].bindings.values()))
    link = f"{scenario.simulator.base_url}{request.path}?PageSize=10&Page={request.page + 1}&PageToken=PT0"
    return json_reply(
        {"meta": {"key": "bindings", "page_size": 10, "next_page_url": link}, "bindings": [row]}
    )


def test_a_field_not_known_today_goes_to_extra(make_scenario: MakeScenario) -> None:
    """A new field of the API must neither break the load nor be lost."""
    scenario = make_scenario((20,))
    scenario.sync()
    scenario.simulator.faults.add("unknown-field")
    assert changes(scenario.sync()) == {"updated": 20}
    assert {str(row["extra"]) for row in scenario.stored().values()} == {
        str({"device": {"model": "phone", "os": 17.2}})
    }


@ON_BOTH
def test_the_time_zone_of_the_machine_changes_nothing(stocked: Scenario) -> None:
    """A laptop on the other side of the world must see the same rows as unchanged, and stamp its own in UTC."""
    stocked.services[0].touch(1)
    [latest] = stocked.query("SELECT max(changed_at) AS at FROM bindings")
    result = stocked.wait_for(
        stocked.start("sync", "--json", environment={"TZ": "Pacific/Kiritimati"})
    )
    assert (changes(result), result.totals["unchanged"]) == ({"updated": 1}, 99)
    stocked.assert_equal_to_world()
    [newest] = stocked.query("SELECT max(changed_at) AS at FROM bindings")
    hour = timedelta(hours=1)
    assert (
        timedelta()
        < datetime.fromisoformat(str(newest["at"])) - datetime.fromisoformat(str(latest["at"]))
        < hour
    )


def test_many_batches_publish_as_one(make_scenario: MakeScenario) -> None:
    """A scan of several batches shows nothing until its last page is read, and then everything at once."""
    scenario = make_scenario((130,), max_page_size=1)
    seen: list[int] = []
    scenario.simulator.faults.add(
        Fault("slow", when=lambda asked: looked(scenario, seen, asked.page))
    )
    scenario.sync()
    assert set(seen) == {0}
    scenario.assert_equal_to_world()


def looked(scenario: Scenario, seen: list[int], page: int) -> bool:
    """What a reader sees while page 60 or 125 is asked for, when one or two batches are staged; strikes never."""
    if page in (60, 125):
        [count] = scenario.query("SELECT count(*) AS n FROM bindings")
        seen.append(count["n"])
    return False


def test_a_copy_of_the_file_taken_at_any_time_is_whole(make_scenario: MakeScenario) -> None:
    """Whoever backs up the SQLite file between two runs has to get the warehouse and not a part of it."""
    scenario = make_scenario((30,))
    scenario.sync()
    copy = scenario.folder / "copy.sqlite"
    shutil.copy(scenario.folder / "warehouse.sqlite", copy)
    assert sorted(path.name for path in scenario.folder.iterdir()) == [
        "config.yaml",
        "copy.sqlite",
        "warehouse.sqlite",
    ]
    with sqlite3.connect(copy) as db:
        assert db.execute("SELECT count(*) FROM bindings").fetchone() == (30,)
    db.close()


def test_a_run_loads_the_dialect_of_its_own_engine_only(scenario: Scenario) -> None:
    """Dialects of other engines were a fifth of the CPU of a cron run that finds nothing to do."""
    scenario.write_config()
    script = (
        "import sys; from etl.cli.app import run\n"
        f"code = run(['sync', '--config', {str(scenario.config_path)!r}])\n"
        "begin = 'sqlalchemy.dialects.'\n"
        "loaded = {name.split('.')[2] for name in sys.modules if name.startswith(begin)}\n"
        "sys.exit(f'{code} {loaded}' if code or loaded & {'mysql', 'postgresql'} else 0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_the_longest_listing_is_read_first(make_scenario: MakeScenario) -> None:
    """Begun last, the longest listing would be read alone, with all other places idle."""
    scenario = make_scenario((10, 30, 20), max_page_size=50)
    scenario.account["concurrency"] = 1
    scenario.sync()
    scenario.simulator.requests.clear()
    scenario.sync()
    asked = [request.path for request in scenario.simulator.requests]
    listings = [path for path in asked if path.endswith("/Bindings")]
    small, large, middle = (service.sid for service in scenario.services)
    assert [path.split("/")[3] for path in listings] == [large, middle, small]


def test_pandas_is_left_alone_where_it_is_installed(
    make_scenario: MakeScenario, duckdb_url: str, tmp_path: Path
) -> None:
    """DuckDB loads it at the first statement with parameters: 0.3 s and 80 MB of every run for nothing."""
    trace = tmp_path / "loaded"
    stand_in = f"from pathlib import Path; Path({str(trace)!r}).touch()"
    (tmp_path / "pandas.py").write_text(stand_in, encoding="utf-8")
    scenario = make_scenario((5,), url=duckdb_url)
    for command in (("sync",), ("export", "--out", str(tmp_path / "out"))):
        process = scenario.start(*command, environment={"PYTHONPATH": str(tmp_path)})
        scenario.wait_for(process)
    assert not trace.exists()
