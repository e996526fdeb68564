"""What is said when the warehouse cannot be used as it is configured: what, where, what to do; and never a secret (contract §2)."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from etl import errors
from etl.domain.binding import Reject
from etl.warehouse import migration, quarantine
from etl.warehouse.connection import Warehouse
from tests.acceptance.trial import Trial
from tests.engines.press import SCOPE, Press, day, sid
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer

OpenOn = Callable[..., Warehouse]


def with_query(url: str, **query: str) -> str:
    return sa.make_url(url).update_query_dict(query).render_as_string(hide_password=False)


def complaint(
    open_on: OpenOn, url: str, kind: type[errors.EtlError], schema: str | None = None
) -> str:
    """What is said of a warehouse when it is looked into."""
    with pytest.raises(kind) as raised:
        open_on(url, schema=schema, attempts=1).read(migration.require_head)
    assert "s3cret" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("engine_name", ["postgresql18", "mariadb"], indirect=True)
def test_an_option_that_the_driver_does_not_know_is_a_fault_of_the_configuration(
    open_on: OpenOn, warehouse_url: str
) -> None:
    """A typing error in the URL is not a fault of the program, and what was typed may be a password."""
    assert "option" in complaint(
        open_on, with_query(warehouse_url, bogus="s3cret"), errors.ConfigurationError
    )


def test_the_short_name_of_postgresql_is_taken(open_on: OpenOn, postgres18_url: str) -> None:
    """Hosting services hand out postgres:// URLs."""
    opened = open_on(postgres18_url.replace("postgresql://", "postgres://"))
    assert migration.upgrade(opened, None)[0] is None


def test_postgresql_says_to_look_at_user_password_and_database_too(
    open_on: OpenOn, postgres18_url: str
) -> None:
    """libpq gives no code while it connects, so the sentence has to name all that can be wrong."""
    said = complaint(open_on, postgres18_url + "_nowhere", errors.WarehouseUnreachable)
    assert "user, password and database" in said


def test_mariadb_tells_a_wrong_password_from_a_missing_database(
    open_on: OpenOn, mariadb_server: MariaDBServer
) -> None:
    """Neither a GRANT nor `migrate` helps with either."""
    url = sa.make_url(mariadb_server.url("nowhere"))
    assert "does not exist on this server" in complaint(open_on, str(url), errors.WarehouseRefused)
    wrong = url.set(password="s3cret").render_as_string(hide_password=False)
    assert "the user or the password" in complaint(open_on, wrong, errors.WarehouseRefused)


def test_sqlite_tells_a_missing_folder_from_a_foreign_file(open_on: OpenOn, tmp_path: Path) -> None:
    """`migrate` makes no folder, and must not be advised for a file of another program."""
    missing = f"sqlite:///{tmp_path / 'no' / 'file.db'}"
    assert "make its folder" in complaint(open_on, missing, errors.WarehouseOutdated)
    with pytest.raises(errors.WarehouseRefused, match="its folder is missing"):
        migration.upgrade(open_on(missing, attempts=1), None)
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam, " * 100)
    assert "is no SQLite database" in complaint(
        open_on, f"sqlite:///{tmp_path / 'letter.txt'}", errors.WarehouseRefused
    )


def test_a_schema_that_is_missing_or_closed_is_not_taken_for_an_empty_one(
    open_on: OpenOn, postgres18_url: str
) -> None:
    """A mistyped schema read as if `migrate` were all that is missing, and `migrate` would then make it."""
    migration.upgrade(open_on(postgres18_url, schema="push"), "push")
    said = complaint(open_on, postgres18_url, errors.WarehouseOutdated, schema="posh")
    assert "no schema posh" in said


def test_names_that_an_engine_cannot_take_are_refused(
    open_on: OpenOn, postgres18_url: str, duckdb_url: str
) -> None:
    """PostgreSQL cuts a long name in silence, so that the second `migrate` looked for another one."""
    assert "63 bytes" in complaint(
        open_on, postgres18_url, errors.ConfigurationError, schema="x" * 64
    )
    assert "without" in complaint(open_on, duckdb_url, errors.ConfigurationError, schema="a.b")


@pytest.fixture
def database_in(postgres18_server: PostgresServer) -> Iterator[Callable[[str], str]]:
    """A database in another encoding."""
    made: list[str] = []

    def make(encoding: str) -> str:
        made.append(postgres18_server.url(f"in_{encoding.lower()}_{len(made)}"))
        with psycopg.connect(postgres18_server.superuser_url, autocommit=True) as connection:
            name = made[-1].rpartition("/")[2]
            connection.execute(
                f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'".encode()
            )
        return made[-1]

    yield make
    for url in made:
        postgres18_server.drop_database(url)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_is_not_in_utf8_is_refused(
    open_on: OpenOn, database_in: Callable[[str], str], encoding: str
) -> None:
    """Such a database cannot hold every identity, or holds it as bytes of no meaning."""
    url = database_in(encoding)
    assert encoding in complaint(open_on, url, errors.WarehouseRefused)
    with pytest.raises(errors.WarehouseRefused, match="ENCODING 'UTF8'"):
        migration.upgrade(open_on(url, attempts=1), None)


@pytest.mark.parametrize("engine_name", ["postgresql18", "postgresql16"], indirect=True)
@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_the_isolation_is_the_programs_own(
    trial_on: Callable[..., Trial], warehouse_url: str, level: str
) -> None:
    """Who waits for a lease has to see what the other has committed meanwhile, whatever the database's default is."""
    trial = trial_on(warehouse_url, (5,))
    trial.execute(
        f"ALTER DATABASE {sa.make_url(warehouse_url).database} SET default_transaction_isolation TO '{level}'"
    )
    assert trial.query("SHOW default_transaction_isolation")
    trial.sync()


@pytest.mark.parametrize("engine_name", ["postgresql18"], indirect=True)
def test_a_statement_that_is_cut_off_is_no_lost_connection(press: Press) -> None:
    """A statement_timeout meets the same statement again and again; only another setting helps."""

    def dawdle(conn: sa.Connection) -> None:
        conn.exec_driver_sql("SET LOCAL statement_timeout = 1")
        conn.exec_driver_sql("SELECT pg_sleep(60)")

    with pytest.raises(errors.WarehouseRefused, match="statement_timeout"):
        press.warehouse.transact(dawdle)


@pytest.mark.parametrize("engine_name", ["postgresql18", "mariadb"], indirect=True)
def test_reading_survives_a_killed_session(press: Press, engine_name: str) -> None:
    """A database that is back in two seconds must not cost the whole run because it was asked at the wrong moment."""
    kill = (
        "SELECT pg_terminate_backend(pg_backend_pid())"
        if engine_name == "postgresql18"
        else "KILL CONNECTION_ID()"
    )
    tries: list[int] = []

    def read(conn: sa.Connection) -> object:
        tries.append(1)
        return conn.exec_driver_sql(kill if len(tries) == 1 else "SELECT 1").scalar()

    assert press.warehouse.read(read) == 1
    assert len(tries) == 2


@pytest.mark.parametrize("engine_name", ["postgresql18", "postgresql16", "mariadb"], indirect=True)
def test_parts_of_a_service_that_reject_the_same_row_do_not_fail(press: Press) -> None:
    """Where the API ignores the filter, all parts put the same row into quarantine in the same moment."""
    both_have_looked = threading.Barrier(2)
    rejects = [Reject(sid(number), "odd", "{}") for number in range(3)]
    failed: list[Exception] = []

    def record() -> None:
        tries: list[int] = []

        def work(conn: sa.Connection) -> None:
            tries.append(1)
            conn.execute(sa.text("SELECT count(*) FROM rejected_bindings")).scalar()
            if len(tries) == 1:
                both_have_looked.wait(20)
            quarantine.record(conn, 1, SCOPE, rejects, day(1))

        try:
            press.warehouse.transact(work)
        except errors.EtlError as error:
            failed.append(error)

    threads = [threading.Thread(target=record) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert press.rows("SELECT count(*) AS n FROM rejected_bindings") == [{"n": 3}]
