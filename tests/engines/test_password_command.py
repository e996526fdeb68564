"""`warehouse.password_command` on servers that ask for a password, which changes while the program runs."""

import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from etl import errors
from etl.warehouse import migration
from etl.warehouse.connection import Warehouse
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer

OpenOn = Callable[..., Warehouse]

_PRINT_AND_COUNT = "import sys; open(sys.argv[2], 'a').write('.'); print(open(sys.argv[1]).read())"


@dataclass
class Vault:
    """A login without its password in the URL, and a command that prints the one of the moment."""

    url: str
    change: Callable[[str], None]
    folder: Path

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", _PRINT_AND_COUNT, *map(str, (self.password, self.asked))]

    @property
    def password(self) -> Path:
        return self.folder / "password"

    @property
    def asked(self) -> Path:
        return self.folder / "asked"

    def set(self, password: str) -> None:
        self.change(password)
        self.password.write_text(password)


def _url(url: str, user: str) -> str:
    return sa.make_url(url).set(username=user, password=None).render_as_string(False)


@pytest.fixture
def postgresql_vault(
    postgres18_server: PostgresServer, empty_postgres18_url: str, tmp_path: Path
) -> Iterator[Vault]:
    role = f"r{uuid.uuid4().hex}"
    with psycopg.connect(postgres18_server.superuser_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN".encode())

        def change(password: str) -> None:
            connection.execute(f"ALTER ROLE {role} PASSWORD '{password}'".encode())

        with postgres18_server.asking_for_passwords(role):
            yield Vault(_url(empty_postgres18_url, role), change, tmp_path)
        connection.execute(f"DROP ROLE {role}".encode())


@pytest.fixture
def mariadb_vault(
    mariadb_server: MariaDBServer, empty_mariadb_url: str, tmp_path: Path
) -> Iterator[Vault]:
    user = f"u{uuid.uuid4().hex[:20]}"
    mariadb_server.execute(f"CREATE USER {user}")
    mariadb_server.execute(f"GRANT ALL ON {sa.make_url(empty_mariadb_url).database}.* TO {user}")

    def change(password: str) -> None:
        mariadb_server.execute(f"ALTER USER {user} IDENTIFIED BY '{password}'")

    yield Vault(_url(empty_mariadb_url, user), change, tmp_path)
    mariadb_server.execute(f"DROP USER {user}")


@pytest.mark.parametrize("fixture", ["postgresql_vault", "mariadb_vault"])
def test_each_new_connection_asks_for_the_password(
    open_on: OpenOn, fixture: str, request: pytest.FixtureRequest
) -> None:
    """A token of a cloud's database lives a quarter of an hour; a run, and its connections, live longer."""
    vault: Vault = request.getfixturevalue(fixture)
    vault.set("s3cret-one")
    opened = open_on(vault.url, password_command=vault.command, attempts=1)
    with capture_logs() as logs:
        assert opened.read(_one) == opened.read(_one) == 1
        assert vault.asked.read_text() == "."
        vault.set("s3cret-two")
        assert _over_connections(opened, 2) == 1
        assert vault.asked.read_text() == ".."
        vault.password.write_text("s3cret-wrong")
        with pytest.raises(errors.WarehouseRefused, match="does not take the user") as raised:
            _over_connections(opened, 3)
    assert "s3cret" not in f"{logs} {raised.value} {opened.name}"


@pytest.mark.parametrize("fixture", ["postgresql_vault", "mariadb_vault"])
def test_a_command_that_fails_is_one_clear_error(
    open_on: OpenOn, fixture: str, request: pytest.FixtureRequest
) -> None:
    """It was told as a fault of the program, or as a database that is down."""
    vault: Vault = request.getfixturevalue(fixture)
    vault.set("s3cret-one")
    opened = open_on(vault.url, password_command=["/bin/sh", "-c", "echo s3cret; exit 9"])
    with pytest.raises(errors.PasswordUnknown, match=r"failed \(exit 9\)"):
        opened.read(_one)


@pytest.mark.slow
def test_a_lake_whose_catalog_was_lost_asks_again(
    open_on: OpenOn,
    postgresql_vault: Vault,
    postgres18_server: PostgresServer,
    tmp_path: Path,
) -> None:
    """DuckDB keeps the words that it was given at first, among them a password of long ago."""
    pytest.importorskip("duckdb_extension_ducklake", reason="the extension is not installed")
    vault, database = postgresql_vault, sa.make_url(postgresql_vault.url).database
    own = sa.make_url(postgres18_server.superuser_url).set(database=database)
    with psycopg.connect(own.render_as_string(False), autocommit=True) as connection:
        connection.execute("GRANT ALL ON SCHEMA public TO public")
        vault.set("s3cret-one")
        url = f"ducklake+{vault.url}?data_path={tmp_path / 'data'}"
        opened = open_on(url, password_command=vault.command)
        migration.upgrade(opened, None)
        opened.transact(_one)
        asked = len(vault.asked.read_text())
        vault.set("s3cret-two")
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        connection.execute(f"{query} AND pid <> pg_backend_pid()", [database])
        opened.transact(_one)
        opened.close()
        connection.execute(f"DROP OWNED BY {sa.make_url(vault.url).username}".encode())
    assert len(vault.asked.read_text()) > asked


def _over_connections(opened: Warehouse, number: int) -> int:
    """Something is read over so many connections at once."""
    if number == 1:
        return opened.read(_one)
    with ThreadPoolExecutor(1) as beside:
        return opened.read(lambda _: beside.submit(_over_connections, opened, number - 1).result())


def _one(conn: sa.Connection) -> int:
    return int(conn.scalar(sa.text("SELECT 1")) or 0)
