"""PostgreSQL goes wrong in the middle of a run: killed sessions, crashes, conflicts, full and read-only ones (§5.1)."""

import threading
import time
from collections.abc import Callable

import psycopg
import pytest
import sqlalchemy as sa

from etl.simulator.replies import Reply
from tests.acceptance.interceptor import Request
from tests.acceptance.scenario import Scenario
from tests.engines import fail_at
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.parametrize("engine_name", ["postgresql18"], indirect=True)

STAGING = "UPDATE scan_progress"
PUBLISHING = "INSERT INTO bindings"
PLACES = [
    STAGING,
    "INSERT INTO scan_seen",
    PUBLISHING,
    "UPDATE sync_scans",
    "INSERT INTO sync_leases",
    "INSERT INTO sync_runs",
]


def kill_session(conn: sa.Connection) -> None:
    """End the session behind a connection, as an administrator or a failover does."""
    pid = conn.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
    dsn = conn.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])


@pytest.mark.parametrize("place", [*PLACES, "COMMIT"])
def test_a_killed_session_costs_one_more_try(
    scenario_on: Callable[..., Scenario], warehouse_url: str, place: str
) -> None:
    """A failover of the database must not end a run, nor leave a part of a transaction behind."""
    scenario = scenario_on(warehouse_url, (40,))
    with fail_at.before(place, kill_session) as hits:
        result = scenario.sync()
    assert hits.count == 1
    assert result.totals["inserted"] == 40
    assert "transaction.retried" in result.err
    scenario.assert_equal_to_world()
    assert scenario.query("SELECT status, complete FROM sync_scans") == [
        {"status": "published", "complete": True}
    ]


def commit_and_vanish(conn: sa.Connection) -> None:
    """The commit goes through, and the connection is gone before its answer comes."""
    driver = conn.connection.driver_connection
    assert driver is not None
    driver.commit()
    driver.close()


@pytest.mark.parametrize("number", range(1, 6))
def test_a_commit_whose_answer_is_lost_counts_once(
    scenario_on: Callable[..., Scenario], warehouse_url: str, number: int
) -> None:
    """A retried transaction that had gone through would meet its own lease, stage a batch twice, or call a published service locked."""
    scenario = scenario_on(warehouse_url, (40,))
    scenario.sync()
    (service,) = scenario.services
    service.touch(6)
    service.delete(3)
    commits = iter(range(1, 100))
    with fail_at.before(
        "COMMIT",
        lambda conn: commit_and_vanish(conn) if next(commits) == number else None,
        times=None,
    ):
        result = scenario.sync()
    assert "transaction.retried" in result.err
    assert (result.totals["updated"], result.totals["deleted"], result.totals["unchanged"]) == (
        6,
        3,
        31,
    )
    scenario.assert_equal_to_world()
    assert scenario.query(
        "SELECT change, count(*) AS n FROM binding_versions GROUP BY 1 ORDER BY 1"
    ) == [
        {"change": "deleted", "n": 3},
        {"change": "updated", "n": 6},
    ]


def test_a_killed_session_does_not_write_history_twice(
    scenario_on: Callable[..., Scenario], warehouse_url: str
) -> None:
    """A transaction that is tried again must start from nothing, or each try would add its own past images."""
    scenario = scenario_on(warehouse_url, (40,))
    scenario.sync()
    (service,) = scenario.services
    service.touch(6)
    service.delete(3)
    with (
        fail_at.before("DELETE FROM scan_staged", kill_session) as hits,
        fail_at.before("UPDATE bindings", kill_session),
    ):
        result = scenario.sync()
    assert hits.count == 1
    assert (result.totals["updated"], result.totals["deleted"]) == (6, 3)
    assert scenario.query(
        "SELECT change, count(*) AS n FROM binding_versions GROUP BY 1 ORDER BY 1"
    ) == [
        {"change": "deleted", "n": 3},
        {"change": "updated", "n": 6},
    ]


@pytest.mark.parametrize("place", [STAGING, PUBLISHING, "COMMIT"])
def test_sessions_that_are_killed_for_ever_fail_the_run_cleanly(
    scenario_on: Callable[..., Scenario], warehouse_url: str, place: str
) -> None:
    """The run ends with a sentence and an exit code, publishes nothing of it, and the next run does it all."""
    scenario = scenario_on(warehouse_url, (40,))
    with fail_at.before(place, kill_session, times=None):
        result = scenario.sync(expect=7)
    assert "Traceback" not in result.err
    assert scenario.query("SELECT count(*) AS n FROM bindings") == [{"n": 0}]
    scenario.expire_leases()
    assert scenario.sync().totals["inserted"] == 40
    scenario.assert_equal_to_world()


@pytest.mark.parametrize("state", ["40001", "40P01"])
@pytest.mark.parametrize("when", ["at the statement", "at commit"])
def test_a_conflict_is_tried_again(
    scenario_on: Callable[..., Scenario], warehouse_url: str, state: str, when: str
) -> None:
    """A deadlock or a serialization failure says that the same transaction will do next time; some come at COMMIT."""
    scenario = scenario_on(warehouse_url, (40,))
    scenario.execute("CREATE SEQUENCE mishaps")
    scenario.execute(
        f"""CREATE FUNCTION mishap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('mishaps') < 3 THEN RAISE EXCEPTION 'mishap' USING ERRCODE = '{state}'; END IF; RETURN NULL; END $$"""
    )
    deferred = "DEFERRABLE INITIALLY DEFERRED" if when == "at commit" else ""
    kind = "CONSTRAINT TRIGGER" if deferred else "TRIGGER"
    scenario.execute(
        f"CREATE {kind} mishap AFTER INSERT ON bindings {deferred} FOR EACH ROW EXECUTE FUNCTION mishap()"
    )
    result = scenario.sync()
    assert result.totals["inserted"] == 40
    assert result.err.count("WarehouseConflict") == 2
    scenario.assert_equal_to_world()


def test_a_real_deadlock_is_tried_again(
    scenario_on: Callable[..., Scenario], warehouse_url: str
) -> None:
    """Somebody else's transaction locks the same rows in another order; PostgreSQL picks us, and we come again."""
    scenario = scenario_on(warehouse_url, (40,))
    scenario.sync()
    (service,) = scenario.services
    service.touch(40)
    first = min(service.sids())
    with psycopg.connect(warehouse_url, autocommit=False) as other:
        # Theirs: a binding, then our lease. Ours: our lease, then the bindings. They wait too long to be the victim.
        other.execute("SET deadlock_timeout = '60s'")
        other.execute("SELECT 1 FROM bindings WHERE sid = %s FOR UPDATE", [first])
        their_end = threading.Event()

        def ask_for_the_lease() -> None:
            other.execute("UPDATE sync_leases SET host = host")
            other.rollback()
            their_end.set()

        thread = threading.Thread(target=ask_for_the_lease)

        def entangle(conn: sa.Connection) -> None:
            thread.start()
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            with psycopg.connect(warehouse_url, autocommit=True) as observer:
                while observer.execute(waiting).fetchone() == (0,):
                    time.sleep(0.01)

        with fail_at.before(PUBLISHING, entangle):
            result = scenario.sync()
        thread.join(timeout=60)
    assert their_end.is_set()
    assert "WarehouseConflict" in result.err
    assert result.totals["updated"] == 40
    scenario.assert_equal_to_world()


def test_a_read_only_warehouse_is_said_in_a_sentence(
    scenario_on: Callable[..., Scenario], warehouse_url: str
) -> None:
    """After a failover the old name may lead to a standby; the sentence has to say so, and nothing may be half done."""
    scenario = scenario_on(warehouse_url, (40,))
    database = sa.make_url(warehouse_url).database
    scenario.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    result = scenario.sync(expect=7)
    assert "is read-only" in result.err
    assert "Traceback" not in result.err
    with psycopg.connect(warehouse_url, autocommit=True) as conn:
        conn.execute("SET default_transaction_read_only = off")
        conn.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")
    assert scenario.sync().totals["inserted"] == 40


def test_a_full_disk_is_said_in_a_sentence(
    scenario_on: Callable[..., Scenario], warehouse_url: str
) -> None:
    """Nobody knows what 53100 means at three in the morning."""
    scenario = scenario_on(warehouse_url, (40,))
    scenario.execute(
        """CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$"""
    )
    scenario.execute(
        "CREATE TRIGGER full_disk AFTER INSERT ON bindings FOR EACH ROW EXECUTE FUNCTION full_disk()"
    )
    result = scenario.sync(expect=7)
    assert "disk is full" in result.out
    assert scenario.query("SELECT count(*) AS n FROM bindings") == [{"n": 0}]
    scenario.execute("DROP TRIGGER full_disk ON bindings")
    assert scenario.sync().totals["inserted"] == 40
    scenario.assert_equal_to_world()


@pytest.fixture
def long_scenario(scenario_on: Callable[..., Scenario], own_postgres18: PostgresServer) -> Scenario:
    """One service on a server of its own, read in two batches: 50 pages of 2 rows, and the rest."""
    scenario = scenario_on(own_postgres18.create_database(), (120,))
    scenario.account["page_size"] = 2
    return scenario


def once_staged(scenario: Scenario, act: Callable[[], object]) -> Callable[[Request], Reply | None]:
    """Acts once, when the first batch is committed and the last page has not yet been read."""
    done = threading.Event()

    def watch(request: Request) -> Reply | None:
        if request.is_listing and request.page >= 55 and not done.is_set():
            done.set()
            while scenario.query("SELECT count(*) AS n FROM scan_seen") == [{"n": 0}]:
                time.sleep(0.01)
            act()
        return None

    return watch


def test_a_restart_in_the_middle_of_a_run_is_survived(
    long_scenario: Scenario, own_postgres18: PostgresServer, engine_name: str
) -> None:
    """A planned restart of the database takes seconds; a run that takes minutes must come through it."""
    long_scenario.interceptor.watch = once_staged(
        long_scenario, lambda: own_postgres18.restart("fast")
    )
    result = long_scenario.sync()
    assert result.totals["inserted"] == 120
    long_scenario.assert_equal_to_world()


@pytest.mark.parametrize("loaded_before", [False, True], ids=["first load", "repeat"])
def test_a_crash_that_empties_staging_is_noticed(
    long_scenario: Scenario, own_postgres18: PostgresServer, engine_name: str, loaded_before: bool
) -> None:
    """A crash empties the unlogged tables: going on would publish half a scan as whole, and take the other half for gone."""
    if loaded_before:
        long_scenario.sync()
        long_scenario.settings["deletes"] = {"max_fraction": 1, "confirm": False}
        long_scenario.services[0].touch(30)
    before = long_scenario.query("SELECT * FROM bindings ORDER BY sid")
    long_scenario.interceptor.watch = once_staged(
        long_scenario, lambda: own_postgres18.restart("immediate")
    )
    result = long_scenario.sync(expect=7)
    (service,) = result.services.values()
    assert (service["status"], service["complete"], service["error"]["type"]) == (
        "failed",
        False,
        "StageLost",
    )
    assert long_scenario.query("SELECT * FROM bindings ORDER BY sid") == before
    long_scenario.interceptor.watch = None
    totals = long_scenario.sync().totals
    assert (totals["updated"] if loaded_before else totals["inserted"]) == (
        30 if loaded_before else 120
    )
    long_scenario.assert_equal_to_world()


def test_a_crash_while_publishing_is_noticed(
    scenario_on: Callable[..., Scenario], own_postgres18: PostgresServer, engine_name: str
) -> None:
    """When the publication itself meets the crash and is tried again, staging is empty, and every binding would seem absent."""
    scenario = scenario_on(own_postgres18.create_database(), (40,))
    scenario.sync()
    scenario.settings["deletes"] = {"max_fraction": 1, "confirm": False}
    scenario.services[0].touch(5)

    def crash(conn: sa.Connection) -> None:
        own_postgres18.restart("immediate")

    with fail_at.before("INSERT INTO binding_versions", crash) as hits:
        result = scenario.sync(expect=7)
    assert hits.count == 1
    assert result.totals["deleted"] == 0
    assert scenario.query("SELECT count(*) AS n FROM bindings WHERE deleted_at IS NOT NULL") == [
        {"n": 0}
    ]
    assert scenario.sync().totals["updated"] == 5
    scenario.assert_equal_to_world()
