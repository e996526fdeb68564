"""`--metrics-file`: the names that dashboards hold on to, whatever came of the run (docs/alerts.md; docs/promises.md §15)."""

import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from etl.simulator.replies import Reply, error
from tests.acceptance.interceptor import Request
from tests.acceptance.scenario import Scenario

MakeScenario = Callable[..., Scenario]
Labels = tuple[tuple[str, str], ...]

RUN = {"timestamp_seconds", "duration_seconds", "exit_code", "requests", "retries"}
SERVICE = {"last_complete_timestamp_seconds", "active", "rejected_open", "rows", "up"}
NAMES = {f"bindings_etl_run_{name}" for name in RUN} | {
    f"bindings_etl_service_{name}" for name in SERVICE
}


class Metrics:
    """A metrics file as Prometheus reads it."""

    def __init__(self, path: Path) -> None:
        families = list(text_string_to_metric_families(path.read_text()))
        assert {family.type for family in families} == {"gauge"}
        assert {family.name for family in families} == NAMES
        samples = [sample for family in families for sample in family.samples]
        self.values: dict[tuple[str, Labels], float] = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples
        }
        assert len(self.values) == len(samples)

    def run(self, name: str) -> float:
        return self.values[f"bindings_etl_run_{name}", ()]

    def service(self, name: str, sid: str, **labels: str) -> float:
        at = {"account": "main", "chat_service_sid": sid, **labels}
        return self.values[f"bindings_etl_service_{name}", tuple(sorted(at.items()))]

    def services(self, name: str) -> set[str]:
        return {
            dict(labels)["chat_service_sid"]
            for metric, labels in self.values
            if metric == f"bindings_etl_service_{name}"
        }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "textfiles"
    folder.mkdir()
    return folder / "bindings_etl.prom"


def test_a_run_that_went_well_tells_all(make_scenario: MakeScenario, path: Path) -> None:
    """Every name that dashboards hold on to, with the values that ledger and warehouse show."""
    scenario = make_scenario((30, 12))
    one, other = scenario.services
    scenario.sync()
    gone = one.delete(3)
    one.grow(5)
    other.touch(2)
    began_at = time.time()
    result = scenario.sync("--metrics-file", str(path))
    told = Metrics(path)
    assert began_at - 1 <= told.run("timestamp_seconds") <= time.time() + 1
    assert 0 < told.run("duration_seconds") < 60
    assert (told.run("exit_code"), told.run("retries")) == (0, 0)
    assert told.run("requests") == result.totals["requests"]
    for service, rows in (
        (one, {"inserted": 5, "unchanged": 27, "deleted": len(gone)}),
        (other, {"updated": 2, "unchanged": 10}),
    ):
        for change in ("inserted", "updated", "unchanged", "deleted", "restored", "rejected"):
            assert told.service("rows", service.sid, change=change) == rows.get(change, 0)
        assert told.service("up", service.sid) == 1
        assert told.service("active", service.sid) == len(service)
        assert told.service("rejected_open", service.sid) == 0
        [line] = scenario.query(
            "SELECT last_complete_at FROM service_freshness WHERE chat_service_sid = :sid",
            sid=service.sid,
        )
        moment = datetime.fromisoformat(f"{line['last_complete_at']}+00:00")
        age = told.service("last_complete_timestamp_seconds", service.sid)
        assert age == pytest.approx(moment.timestamp(), abs=0.001)
    assert list(path.parent.iterdir()) == [path]


def test_the_variable_does_for_the_option(
    scenario: Scenario, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container the environment is where such a path is set."""
    monkeypatch.setenv("BINDINGS_ETL_METRICS_FILE", str(path))
    scenario.backfill()
    assert Metrics(path).run("exit_code") == 0


def test_a_service_that_failed_is_down_and_keeps_its_age(
    make_scenario: MakeScenario, path: Path
) -> None:
    """A stale service must stay visible with its last good time, or the alert on it goes silent when it is needed."""
    scenario = make_scenario((30, 12))
    one, other = scenario.services
    scenario.sync("--metrics-file", str(path))
    before = Metrics(path)
    scenario.interceptor.watch = lambda request: (
        error(20006) if request.is_listing and request.service == other.sid else None
    )
    scenario.sync("--metrics-file", str(path), expect=3)
    after = Metrics(path)
    name = "last_complete_timestamp_seconds"
    assert after.run("exit_code") == 3
    assert (after.service("up", one.sid), after.service("up", other.sid)) == (1, 0)
    assert after.service(name, other.sid) == before.service(name, other.sid)
    assert after.service(name, one.sid) > before.service(name, one.sid)


def test_an_account_that_cannot_be_read_leaves_its_services_in_sight(
    make_scenario: MakeScenario, path: Path
) -> None:
    """With a revoked key not even the list of services is known; that is when somebody has to be called."""
    scenario = make_scenario((30,))
    scenario.sync()
    scenario.interceptor.watch = lambda _request: error(20003)
    scenario.sync("--metrics-file", str(path), expect=4)
    told = Metrics(path)
    sid = scenario.services[0].sid
    assert (told.run("exit_code"), told.service("up", sid), told.service("active", sid)) == (
        4,
        0,
        30,
    )
    assert told.services("rows") == set()


def test_only_what_was_asked_for_is_told(make_scenario: MakeScenario, path: Path) -> None:
    """Shards write a file each into one folder; a figure that stood in two would make the collector refuse both."""
    scenario = make_scenario((3, 3, 3, 3, 3, 3))
    scenario.sync()
    told = []
    for index in range(3):
        scenario.sync("--metrics-file", str(path), "--shard", f"{index}/3")
        told.append(Metrics(path).services("active"))
    assert sorted(sid for sids in told for sid in sids) == sorted(scenario.world.services)
    scenario.sync("--metrics-file", str(path), "--service", scenario.services[0].sid)
    assert Metrics(path).services("active") == {scenario.services[0].sid}


def test_a_configuration_that_is_wrong_is_told(scenario: Scenario, path: Path) -> None:
    """A fault in a file that was just rolled out stops every run; the figures must say so (exit 2)."""
    scenario.settings["retry"]["attempts"] = "many"
    began_at = time.time()
    scenario.sync("--metrics-file", str(path), expect=2)
    told = Metrics(path)
    assert told.run("exit_code") == 2
    assert began_at - 1 <= told.run("timestamp_seconds") <= time.time() + 1
    assert told.run("duration_seconds") >= 0
    assert told.services("active") == set()


def test_a_warehouse_that_is_missing_is_told(scenario: Scenario, path: Path) -> None:
    """The warehouse being down is the most likely of all nights' troubles (exit 7)."""
    scenario.settings["warehouse"]["url"] = "sqlite:////nowhere/at/all.db"
    result = scenario.sync("--metrics-file", str(path), expect=7)
    assert Metrics(path).run("exit_code") == 7
    assert "freshness" not in result.err


def test_a_run_that_found_all_leased_is_told(make_scenario: MakeScenario, path: Path) -> None:
    """Runs that overlap for ever would otherwise look like runs that work (exit 6)."""
    scenario = make_scenario((3,))
    scenario.sync()
    scenario.execute(
        "INSERT INTO sync_leases VALUES (:sid, 'service', 'o', 1, 'h', :past, :future)",
        sid=scenario.services[0].sid,
        past="2001-01-01 00:00:00.000000",
        future="2999-01-01 00:00:00.000000",
    )
    scenario.sync("--metrics-file", str(path), expect=6)
    told = Metrics(path)
    assert (told.run("exit_code"), told.service("up", scenario.services[0].sid)) == (6, 0)


def test_a_run_that_was_stopped_is_told(scenario: Scenario, path: Path) -> None:
    """A run that is cut off every time would never be seen if only its end wrote the file (exit 143)."""
    asked, ended = threading.Event(), threading.Event()

    def hold(request: Request) -> Reply | None:
        if request.is_listing:
            asked.set()
            ended.wait(120)
        return None

    scenario.interceptor.watch = hold
    process = scenario.start("sync", "--metrics-file", str(path))
    assert asked.wait(120)
    process.terminate()
    try:
        scenario.wait_for(process, expect=143)
    finally:
        ended.set()
    assert Metrics(path).run("exit_code") == 143


def test_a_dry_run_writes_no_figures(scenario: Scenario, path: Path) -> None:
    """A dry run in a shell of production must not tell the dashboards that the data is fresh."""
    scenario.sync("--dry-run", "--metrics-file", str(path))
    assert not path.exists()


def test_a_file_that_cannot_be_written_costs_a_warning(scenario: Scenario, tmp_path: Path) -> None:
    """Telemetry never fails a run (docs/promises.md §15)."""
    result = scenario.sync("--metrics-file", str(tmp_path / "missing" / "x.prom"))
    assert "telemetry.undelivered" in result.err
    assert "No such file or directory" in result.err
    scenario.assert_equal_to_world()


@pytest.mark.slow
def test_a_warehouse_that_gives_no_figures_costs_no_more_than_seconds(
    make_scenario: MakeScenario, postgres18_url: str, path: Path
) -> None:
    """Once all is published, a lock that somebody holds must not keep the run: its own figures are written."""
    scenario = make_scenario((3,), url=postgres18_url)
    [row] = scenario.query("SELECT pg_get_viewdef('service_freshness'::regclass) AS body")
    body = row["body"].rstrip("; ")
    scenario.execute("CREATE TABLE held (one int)")
    scenario.execute(
        f"CREATE OR REPLACE VIEW service_freshness AS SELECT f.* FROM ({body}) AS f LEFT JOIN held ON false"
    )
    engine = sa.create_engine(postgres18_url, poolclass=sa.NullPool)
    with engine.connect() as conn:
        conn.exec_driver_sql("LOCK TABLE held IN ACCESS EXCLUSIVE MODE")
        began_at = time.monotonic()
        result = scenario.sync("--metrics-file", str(path))
        assert time.monotonic() - began_at < 60  # a busy machine adds to the five
    assert "freshness.unread" in result.err
    told = Metrics(path)
    assert (told.run("exit_code"), told.service("up", scenario.services[0].sid)) == (0, 1)
