"""`migrate` as an operator uses it: while a run is alive, as a question, and as SQL for review (contract §2)."""

import re
import threading
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from etl import config
from etl.errors import WarehouseOutdated
from etl.simulator.replies import Reply
from etl.stopping import Stop
from etl.warehouse import migration, tables
from etl.warehouse.connection import Warehouse, open_warehouse
from etl.warehouse.views import COMMENTS
from tests.acceptance.front import Request
from tests.acceptance.trial import Result, Trial


# Not on DuckDB: it lets no second process in, so there the file itself refuses.
@pytest.mark.parametrize("engine_name", ["sqlite", "postgresql18", "postgresql16", "mariadb"], indirect=True)
def test_migrate_refuses_while_a_run_is_alive(trial_on: Callable[..., Trial], warehouse_url: str) -> None:
    """A migration under a working run would pull the tables from beneath its transactions."""
    trial = trial_on(warehouse_url)
    refused: list[Result] = []
    asked = threading.Lock()

    def watch(request: Request) -> Reply | None:
        if request.is_listing and asked.acquire(blocking=False):
            refused.append(other.run("migrate", expect=None))
        return None

    other = Trial(trial.folder / "other", trial.simulator, warehouse_url, trial.front)
    other.folder.mkdir()
    trial.front.watch = watch
    result = trial.wait_for(trial.start("sync", "--json"))
    assert result.totals["inserted"] == 52
    assert [one.code for one in refused] == [6]
    assert "is alive" in refused[0].err
    trial.front.watch = None
    assert trial.run("migrate").code == 0


def test_check_tells_whether_the_warehouse_is_at_head(
    trial_on: Callable[..., Trial], warehouse_url: str, open_on: Callable[..., Warehouse]
) -> None:
    """A deployment asks before it starts the job: the answer is an exit code, and no run starts on an old warehouse."""
    trial = trial_on(warehouse_url, (5,))
    assert tables.HEAD in trial.run("migrate", "--check").out
    warehouse = open_on(warehouse_url)
    older = migration.known_revisions()[1]
    migration.downgrade(warehouse, older)
    warehouse.close()
    for command in (("migrate", "--check"), ("sync", "--json")):
        result = trial.run(*command, expect=7)
        assert f"at revision {older}" in result.err
        assert "bindings-etl migrate" in result.err
    trial.run("migrate")
    assert trial.sync().totals["inserted"] == 5
    warehouse = open_on(warehouse_url)
    migration.downgrade(warehouse, "base")
    with pytest.raises(WarehouseOutdated, match="no tables yet"):
        warehouse.read(migration.require_head)


@pytest.mark.parametrize("engine_name", ["sqlite", "postgresql18", "postgresql16", "mariadb", "duckdb"], indirect=True)
def test_the_printed_sql_builds_the_warehouse(
    trial_on: Callable[..., Trial], warehouse_url: str, engine_name: str, open_on: Callable[..., Warehouse]
) -> None:
    """A DBA who runs the reviewed SQL by hand must get exactly what `migrate` makes."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    if engine_name == "mariadb":  # its SQL names a collation that MySQL does not have, so the URL has to tell which of them it is
        warehouse_url = warehouse_url.replace("mysql+pymysql", "mariadb+pymysql")
    trial = trial_on(warehouse_url, (5,))
    warehouse = open_on(warehouse_url)
    migration.downgrade(warehouse, "base")
    warehouse.transact(lambda conn: conn.execute(sa.text("DROP TABLE alembic_version")))
    script = trial.run("migrate", "--sql").out
    warehouse.transact(lambda conn: [conn.exec_driver_sql(one.replace("%", "%%")).close() for one in statements(script)])
    views = warehouse.read(lambda conn: set(sa.inspect(conn).get_view_names()))
    assert set(COMMENTS) <= views
    with warehouse.migrating() as conn:
        options = {"compare_type": engine_name != "duckdb"}
        assert compare_metadata(MigrationContext.configure(conn, opts=options), tables.metadata) == []
    warehouse.close()
    trial.run("migrate", "--check")
    assert trial.sync().totals["inserted"] == 5


def statements(script: str) -> list[str]:
    """The statements of a script, without those that only frame the transaction."""
    lines = "\n".join(line for line in script.splitlines() if not line.startswith("--"))
    parts = (part.strip() for part in re.split(r";\s*(?:\n|$)", lines))
    return [part for part in parts if part and part not in ("BEGIN", "COMMIT", "BEGIN TRANSACTION")]


def test_migrating_twice_changes_nothing(warehouse_url: str) -> None:
    """Every deployment runs `migrate`; the second time it must find nothing to do."""
    warehouse = open_warehouse(config.Warehouse(url=warehouse_url), config.Retry(attempts=1), Stop())
    assert migration.upgrade(warehouse, None) == (None, tables.HEAD)
    assert migration.upgrade(warehouse, None) == (tables.HEAD, tables.HEAD)
    warehouse.close()
