"""Every wait in the database ends, and says what was waited for (docs/promises.md §7)."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from etl import config
from etl.stopping import Stop
from etl.warehouse import connection, leases
from etl.warehouse.connection import Warehouse, open_warehouse
from tests.acceptance.fault_proxy import Frost, listening
from tests.acceptance.scenario import Scenario, wait_until
from tests.engines import fail_at
from tests.engines.scan_harness import SERVICE, ScanHarness

ON_SERVERS = pytest.mark.parametrize(
    "engine_name", ["postgresql18", "postgresql16", "mariadb"], indirect=True
)
ON_EACH_KIND = pytest.mark.parametrize("engine_name", ["postgresql18", "mariadb"], indirect=True)

# A run that holds the gate of a service, and stops itself inside the transaction.
FROZEN = """
import os, signal, sys
from etl import config
from etl.stopping import Stop
from etl.warehouse import connection, leases
from etl.warehouse.connection import open_warehouse
url, service, idle, run_id = sys.argv[1:]
warehouse = open_warehouse(config.Warehouse(url=url), config.Retry(attempts=1), Stop(), float(idle))
def work(conn):
    leases.lock_service(conn, warehouse.engine, service)
    os.kill(os.getpid(), signal.SIGSTOP)
warehouse.transact(work)
"""


@contextmanager
def frozen_in_its_transaction(url: str, service: str, idle: float = 300) -> Iterator[None]:
    """A process that was stopped while it holds the gate of a service, until it has been idle for so long."""
    process = subprocess.Popen(
        [sys.executable, "-c", FROZEN, url, service, str(idle), "0"], stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: is_stopped(process.pid))
        yield
    finally:
        process.kill()
        process.wait()


def is_stopped(pid: int) -> bool:
    with Path(f"/proc/{pid}/stat").open() as stat:
        return stat.read().rpartition(")")[2].split()[0] == "T"


@ON_SERVERS
def test_a_client_that_is_frozen_in_its_transaction_is_not_waited_for_for_ever(
    scenario_on: Callable[..., Scenario], warehouse_url: str
) -> None:
    """A machine that hangs kept every later run waiting behind it, without a word."""
    scenario = scenario_on(warehouse_url, (5,))
    (service,) = scenario.services
    patient = scenario.settings["retry"]
    scenario.settings["retry"] = patient | {"max_total_seconds": 2, "timeout_seconds": 1}
    scenario.execute(
        "INSERT INTO sync_runs (id, mode, status, started_at, dry_run, host, version)"
        " VALUES (4711, 'sync', 'running', '2001-01-01 00:00:00', false, 'far-away', '0.1.0')"
    )
    with frozen_in_its_transaction(warehouse_url, service.sid):
        result = scenario.sync(expect=7)
    [told] = result.services.values()
    assert told["status"] == "failed"
    assert "run 4711 on far-away" in told["error"]["message"]
    scenario.settings["retry"] = patient
    scenario.sync()
    scenario.assert_equal_to_world()


@ON_SERVERS
def test_a_frozen_client_loses_its_locks_with_its_lease(
    harness: ScanHarness, warehouse_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locks that outlive the lease would keep a service from being read until somebody kills a session."""
    with frozen_in_its_transaction(warehouse_url, SERVICE, idle=1):
        harness.warehouse.transact(
            lambda conn: leases.lock_service(conn, harness.warehouse.engine, SERVICE)
        )


# What ends a wait by itself, in seconds; 0 would be never.
LIMITS = {
    "mariadb": "SELECT @@innodb_lock_wait_timeout, @@lock_wait_timeout, @@max_statement_time, "
    "@@idle_transaction_timeout",
    "postgresql": "SELECT "
    + ", ".join(
        f"extract(epoch FROM current_setting('{name}')::interval)"
        for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
    ),
}


@ON_SERVERS
def test_the_server_ends_every_wait_by_itself(
    open_on: Callable[..., Warehouse], warehouse_url: str, engine_name: str
) -> None:
    """A client that is gone without a word cannot end what it waits for, and what waits behind it."""
    query = LIMITS[engine_name.rstrip("0123456789")]
    limits = open_on(warehouse_url, timeout_seconds=7).transact(
        lambda conn: tuple(conn.exec_driver_sql(query).one())
    )
    assert all(0 < limit <= 3600 for limit in limits), limits
    assert limits[0] <= 7  # for a lock no longer than for an answer


@pytest.mark.parametrize("engine_name", ["postgresql18"], indirect=True)
def test_a_host_that_is_gone_is_noticed_while_nobody_asks(
    open_on: Callable[..., Warehouse], warehouse_url: str
) -> None:
    """A firewall that forgets a connection tells nobody, and Linux first looks after two hours."""

    def read_options(conn: sa.Connection) -> list[int]:
        driver: Any = conn.connection.driver_connection
        with socket.socket(fileno=os.dup(driver.fileno())) as peer:
            return [
                peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            ]

    on, idle_seconds, unacknowledged_ms = open_on(warehouse_url).transact(read_options)
    assert on
    assert idle_seconds <= 60
    assert 0 < unacknowledged_ms <= 60_000


@ON_EACH_KIND
@pytest.mark.parametrize("place", ["INSERT INTO scan_seen", "INSERT INTO bindings", "COMMIT"])
def test_a_database_that_falls_silent_in_mid_run_costs_one_more_try(
    scenario_on: Callable[..., Scenario], warehouse_url: str, place: str
) -> None:
    """Standing connections that a firewall forgot were waited for without end."""
    address = sa.make_url(warehouse_url)
    frost = Frost(f"//{address.host}:{address.port}")
    with listening(frost.handler) as proxy:
        through = address.set(port=proxy.port).render_as_string(hide_password=False)
        scenario = scenario_on(through, (30,))
        scenario.settings["retry"]["timeout_seconds"] = 2
        with fail_at.before(place, lambda _conn: frost.fall()) as hits:
            result = scenario.sync()
        assert hits.count == 1
        assert "transaction.retried" in result.err
        scenario.assert_equal_to_world()


@ON_EACH_KIND
@pytest.mark.slow
def test_a_scan_that_does_not_move_for_as_long_as_a_lease_is_broken_off(
    scenario_on: Callable[..., Scenario], warehouse_url: str
) -> None:
    """Answers of a byte a second are no silence, and kept a service locked for ever."""
    address = sa.make_url(warehouse_url)
    frost = Frost(f"//{address.host}:{address.port}")
    with listening(frost.handler) as proxy:
        through = address.set(port=proxy.port).render_as_string(hide_password=False)
        scenario = scenario_on(through, (30,))
        scenario.settings["run"] = {"lease_seconds": 3}
        with fail_at.before("INSERT INTO bindings", lambda _conn: frost.drip()):
            result = scenario.sync()
        assert "connection.cut" in result.err
        assert "transaction.retried" in result.err
        scenario.assert_equal_to_world()


@ON_EACH_KIND
@pytest.mark.slow
def test_publishing_may_take_longer_than_a_lease(
    scenario_on: Callable[..., Scenario], warehouse_url: str, engine_name: str
) -> None:
    """What the server says it works on is neither cut off nor taken over, however long it takes."""
    scenario = scenario_on(warehouse_url, (1,))
    scenario.settings["run"] = {"lease_seconds": 1}
    if engine_name == "mariadb":
        scenario.execute("CREATE TRIGGER slow BEFORE INSERT ON bindings FOR EACH ROW DO SLEEP(8)")
    else:
        scenario.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep(8); RETURN NEW; END $$"
        )
        scenario.execute(
            "CREATE TRIGGER slow BEFORE INSERT ON bindings FOR EACH ROW EXECUTE FUNCTION slow()"
        )
    result = scenario.sync()
    assert "connection.cut" not in result.err
    assert "transaction.retried" not in result.err
    scenario.assert_equal_to_world()


@ON_EACH_KIND
@pytest.mark.slow
def test_a_database_that_falls_silent_for_good_ends_the_run(
    scenario_on: Callable[..., Scenario], warehouse_url: str
) -> None:
    """A run that hangs is worse than one that fails: nobody hears of it."""
    address = sa.make_url(warehouse_url)
    frost = Frost(f"//{address.host}:{address.port}")
    with listening(frost.handler) as proxy:
        through = address.set(port=proxy.port).render_as_string(hide_password=False)
        scenario = scenario_on(through, (30,))
        scenario.settings["retry"] |= {"timeout_seconds": 1, "attempts": 2, "max_total_seconds": 5}
        with fail_at.before("INSERT INTO bindings", lambda _conn: frost.fall(on_all=True)):
            result = scenario.sync(expect=7)
    [told] = result.services.values()
    assert told["error"]["type"] == "WarehouseUnreachable"


@ON_EACH_KIND
def test_a_statement_that_takes_long_is_not_taken_for_a_silence(
    harness: ScanHarness, warehouse_url: str, engine_name: str
) -> None:
    """A million rows are published in one statement, of which nothing is heard for a minute."""
    impatient = open_warehouse(
        config.Warehouse(url=SecretStr(warehouse_url)),
        config.Retry(attempts=3, timeout_seconds=0.1),
        Stop(),
        lease_seconds=1,
    )
    sleep = "SELECT SLEEP(5), 7" if engine_name == "mariadb" else "SELECT pg_sleep(5), 7"
    with closing(impatient):
        assert impatient.transact(lambda conn: conn.exec_driver_sql(sleep).one())[1] == 7


@ON_EACH_KIND
def test_more_scans_than_connections_wait_in_line(
    warehouse_url: str, engine_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 150 scans behind a lock, 78 failed at once for want of a connection, without another try."""
    monkeypatch.setattr(connection, "_MOST_CONNECTIONS", 2)
    crowded = open_warehouse(
        config.Warehouse(url=SecretStr(warehouse_url)),
        config.Retry(attempts=1, timeout_seconds=3),
        Stop(),
    )
    started, go_on = threading.Event(), threading.Event()

    def hold(conn: sa.Connection) -> None:
        conn.exec_driver_sql("SELECT 1")
        started.set()
        go_on.wait(120)

    with closing(crowded), ThreadPoolExecutor(10) as pool:
        holders = [pool.submit(crowded.transact, hold) for _ in range(2)]
        assert started.wait(120)
        line = [
            pool.submit(crowded.transact, lambda conn: conn.exec_driver_sql("SELECT 1"))
            for _ in range(8)
        ]
        beat = crowded.transact(lambda conn: conn.exec_driver_sql("SELECT 7").scalar(), ahead=True)
        assert beat == 7
        time.sleep(3.5)  # longer than an answer may take
        go_on.set()
        for one in (*holders, *line):
            one.result()
