"""Migrations that cannot end: found before they begin, or gone on with afterwards."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa

from etl import errors
from etl.warehouse import migration
from etl.warehouse.connection import Warehouse
from etl.warehouse.tables import VERSION_TABLE
from tests.acceptance.scenario import Scenario
from tests.engines import released
from tests.engines.test_migrations import differences, table_names
from tests.servers.mariadb import MariaDBServer

_WRITES = re.compile(r"\s*(CREATE|ALTER|DROP|INSERT|UPDATE|COMMENT)\b")


class Broken(Exception):
    """As if the process had ended here."""


@contextmanager
def breaking_before(warehouse: Warehouse, number: int) -> Iterator[None]:
    """Every statement that writes counts; the one of that `number` is never sent."""
    written = count(1)

    def _break(_c: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if _WRITES.match(statement) and next(written) == number:
            raise Broken

    sa.event.listen(warehouse._pool, "before_cursor_execute", _break)
    try:
        yield
    finally:
        sa.event.remove(warehouse._pool, "before_cursor_execute", _break)


def assert_whole(warehouse: Warehouse, engine_name: str) -> None:
    warehouse.read(migration.require_head)
    assert differences(warehouse, engine_name) == []


@pytest.fixture
def empty(empty_url: str, open_on: Callable[..., Warehouse]) -> Warehouse:
    return open_on(empty_url)


def until_it_ends(warehouse: Warehouse, work: Callable[[], object]) -> int:
    """Do it again and again, each time one statement further; returns how often it broke off."""
    for number in count(1):
        try:
            with breaking_before(warehouse, number):
                work()
        except Broken:
            continue
        return number - 1
    raise AssertionError


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("engine_name", ["mariadb"], indirect=True)
def test_a_migration_goes_on_from_wherever_it_stopped(
    empty: Warehouse, engine_name: str, full: bool
) -> None:
    """MariaDB takes no DDL back: who was stopped half way could never migrate that database again."""
    before = {}
    if full:
        released.make(empty)
        before = empty.read(released.rows)
    with pytest.raises(Broken), breaking_before(empty, 4):
        migration.upgrade(empty, None)
    with pytest.raises(errors.WarehouseOutdated, match="bindings-etl migrate"):
        empty.read(migration.require_head)
    assert until_it_ends(empty, lambda: migration.upgrade(empty, None)) > 10
    assert_whole(empty, engine_name)
    if full:
        released.assert_kept(before, empty.read(released.rows))
    until_it_ends(empty, lambda: migration.downgrade(empty, "base"))
    assert table_names(empty) == {VERSION_TABLE}


@pytest.mark.parametrize(
    "engine_name", ["sqlite", "postgresql18", "postgresql16", "duckdb", "ducklake"], indirect=True
)
def test_a_migration_that_breaks_off_leaves_nothing(empty: Warehouse, engine_name: str) -> None:
    """Where DDL is part of the transaction, half a warehouse must never be seen."""
    for number in (1, 2, 7, 20):
        with pytest.raises(Broken), breaking_before(empty, number):
            migration.upgrade(empty, None)
        assert table_names(empty) == set()
    migration.upgrade(empty, None)
    assert_whole(empty, engine_name)


@pytest.mark.parametrize(
    "kind", ["TABLE sync_leases (id INTEGER)", "VIEW active_bindings AS SELECT 1 AS id"]
)
def test_names_that_another_program_uses_are_told_before_anything_is_made(
    empty: Warehouse, kind: str
) -> None:
    """On MariaDB it would fail half way, or go on with what is not ours."""
    with empty.migrating() as conn:
        conn.exec_driver_sql(f"CREATE {kind}")
        before = set(sa.inspect(conn).get_table_names())
    with pytest.raises(errors.WarehouseRefused, match=f"{kind.split()[1]} .* another program"):
        migration.upgrade(empty, None)
    assert table_names(empty) == before


@pytest.mark.parametrize(
    "engine_name", ["sqlite", "postgresql18", "postgresql16", "duckdb", "ducklake"], indirect=True
)
def test_tables_without_their_revision_are_told(empty: Warehouse) -> None:
    """Somebody dropped the revision: `already exists` would send people to report a fault."""
    migration.upgrade(empty, None)
    empty.transact(lambda conn: conn.exec_driver_sql(f"DROP TABLE {VERSION_TABLE}"))
    with pytest.raises(errors.WarehouseRefused, match="restore the table bindings_etl_version"):
        migration.upgrade(empty, None)


def test_settings_of_a_server_that_would_fail_are_told_before_anything_is_made(
    logging_mariadb: MariaDBServer,
    scenario_on: Callable[..., Scenario],
    open_on: Callable[..., Warehouse],
) -> None:
    """The first insert failed after all tables were made, and then every later migration."""
    url = logging_mariadb.create_database()
    warehouse = open_on(url)
    for name, bad, good in (
        ("binlog_format", "STATEMENT", "ROW"),
        ("innodb_default_row_format", "COMPACT", "DYNAMIC"),
    ):
        logging_mariadb.execute(f"SET GLOBAL {name} = {bad}")
        warehouse.close()  # sessions that stand keep what they began with
        with pytest.raises(errors.WarehouseRefused, match=f"{name} .*SET GLOBAL {name}"):
            migration.upgrade(warehouse, None)
        assert table_names(warehouse) == set()
        logging_mariadb.execute(f"SET GLOBAL {name} = {good}")
    logging_mariadb.execute("SET GLOBAL default_storage_engine = MyISAM")
    warehouse.close()
    scenario = scenario_on(url, (5,))
    assert scenario.sync().totals["inserted"] == 5
    with warehouse.migrating() as conn:
        used = "SELECT DISTINCT engine FROM information_schema.tables WHERE table_schema = DATABASE() AND engine IS NOT NULL"
        assert list(conn.exec_driver_sql(used).scalars()) == ["InnoDB"]
    logging_mariadb.execute("SET GLOBAL binlog_format = STATEMENT")
    assert "binlog_format" in scenario.run("check", expect=7).out
    assert "bindings-etl check" in scenario.run("sync", expect=7).err
