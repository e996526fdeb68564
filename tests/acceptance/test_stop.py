"""Asked to stop, a run ends soon, leaves nothing half, and the next one goes on (docs/commands.md, 130 and 143)."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from subprocess import Popen

import pytest
import sqlalchemy as sa

from etl.simulator.replies import Reply
from tests.acceptance.interceptor import Request
from tests.acceptance.scenario import Scenario, changes, wait_until
from tests.servers.folder import free_port

MakeScenario = Callable[..., Scenario]

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Gate:
    """Lets listings through up to a page; what asks for it, or a later one, waits there until the gate is opened."""

    def __init__(self, scenario: Scenario, page: int) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()
        self._page = page
        scenario.interceptor.watch = self._watch

    def _watch(self, request: Request) -> Reply | None:
        if request.is_listing and request.page >= self._page:
            self.reached.set()
            self._open.wait(300)
        return None

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gates() -> Iterator[list[Gate]]:
    """Gates to be opened in the end, so that no thread of the simulator is left waiting."""
    made: list[Gate] = []
    yield made
    for gate in made:
        gate.open()


def stop_at(
    scenario: Scenario,
    gates: list[Gate],
    page: int,
    *signals: signal.Signals,
    command: str = "sync",
) -> "Popen[str]":
    """Start a run and send signals once it has asked for this page, which is not answered."""
    gate = Gate(scenario, page)
    gates.append(gate)
    process = scenario.start(command, "--json")
    assert gate.reached.wait(120)
    for number in signals:
        process.send_signal(number)
    return process


@pytest.mark.parametrize("number", CODES)
def test_a_signal_stops_the_run_and_the_next_one_goes_on(
    make_scenario: MakeScenario, gates: list[Gate], number: signal.Signals
) -> None:
    """Kubernetes and Ctrl-C come without warning: what was read is kept, nothing is half, no lease is left, the rest follows."""
    scenario = make_scenario((90,), max_page_size=10)
    process = stop_at(scenario, gates, 6, number)
    result = scenario.wait_for(process, expect=CODES[number])
    gates[0].open()
    assert result.json["status"] == "interrupted"
    [told] = result.json["services"]
    assert (told["status"], told["complete"], told["error"]["type"]) == (
        "interrupted",
        False,
        "Interrupted",
    )
    assert scenario.stored() == {}
    assert [run["status"] for run in scenario.query("SELECT status FROM sync_runs")] == [
        "interrupted"
    ]
    assert [scan["status"] for scan in scenario.query("SELECT status FROM sync_scans")] == [
        "interrupted"
    ]
    assert scenario.query("SELECT * FROM sync_leases") == []
    scenario.interceptor.watch = None
    [told] = scenario.sync().json["services"]
    assert (told["resumed"], told["complete"], told["pages"], told["inserted"]) == (
        True,
        False,
        3,
        90,
    )
    assert [
        bool(scan["resumed"])
        for scan in scenario.query("SELECT resumed FROM sync_scans ORDER BY id")
    ] == [False, True]
    scenario.assert_equal_to_world()


def test_a_resumed_scan_deletes_nothing(make_scenario: MakeScenario, gates: list[Gate]) -> None:
    """Between the two halves rows may have moved from one into the other; only a scan in one go proves absence."""
    scenario = make_scenario((90,), max_page_size=10)
    scenario.sync()
    service = scenario.services[0]
    gone = service.delete(8)
    service.touch(20)
    scenario.wait_for(stop_at(scenario, gates, 4, signal.SIGTERM), expect=143)
    gates[0].open()
    scenario.interceptor.watch = None
    assert changes(scenario.sync()) == {"updated": 20}
    assert scenario.stored().keys() >= set(gone)
    assert changes(scenario.sync()) == {"deleted": 8}
    scenario.assert_equal_to_world()


@contextmanager
def hanging(scenario: Scenario) -> Iterator[None]:
    """A database that lets nobody write, and answers whoever tries neither yes nor no."""
    engine = sa.create_engine(
        scenario.warehouse_url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT"
    )
    is_sqlite = engine.dialect.name == "sqlite"
    try:
        with engine.connect() as conn:
            conn.execute(sa.text("BEGIN IMMEDIATE" if is_sqlite else "BEGIN"))
            if not is_sqlite:
                conn.execute(sa.text("LOCK TABLE sync_leases, sync_runs IN ACCESS EXCLUSIVE MODE"))
            yield
            conn.execute(sa.text("ROLLBACK"))
    finally:
        engine.dispose()


@pytest.mark.parametrize("url_fixture", ["sqlite_url", "postgres18_url"])
def test_a_database_that_hangs_does_not_keep_a_stopped_run(
    make_scenario: MakeScenario, gates: list[Gate], url_fixture: str, request: pytest.FixtureRequest
) -> None:
    """Kubernetes kills after its patience, and then nobody hears what became of the run; what was not committed is undone."""
    scenario = make_scenario((90,), max_page_size=10, url=request.getfixturevalue(url_fixture))
    gate = Gate(scenario, 6)
    gates.append(gate)
    process = scenario.start("sync", "--json")
    assert gate.reached.wait(120)
    wait_until(lambda: scenario.query("SELECT id FROM sync_scans"))
    with hanging(scenario):
        gate.open()
        process.send_signal(signal.SIGTERM)
        process.wait(40)  # 10 are promised; a minute and more is what a driver would take
    result = scenario.wait_for(process, expect=143)
    assert result.json["status"] == "interrupted"
    [told] = result.json["services"]
    assert (told["status"], told["error"]["type"]) == ("interrupted", "Interrupted")
    assert "did not come to an end in time" in told["error"]["message"]
    assert scenario.stored() == {}
    scenario.interceptor.watch = None
    scenario.expire_leases()
    scenario.sync()
    scenario.assert_equal_to_world()


def test_a_second_signal_ends_at_once(make_scenario: MakeScenario, gates: list[Gate]) -> None:
    """Whoever presses Ctrl-C twice does not want to wait, nor to hear more; what is committed is whole all the same."""
    scenario = make_scenario((90,), max_page_size=10)
    gate = Gate(scenario, 6)
    gates.append(gate)
    process = scenario.start("sync", "--json")
    assert gate.reached.wait(120)
    with hanging(scenario):  # else the first signal alone might be enough
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        result = scenario.wait_for(process, expect=None)
    assert result.code in CODES.values()
    assert result.out == ""
    assert scenario.stored() == {}
    gate.open()
    scenario.interceptor.watch = None
    scenario.expire_leases()
    scenario.sync()
    scenario.assert_equal_to_world()


@pytest.mark.parametrize("timeout", [1, pytest.param(60, marks=pytest.mark.slow)])
def test_a_signal_while_services_are_listed(
    make_scenario: MakeScenario, gates: list[Gate], timeout: int
) -> None:
    """A stop may come before any service is known, and while a socket hangs; the run ends soon all the same."""
    scenario = make_scenario((10,))
    scenario.settings["retry"] |= {"timeout_seconds": timeout, "attempts": 100}
    gate = Gate(scenario, 99)
    gates.append(gate)
    asked = threading.Event()

    def watch(request: Request) -> Reply | None:
        asked.set()
        gate._open.wait(300)
        return None

    scenario.interceptor.watch = watch
    process = scenario.start("sync", "--json")
    assert asked.wait(120)
    process.send_signal(signal.SIGTERM)
    process.wait(40)
    result = scenario.wait_for(process, expect=143)
    assert result.json["status"] == "interrupted"
    assert [run["status"] for run in scenario.query("SELECT status FROM sync_runs")] == [
        "interrupted"
    ]


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("command", ["sync", "backfill", "rejects retry"])
def test_a_signal_before_the_warehouse_is_open(
    make_scenario: MakeScenario, number: signal.Signals, command: str
) -> None:
    """A stop while the warehouse is down was told as a fault of the program, exit 1."""
    scenario = make_scenario((10,))
    scenario.settings["warehouse"]["url"] = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    scenario.settings["retry"] |= {"max_wait_seconds": 30, "max_total_seconds": 300}
    process = scenario.start(*command.split(), "--json")
    assert process.stderr is not None
    assert any("transaction.retried" in line for line in process.stderr)
    process.send_signal(number)
    result = scenario.wait_for(process, expect=CODES[number])
    assert (result.json["status"], result.json["services"]) == ("interrupted", [])
    assert result.json["error"]["type"] == "Interrupted"


def test_a_deadline_before_the_warehouse_is_open(make_scenario: MakeScenario) -> None:
    """The deadline too asks to stop, and is no fault of the program."""
    scenario = make_scenario((10,))
    scenario.settings["warehouse"]["url"] = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    scenario.settings["retry"] |= {"max_wait_seconds": 30, "max_total_seconds": 300}
    scenario.settings["run"] = {"deadline_seconds": 0.01}
    assert scenario.sync(expect=3).json["status"] == "interrupted"


def test_a_signal_while_absences_are_confirmed(
    make_scenario: MakeScenario, gates: list[Gate]
) -> None:
    """Two hundred questions take their time; a stop among them deletes nothing, and publishes nothing half."""
    scenario = make_scenario((60,), max_page_size=10)
    scenario.sync()
    before = scenario.image()
    scenario.services[0].touch(5)
    scenario.services[0].delete(10)
    gate = Gate(scenario, 99)
    gates.append(gate)
    asked = threading.Event()

    def watch(request: Request) -> Reply | None:
        if request.is_lookup:
            asked.set()
            gate._open.wait(300)
        return None

    scenario.interceptor.watch = watch
    process = scenario.start("sync", "--json")
    assert asked.wait(120)
    process.send_signal(signal.SIGTERM)
    scenario.wait_for(process, expect=143)
    after = scenario.image()
    assert (after["bindings"], after["binding_versions"]) == (
        before["bindings"],
        before["binding_versions"],
    )
    gate.open()
    scenario.interceptor.watch = None
    scenario.sync("--fresh")
    scenario.assert_equal_to_world()


def test_services_that_were_done_stay_done(make_scenario: MakeScenario, gates: list[Gate]) -> None:
    """A stop costs the service that is being read, and none that is published."""
    scenario = make_scenario((20, 90), max_page_size=10)
    done, cut = (service.sid for service in scenario.services)
    process = stop_at(scenario, gates, 6)
    wait_until(lambda: scenario.query("SELECT id FROM sync_scans WHERE status = 'published'"))
    process.send_signal(signal.SIGTERM)
    result = scenario.wait_for(process, expect=143)
    assert {sid: told["status"] for sid, told in result.services.items()} == {
        done: "published",
        cut: "interrupted",
    }
    assert scenario.stored() == scenario.expected([done])


@pytest.mark.slow
def test_the_deadline_stops_a_run_like_a_signal(
    make_scenario: MakeScenario, gates: list[Gate]
) -> None:
    """`run.deadline_seconds` keeps a run from growing into the next one; it too resumes."""
    scenario = make_scenario((90,), max_page_size=10)
    scenario.settings["run"] = {"deadline_seconds": 20}  # for a busy machine to get there
    result = scenario.wait_for(stop_at(scenario, gates, 6), expect=3)
    assert result.json["status"] == "interrupted"
    assert scenario.query("SELECT * FROM sync_leases") == []
    gates[0].open()
    scenario.interceptor.watch = None
    scenario.settings["run"] = {}
    [told] = scenario.sync().json["services"]
    assert (told["resumed"], told["pages"]) == (True, 3)
    scenario.assert_equal_to_world()


def test_a_deadline_that_is_not_reached_changes_nothing(make_scenario: MakeScenario) -> None:
    """A generous deadline must leave a run as it is."""
    scenario = make_scenario((20,))
    scenario.settings["run"] = {"deadline_seconds": 600}
    scenario.sync()
    scenario.assert_equal_to_world()
