"""Logins of MariaDB and MySQL: every usual kind is taken, and what keeps one out is told."""

import sys
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from etl import errors
from etl.warehouse import migration
from etl.warehouse.connection import Warehouse
from tests.acceptance.scenario import Scenario
from tests.engines.test_connecting import OpenOn, complaint
from tests.servers.mariadb import MariaDBServer
from tests.servers.mysql_login import MysqlLogin

PASSWORD = "s3cret"


@pytest.fixture
def account(
    mariadb_server: MariaDBServer, empty_mariadb_url: str
) -> Iterator[Callable[[str], str]]:
    """`account("IDENTIFIED BY …")` makes a user who may do everything in a database; returns its URL."""
    database = str(sa.make_url(empty_mariadb_url).database)
    user = f"u{database[:30]}"

    def make(*clauses: str) -> str:
        mariadb_server.execute(f"CREATE USER {user} {clauses[0]}")
        mariadb_server.execute(f"GRANT ALL ON {database}.* TO {user}")
        for clause in clauses[1:]:
            mariadb_server.execute(f"ALTER USER {user} {clause}")
        url = sa.make_url(empty_mariadb_url).set(username=user, password=PASSWORD)
        return url.render_as_string(hide_password=False)

    yield make
    mariadb_server.execute(f"DROP USER {user}")


@pytest.fixture
def ed25519(mariadb_server: MariaDBServer) -> str:
    mariadb_server.execute("INSTALL PLUGIN IF NOT EXISTS ed25519 SONAME 'auth_ed25519'")
    return f"IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD}')"


def test_an_account_of_ed25519_is_served(
    account: Callable[..., str], ed25519: str, open_on: OpenOn
) -> None:
    """MariaDB's recommended login ended as a fault of the program: a package was missing."""
    migration.upgrade(open_on(account(ed25519)), None)


@pytest.mark.parametrize("cached", [True, False])
def test_an_account_of_caching_sha2_password_is_served(open_on: OpenOn, cached: bool) -> None:
    """MySQL 8's default login ended as a fault of the program: a package was missing."""
    with MysqlLogin(PASSWORD, cached=cached).serve() as server:
        said = complaint(open_on, server.url(PASSWORD), errors.WarehouseRefused)
        assert "does not exist on this server" in said
        said = complaint(open_on, server.url("wrong"), errors.WarehouseRefused)
        assert "the user or the password" in said


def test_a_missing_package_for_a_login_is_told(
    account: Callable[..., str],
    ed25519: str,
    open_on: OpenOn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who has installed the bare driver must learn what to install besides."""
    monkeypatch.setitem(sys.modules, "nacl", None)
    monkeypatch.setattr("pymysql._auth._nacl_bindings", False)
    monkeypatch.setattr("pymysql._auth._have_cryptography", False)
    with MysqlLogin(PASSWORD, cached=False).serve() as server:
        for url in (account(ed25519), server.url(PASSWORD)):
            said = complaint(open_on, url, errors.ConfigurationError)
            assert "pip install 'bindings-etl[mysql]'" in said


@pytest.mark.parametrize(
    ("clauses", "said"),
    [
        (("IDENTIFIED VIA unix_socket",), "the user or the password"),  # 1698
        ((f"IDENTIFIED BY '{PASSWORD}'", "ACCOUNT LOCK"), "the account is locked"),  # 4151
        ((f"IDENTIFIED BY '{PASSWORD}'", "PASSWORD EXPIRE"), "has expired"),  # 1820, 1862
    ],
)
def test_what_keeps_an_account_out_is_told(
    account: Callable[..., str], open_on: OpenOn, clauses: tuple[str, ...], said: str
) -> None:
    """`A statement failed; report it` sends people to us with what their administrator can mend."""
    assert said in complaint(open_on, account(*clauses), errors.WarehouseRefused)


def test_a_login_that_the_driver_does_not_know_is_told(open_on: OpenOn) -> None:
    """MariaDB's newest methods are none of the driver's: the account can be given another."""
    with MysqlLogin(PASSWORD, cached=False, method="parsec").serve() as server:
        said = complaint(open_on, server.url(PASSWORD), errors.WarehouseRefused)
    assert "a way to log in that the driver does not know" in said


@pytest.mark.parametrize("limit", ["account", "server"])
def test_a_limit_on_connections_is_waited_for(
    scenario_on: Callable[..., Scenario], own_mariadb_of_few: MariaDBServer, limit: str
) -> None:
    """Four services of eight failed at once, where one more try would have found a free place."""
    url = own_mariadb_of_few.create_database()
    scenario = scenario_on(url, (20,) * 8, latency_ms=20)
    name = "WITH MAX_USER_CONNECTIONS 2" if limit == "account" else ""
    own_mariadb_of_few.execute(f"CREATE USER few {name}")
    own_mariadb_of_few.execute("GRANT ALL ON *.* TO few")
    own_mariadb_of_few.execute("REVOKE CONNECTION ADMIN ON *.* FROM few")
    scenario.settings["warehouse"]["url"] = url.replace("root@", "few@")
    scenario.settings["retry"] = {"attempts": 100, "max_wait_seconds": 0.2}
    assert scenario.sync().totals["inserted"] == 160


def test_too_many_connections_are_told(
    own_mariadb_of_few: MariaDBServer, open_on: Callable[..., Warehouse]
) -> None:
    """Who has to raise a limit has to hear of it."""
    url = own_mariadb_of_few.create_database()
    own_mariadb_of_few.execute("CREATE USER few WITH MAX_USER_CONNECTIONS 1")
    own_mariadb_of_few.execute("GRANT ALL ON *.* TO few")
    own_mariadb_of_few.execute("REVOKE CONNECTION ADMIN ON *.* FROM few")
    few = url.replace("root@", "few@")
    with open_on(few).migrating():
        said = complaint(open_on, few, errors.WarehouseUnreachable)
    assert "takes no more connections" in said
