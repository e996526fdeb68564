"""`migrate` as an operator uses it: while a run is alive, as a question, and as SQL for review (docs/commands.md)."""

import re
import threading
from collections.abc import Callable
from functools import partial

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from etl import config
from etl.errors import EtlError, LeaseHeld, WarehouseOutdated
from etl.stopping import Stop
from etl.warehouse import leases, migration, tables
from etl.warehouse.connection import Warehouse, open_warehouse
from etl.warehouse.leases import Holder
from etl.warehouse.views import COMMENTS
from tests.acceptance.scenario import Scenario
from tests.engines.scan_harness import SCOPE
from tests.engines.test_migrations import differences


# Not on DuckDB: it lets no second process in, so there the file itself refuses.
@pytest.mark.parametrize(
    "engine_name", ["sqlite", "postgresql18", "postgresql16", "mariadb"], indirect=True
)
def test_migrate_refuses_while_a_run_is_alive(warehouse: Warehouse) -> None:
    """A migration under a working run would pull the tables from beneath its transactions."""
    holder = Holder("me", 7, "elsewhere", 120)
    warehouse.transact(lambda conn: leases.acquire(conn, warehouse.engine, holder, SCOPE))
    migration.downgrade(warehouse, migration.known_revisions()[1])
    with pytest.raises(LeaseHeld, match="run 7 on elsewhere is alive"):
        migration.upgrade(warehouse, None)
    warehouse.transact(lambda conn: leases.release(conn, holder, SCOPE))
    assert migration.upgrade(warehouse, None)[1] == tables.HEAD


@pytest.mark.parametrize(
    "engine_name", ["sqlite", "postgresql18", "postgresql16", "mariadb"], indirect=True
)
def test_migrate_with_nothing_to_do_disturbs_no_run(warehouse: Warehouse) -> None:
    """Shards that begin with `migrate && sync` must not keep each other out."""
    holder = Holder("me", 7, "elsewhere", 120)
    warehouse.transact(lambda conn: leases.acquire(conn, warehouse.engine, holder, SCOPE))
    assert migration.upgrade(warehouse, None) == (tables.HEAD, tables.HEAD)


@pytest.mark.parametrize(
    "engine_name", ["sqlite", "postgresql18", "postgresql16", "mariadb"], indirect=True
)
def test_two_that_migrate_at_once_take_turns(
    open_on: Callable[..., Warehouse], empty_url: str
) -> None:
    """Pods that start together all migrate; the second must find the work done, and not half done."""
    results: list[object] = []

    def migrate(warehouse: Warehouse) -> None:
        try:
            results.append(migration.upgrade(warehouse, None))
        except EtlError as error:
            results.append(error)

    threads = [threading.Thread(target=migrate, args=(open_on(empty_url),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results, key=str) == [(tables.HEAD, tables.HEAD)] * 2 + [(None, tables.HEAD)]


def test_check_tells_whether_the_warehouse_is_at_head(
    scenario_on: Callable[..., Scenario], warehouse_url: str, open_on: Callable[..., Warehouse]
) -> None:
    """A deployment asks before it starts the job: the answer is an exit code, and no run starts on an old warehouse."""
    scenario = scenario_on(warehouse_url, (5,))
    assert tables.HEAD in scenario.run("migrate", "--check").out
    warehouse = open_on(warehouse_url)
    older = migration.known_revisions()[1]
    migration.downgrade(warehouse, older)
    warehouse.close()
    for command in (("migrate", "--check"), ("sync", "--json")):
        result = scenario.run(*command, expect=7)
        assert f"at revision {older}" in result.err
        assert "bindings-etl migrate" in result.err
    scenario.run("migrate")
    assert scenario.sync().totals["inserted"] == 5
    warehouse = open_on(warehouse_url)
    migration.downgrade(warehouse, "base")
    with pytest.raises(WarehouseOutdated, match="no tables yet"):
        warehouse.read(migration.require_head)


@pytest.mark.parametrize(
    "engine_name",
    ["sqlite", "postgresql18", "postgresql16", "mariadb", "duckdb", "ducklake"],
    indirect=True,
)
def test_the_printed_sql_builds_the_warehouse(
    scenario_on: Callable[..., Scenario],
    warehouse_url: str,
    engine_name: str,
    open_on: Callable[..., Warehouse],
) -> None:
    """A DBA who runs the reviewed SQL by hand must get exactly what `migrate` makes."""
    scenario = scenario_on(warehouse_url, (5,))
    warehouse = open_on(warehouse_url)
    migration.downgrade(warehouse, "base")
    warehouse.transact(lambda conn: conn.execute(sa.text("DROP TABLE bindings_etl_version")))
    script = scenario.run("migrate", "--sql").out
    warehouse.transact(partial(run_script, script=script))
    views = warehouse.read(lambda conn: set(sa.inspect(conn).get_view_names()))
    assert set(COMMENTS) <= views
    assert differences(warehouse, engine_name) == []
    warehouse.close()
    scenario.run("migrate", "--check")
    assert scenario.sync().totals["inserted"] == 5


@pytest.mark.parametrize("engine_name", ["postgresql18", "duckdb", "ducklake"], indirect=True)
def test_the_printed_sql_makes_the_schema_and_goes_into_it(
    scenario_on: Callable[..., Scenario], warehouse_url: str, open_on: Callable[..., Warehouse]
) -> None:
    """Tables in the wrong schema would be found by nobody, least of all by the job."""
    scenario = scenario_on(warehouse_url, (5,))
    scenario.settings["warehouse"]["schema"] = "Push data"
    script = scenario.run("migrate", "--sql").out
    warehouse = open_on(warehouse_url)
    warehouse.transact(partial(run_script, script=script))
    warehouse.close()
    scenario.run("migrate", "--check")
    assert scenario.sync().totals["inserted"] == 5


def run_script(conn: sa.Connection, script: str) -> None:
    """As a DBA's client does."""
    for one in statements(script):
        conn.exec_driver_sql(one.replace("%", "%%")).close()


def statements(script: str) -> list[str]:
    """The statements of a script, without those that only frame the transaction."""
    lines = "\n".join(line for line in script.splitlines() if not line.startswith("--"))
    parts = (part.strip() for part in re.split(r";\s*(?:\n|$)", lines))
    return [part for part in parts if part and part not in ("BEGIN", "COMMIT", "BEGIN TRANSACTION")]


def test_migrating_twice_changes_nothing(empty_url: str) -> None:
    """Every deployment runs `migrate`; the second time it must find nothing to do."""
    warehouse = open_warehouse(
        config.Warehouse(url=SecretStr(empty_url)), config.Retry(attempts=1), Stop()
    )
    assert migration.upgrade(warehouse, None) == (None, tables.HEAD)
    assert migration.upgrade(warehouse, None) == (tables.HEAD, tables.HEAD)
    warehouse.close()
