"""The servers under the other tests: each database is new and empty, and no run leaves one behind."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from etl.warehouse.connection import Warehouse
from etl.warehouse.tables import HEAD, VERSION_TABLE, metadata
from etl.warehouse.views import COMMENTS
from tests.acceptance.scenario import wait_until
from tests.servers import mariadb
from tests.servers.engines import connected
from tests.servers.folder import Server
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer
from tests.servers.reaper import answers
from tests.servers.templates import lend_lake, migrate

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("time", ["first", "second"])
def test_every_test_gets_an_empty_database(empty_url: str, time: str) -> None:
    """The table made by the first is not there for the second, although the server is the same."""
    with connected(empty_url) as connection:
        assert connection.scalar(sa.text("SELECT 1")) == 1
        assert sa.inspect(connection).get_table_names() == []
        assert sa.inspect(connection).get_view_names() == []
        connection.execute(sa.text("CREATE TABLE left_behind (id integer)"))
        connection.commit()


def contents(url: str) -> dict[str, Any]:
    """All that a database tells of its tables and views, and every row."""
    with connected(url) as connection:
        inspector = sa.inspect(connection)
        tables = {name: table(connection, name) for name in inspector.get_table_names()}
        views = {name: inspector.get_view_definition(name) for name in inspector.get_view_names()}
        database = str(connection.engine.url.database)
        return tables | {name: text.replace(database, "") for name, text in views.items()}


def table(connection: sa.Connection, name: str) -> tuple[Any, ...]:
    inspector = sa.inspect(connection)
    indexes = [
        one
        | {"dialect_options": {key: str(of) for key, of in one.get("dialect_options", {}).items()}}
        for one in inspector.get_indexes(name)
    ]
    return (
        repr(inspector.get_columns(name)),
        inspector.get_pk_constraint(name),
        indexes,
        inspector.get_table_comment(name) if connection.dialect.supports_comments else None,
        connection.execute(sa.text(f"SELECT * FROM {name}")).all(),
    )


def test_a_copied_warehouse_is_what_migrate_makes(warehouse_url: str, empty_url: str) -> None:
    """Most tests work on a copy; were it another warehouse, they would prove nothing of a real one."""
    migrate(empty_url)
    copied = contents(warehouse_url)
    assert copied == contents(empty_url)
    assert copied.keys() >= {*metadata.tables, *COMMENTS, VERSION_TABLE}
    assert copied[VERSION_TABLE][-1] == [(HEAD,)]


def test_lakes_share_no_folder(
    open_on: Callable[..., Warehouse],
    ducklake_postgres_url: str,
    postgres18_server: PostgresServer,
    tmp_path: Path,
) -> None:
    """The purge of one test would delete the files of all others that are at work."""
    put = "INSERT INTO scan_seen (stage_id, batch, sids) SELECT 77, range, '[]' FROM range(2000)"
    find = "SELECT SUM(LENGTH(sids)) FROM scan_seen"
    mine = open_on(ducklake_postgres_url)
    mine.transact(lambda conn: conn.execute(sa.text(put)))
    for other in lend_lake(postgres18_server, tmp_path / "other"):
        open_on(other).reclaim()
    assert mine.read(lambda conn: conn.scalar(sa.text(find))) == 4000


@pytest.mark.parametrize(
    ("server", "major"), [("postgres18_server", 18), ("postgres16_server", 16)]
)
def test_postgres_is_of_the_major_version_asked_for(
    server: str, major: int, request: pytest.FixtureRequest
) -> None:
    running: PostgresServer = request.getfixturevalue(server)
    with connected(running.superuser_url) as connection:
        assert int(connection.scalar(sa.text("SHOW server_version_num"))) // 10_000 == major
        assert connection.scalar(sa.text("SHOW server_encoding")) == "UTF8"


def test_mariadb_is_the_binary_that_was_reported(empty_mariadb_url: str) -> None:
    with connected(empty_mariadb_url) as connection:
        assert connection.scalar(sa.text("SELECT version()")).startswith(mariadb.version())
        assert connection.scalar(sa.text("SELECT @@character_set_database")) == "utf8mb4"


@pytest.mark.parametrize("server", ["postgres18_server", "mariadb_server"])
def test_a_database_goes_although_a_transaction_is_still_open(
    server: str, request: pytest.FixtureRequest
) -> None:
    running: Server = request.getfixturevalue(server)
    url = running.create_database()
    with connected(url) as connection:
        connection.execute(sa.text("CREATE TABLE busy (id integer)"))
        connection.commit()
        connection.execute(sa.text("INSERT INTO busy VALUES (1)"))
        running.drop_database(url)
        with pytest.raises(DBAPIError):
            connection.execute(sa.text("SELECT 1"))
        connection.invalidate()
    with pytest.raises(DBAPIError), connected(url):
        pass


@pytest.mark.parametrize(
    ("server", "how"),
    [
        pytest.param(
            "own_postgres18", lambda postgres: postgres.restart("fast"), id="postgresql18-fast"
        ),
        pytest.param(
            "own_postgres18",
            lambda postgres: postgres.restart("immediate"),
            id="postgresql18-crash",
        ),
        pytest.param("own_mariadb", MariaDBServer.restart, id="mariadb-crash"),
    ],
)
def test_a_restart_cuts_connections_and_keeps_what_was_committed(
    server: str, how: Callable[[Server], None], request: pytest.FixtureRequest
) -> None:
    own: Server = request.getfixturevalue(server)
    url = own.create_database()
    with connected(url) as connection:
        connection.execute(sa.text("CREATE TABLE kept (id integer)"))
        connection.execute(sa.text("INSERT INTO kept VALUES (7)"))
        connection.commit()
        how(own)
        with pytest.raises(DBAPIError):
            connection.execute(sa.text("SELECT id FROM kept"))
        connection.invalidate()
    with connected(url) as connection:
        assert connection.scalar(sa.text("SELECT id FROM kept")) == 7


@pytest.mark.parametrize("engine_name", ["postgresql18", "mariadb"], indirect=True)
def test_a_killed_run_leaves_no_server_behind(engine_name: str, empty_url: str) -> None:
    """The reaper outlives SIGKILL: server and folder go, though the run itself can clean nothing up."""
    server = {
        "postgresql18": "PostgresServer(18, folder / 'pg')",
        "mariadb": "MariaDBServer(folder / 'maria')",
    }
    script = f"""
        import time
        from tests.servers.folder import join_run, make_run_folder, share
        from tests.servers.mariadb import MariaDBServer
        from tests.servers.postgres import PostgresServer
        folder = make_run_folder()
        alive = join_run(folder)
        server = {server[engine_name]}
        share(server)
        print(folder, server.port, flush=True)
        time.sleep(60)
    """
    run = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with run:
        assert run.stdout is not None
        folder, port = run.stdout.readline().split()
        assert answers(int(port))
        os.kill(run.pid, signal.SIGKILL)
    wait_until(lambda: not answers(int(port)) and not Path(folder).exists())
