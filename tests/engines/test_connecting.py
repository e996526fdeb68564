"""What is said when the warehouse cannot be used as it is configured: what, where, what to do; and never a secret (docs/commands.md)."""

import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
import trustme
from structlog.testing import capture_logs

from etl import errors
from etl.domain.binding import Reject
from etl.warehouse import migration, quarantine
from etl.warehouse.connection import Warehouse
from tests.acceptance.fault_proxy import listening, stay_silent
from tests.acceptance.scenario import Scenario
from tests.engines.scan_harness import SCOPE, ScanHarness, day, sid
from tests.servers import pgbouncer
from tests.servers.folder import free_port
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer

OpenOn = Callable[..., Warehouse]


def with_query(url: str, **query: str) -> str:
    return sa.make_url(url).update_query_dict(query).render_as_string(hide_password=False)


def complaint(
    open_on: OpenOn,
    url: str,
    kind: type[errors.EtlError],
    schema: str | None = None,
    **policy: Any,
) -> str:
    """What is said of a warehouse when it is looked into."""
    with pytest.raises(kind) as raised:
        open_on(url, schema=schema, attempts=1, **policy).read(migration.require_head)
    assert "s3cret" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("engine_name", ["postgresql18", "mariadb"], indirect=True)
def test_an_option_that_the_driver_does_not_know_is_a_fault_of_the_configuration(
    open_on: OpenOn, empty_url: str
) -> None:
    """A typing error in the URL is not a fault of the program, and what was typed may be a password."""
    assert "option" in complaint(
        open_on, with_query(empty_url, bogus="s3cret"), errors.ConfigurationError
    )


def test_the_short_name_of_postgresql_is_taken(open_on: OpenOn, empty_postgres18_url: str) -> None:
    """Hosting services hand out postgres:// URLs."""
    opened = open_on(empty_postgres18_url.replace("postgresql://", "postgres://"))
    assert migration.upgrade(opened, None)[0] is None


@pytest.fixture
def with_password(postgres18_server: PostgresServer, empty_postgres18_url: str) -> Iterator[sa.URL]:
    """A database whose role, unlike the others of the server, has to give its password."""
    role = f"r{uuid.uuid4().hex}"
    with psycopg.connect(postgres18_server.superuser_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'right'".encode())
        try:
            with postgres18_server.asking_for_passwords(role):
                yield sa.make_url(empty_postgres18_url).set(username=role, password="right")
        finally:
            connection.execute(f"DROP ROLE {role}".encode())


def spelled(url: sa.URL) -> str:
    return url.render_as_string(hide_password=False)


def test_postgresql_tells_apart_what_is_wrong_with_the_login(
    open_on: OpenOn, with_password: sa.URL
) -> None:
    """libpq says it in words only, and a wrong password was told as a network that is down."""
    said = complaint(
        open_on, spelled(with_password.set(password="s3cret")), errors.WarehouseRefused
    )
    assert "does not take the user or the password" in said
    nowhere = spelled(with_password.set(database="nowhere"))
    assert "does not exist on this server" in complaint(open_on, nowhere, errors.WarehouseRefused)
    said = complaint(open_on, spelled(with_password), errors.WarehouseOutdated)
    assert "no tables yet" in said


def test_postgresql_without_passwords_still_tells_a_missing_database(
    open_on: OpenOn, empty_postgres18_url: str
) -> None:
    """Where the server trusts the host, it is the server that says so, by its own code."""
    said = complaint(open_on, empty_postgres18_url + "_nowhere", errors.WarehouseRefused)
    assert "does not exist on this server" in said
    assert "3D000" in said


@pytest.mark.parametrize("engine_name", ["postgresql18", "mariadb"], indirect=True)
def test_what_is_wrong_on_the_way_to_the_server_is_told_apart(
    open_on: OpenOn, empty_url: str
) -> None:
    """A wrong name, a closed port and a silent host are mended in different places."""
    url = sa.make_url(empty_url).set(password="s3cret")
    unknown = spelled(url.set(host="nowhere.invalid"))
    assert "name of its host is not known" in complaint(
        open_on, unknown, errors.WarehouseUnreachable
    )
    refused = spelled(url.set(port=free_port()))
    assert "refuses the connection" in complaint(open_on, refused, errors.WarehouseUnreachable)
    with listening(stay_silent) as silent:
        quick = {"connect_timeout": "2"} if url.get_backend_name() == "postgresql" else {}
        quiet = with_query(spelled(url.set(port=silent.port)), **quick)
        assert "does not answer" in complaint(
            open_on, quiet, errors.WarehouseUnreachable, timeout_seconds=2
        )


def test_postgresql_another_kind_of_server_is_told_as_that(
    open_on: OpenOn, empty_postgres18_url: str, mariadb_server: MariaDBServer
) -> None:
    """A port taken from another line of the table is not a network that is down."""
    url = spelled(sa.make_url(empty_postgres18_url).set(port=mariadb_server.port))
    assert "another kind of server" in complaint(open_on, url, errors.WarehouseRefused)


@pytest.mark.parametrize(
    ("engine_name", "query"),
    [("postgresql18", {"sslmode": "require"}), ("mariadb", {"ssl_verify_cert": "true"})],
    indirect=["engine_name"],
)
def test_a_server_without_tls_is_told_as_that(
    open_on: OpenOn, empty_url: str, query: dict[str, str]
) -> None:
    """Who demands encryption has to hear that it is this which the server does not have."""
    url = with_query(empty_url, **query)
    assert "no encrypted connection" in complaint(open_on, url, errors.WarehouseRefused)


def test_postgresql_a_certificate_that_is_not_trusted_is_told_as_that(
    open_on: OpenOn,
    postgres18_server: PostgresServer,
    empty_postgres18_url: str,
    run_folder: Path,
    tmp_path: Path,
) -> None:
    """Whoever rotates certificates has to hear that it is the certificate, not the network."""
    pgbouncer.require()
    right, wrong = trustme.CA(), trustme.CA()
    for name, authority in (("right", right), ("wrong", wrong)):
        authority.cert_pem.write_to_path(tmp_path / name)
    home = run_folder / f"pgbouncer-{uuid.uuid4().hex}"
    certificate = right.issue_cert("127.0.0.1")
    with pgbouncer.pooling(postgres18_server, home, certificate) as port:
        url = spelled(sa.make_url(empty_postgres18_url).set(port=port))
        told = {
            name: with_query(url, sslmode="verify-full", sslrootcert=str(tmp_path / name))
            for name in ("right", "wrong", "missing")
        }
        assert "no tables yet" in complaint(open_on, told["right"], errors.WarehouseOutdated)
        for name in ("wrong", "missing"):
            said = complaint(open_on, told[name], errors.WarehouseRefused)
            assert "no encrypted connection" in said


def test_of_several_hosts_the_one_that_answers_is_taken(
    open_on: OpenOn, empty_postgres18_url: str
) -> None:
    """After a failover the same line of the configuration has to lead to the other host."""
    url = sa.make_url(empty_postgres18_url)
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{url.port}"
    listed = f"postgresql://{url.username}@{hosts}/{url.database}"
    opened = open_on(f"{listed}?target_session_attrs=read-write")
    assert migration.upgrade(opened, None)[0] is None
    assert str(url.port) in opened.name
    said = complaint(open_on, f"{listed}_nowhere", errors.WarehouseRefused)
    assert "does not exist on this server" in said


@pytest.mark.parametrize("engine_name", ["postgresql18", "mariadb"], indirect=True)
def test_a_login_that_is_refused_is_not_tried_again(
    open_on: OpenOn, empty_url: str, engine_name: str, with_password: sa.URL
) -> None:
    """Six wrong passwords in a row lock an account in many a place."""
    url = with_password if engine_name == "postgresql18" else sa.make_url(empty_url)
    opened = open_on(spelled(url.set(password="s3cret")), attempts=6)
    with pytest.raises(errors.WarehouseRefused), capture_logs() as logs:
        opened.read(migration.require_head)
    assert logs == []


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
    open_on: OpenOn, empty_postgres18_url: str
) -> None:
    """A mistyped schema read as if `migrate` were all that is missing, and `migrate` would then make it."""
    migration.upgrade(open_on(empty_postgres18_url, schema="push"), "push")
    said = complaint(open_on, empty_postgres18_url, errors.WarehouseOutdated, schema="posh")
    assert "no schema posh" in said


def test_names_that_an_engine_cannot_take_are_refused(
    open_on: OpenOn, empty_postgres18_url: str, empty_duckdb_url: str
) -> None:
    """PostgreSQL cuts a long name in silence, so that the second `migrate` looked for another one."""
    assert "63 bytes" in complaint(
        open_on, empty_postgres18_url, errors.ConfigurationError, schema="x" * 64
    )
    assert "without" in complaint(
        open_on, empty_duckdb_url, errors.ConfigurationError, schema="a.b"
    )


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
    open_on: OpenOn, scenario_on: Callable[..., Scenario], warehouse_url: str, level: str
) -> None:
    """Who waits for a lease has to see what the other has committed meanwhile, whatever the database's default is."""
    scenario = scenario_on(warehouse_url, (5,))
    scenario.execute(
        f"ALTER DATABASE {sa.make_url(warehouse_url).database} SET default_transaction_isolation TO '{level}'"
    )
    assert scenario.query("SHOW default_transaction_isolation") == [
        {"default_transaction_isolation": level}
    ]

    def count_around_a_run(conn: sa.Connection) -> tuple[int | None, int | None]:
        count = sa.text("SELECT count(*) FROM sync_runs")
        before = conn.scalar(count)
        scenario.sync()
        return before, conn.scalar(count)

    assert open_on(warehouse_url).transact(count_around_a_run) == (0, 1)


@pytest.mark.parametrize("engine_name", ["postgresql18"], indirect=True)
def test_a_statement_that_is_cut_off_is_no_lost_connection(harness: ScanHarness) -> None:
    """A statement_timeout meets the same statement again and again; only another setting helps."""

    def dawdle(conn: sa.Connection) -> None:
        conn.exec_driver_sql("SET LOCAL statement_timeout = 1")
        conn.exec_driver_sql("SELECT pg_sleep(60)")

    with pytest.raises(errors.WarehouseRefused, match="statement_timeout"):
        harness.warehouse.transact(dawdle)


@pytest.mark.parametrize("engine_name", ["postgresql18", "mariadb"], indirect=True)
def test_reading_survives_a_killed_session(harness: ScanHarness, engine_name: str) -> None:
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

    assert harness.warehouse.read(read) == 1
    assert len(tries) == 2


@pytest.mark.parametrize("engine_name", ["postgresql18", "postgresql16", "mariadb"], indirect=True)
def test_parts_of_a_service_that_reject_the_same_row_do_not_fail(harness: ScanHarness) -> None:
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
                both_have_looked.wait(120)
            quarantine.record(conn, 1, SCOPE, rejects, day(1))

        try:
            harness.warehouse.transact(work)
        except errors.EtlError as error:
            failed.append(error)

    threads = [threading.Thread(target=record) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert harness.rows("SELECT count(*) AS n FROM rejected_bindings") == [{"n": 3}]
