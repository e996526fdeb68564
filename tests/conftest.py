"""Fixtures for every test: a clean environment, and a migrated warehouse or an empty database on each engine.

def test_on_every_engine(warehouse_url): ...
def test_before_it_is_migrated(empty_url): ...
def test_on_one(postgres18_url): ...
@pytest.mark.parametrize("engine_name", ["sqlite", "duckdb"], indirect=True)
def test_on_some(engine_name, warehouse_url): ...
def test_with_a_server_to_itself(own_postgres18): own_postgres18.restart()
"""

import gc
import importlib.util
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeVar

import pytest
import sqlalchemy as sa

from etl.sync import prefetch
from tests.acceptance.fault_proxy import in_turn, listening
from tests.servers import engines
from tests.servers.engines import ENGINES, connected
from tests.servers.folder import (
    Server,
    join_run,
    lend_database,
    make_run_folder,
    memory,
    reaper_is_running,
    share,
    start_reaper,
)
from tests.servers.galera import GaleraCluster, place_of
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer
from tests.servers.reaper import sweep
from tests.servers.snowflake import LIVE_URL, SnowflakeEmulator, lend_schema
from tests.servers.templates import (
    as_catalog,
    lend_lake,
    migrate,
    template_database,
    template_file,
)

S = TypeVar("S", bound=Server)

RUN_FOLDER = pytest.StashKey[Path]()
RUN_ALIVE = pytest.StashKey[IO[str]]()
INTERRUPTED = pytest.StashKey[bool]()

# What a developer's shell may hold and a test must not see: proxies catch loopback traffic,
# the rest decides who connects where.
FOREIGN_NAMES = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "FTP_PROXY"}
FOREIGN_PREFIXES = ("TWILIO_", "BINDINGS_ETL_", "OTEL_", "PG")


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # what is imported and collected stays; see pytest_collection_finish
    if importlib.util.find_spec("pandas") is None:
        # DuckDB looks for it at every statement with parameters, and pytest makes that dear.
        sys.modules["pandas"] = None  # type: ignore[assignment]
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # as in `make test &`; processes that a test starts would inherit that
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):
        config.stash[RUN_FOLDER] = Path(config.workerinput["run_folder"])
        config.stash[RUN_ALIVE] = join_run(config.stash[RUN_FOLDER])
        return
    if os.environ.get("TESTS_REQUIRE_ENGINES") and (reasons := engines.absent()):
        raise pytest.UsageError(f"every engine is required here, but: {reasons}")
    if place := memory():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", place)  # where tmp_path lies
    config.stash[RUN_FOLDER] = make_run_folder()
    config.stash[RUN_ALIVE] = join_run(config.stash[RUN_FOLDER])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Three more than there are cores, as some tests are always waiting for a clock or a process."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    return (os.cpu_count() or 1) + 3


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["run_folder"] = str(node.config.stash[RUN_FOLDER])


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[INTERRUPTED] = exitstatus == pytest.ExitCode.INTERRUPTED


def pytest_unconfigure(config: pytest.Config) -> None:
    alive = config.stash.get(RUN_ALIVE, None)
    if alive is None:
        return
    folder = config.stash[RUN_FOLDER]
    # Workers that were interrupted may still be starting a server; the reaper waits for their end.
    left_to_reaper = config.stash.get(INTERRUPTED, False) and reaper_is_running(folder)
    if not hasattr(config, "workerinput") and not left_to_reaper:
        sweep(folder)
    alive.close()


@pytest.hookimpl(tryfirst=True)  # before marks are looked at
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what is tested on each engine off to where the engine belongs."""
    for item in items:
        call = getattr(item, "callspec", None)
        if call and (engine := ENGINES.get(call.params.get("engine_name"))):
            is_named = any(
                "engine_name" in mark.args[0] for mark in item.iter_markers("parametrize")
            )
            if is_named or item.path.name.startswith("test_contract_"):
                mark = engine.mark
            elif item.path.name == "test_migrations.py":
                mark = engine.mark or engine.beyond
            else:
                mark = engine.beyond
            if mark:
                item.add_marker(mark)


def pytest_collection_finish() -> None:
    """Thousands of tests are there for good: the garbage collector need not look at them again and again."""
    gc.enable()
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> list[str]:
    return engines.describe()


@pytest.fixture(scope="session", autouse=True)
def clean_environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.upper() in FOREIGN_NAMES or name.upper().startswith(FOREIGN_PREFIXES):
                patch.delenv(name)
        # What is stored when must not hang on how fast a machine reads.
        patch.setattr(prefetch, "BATCH_SECONDS", 3600.0)
        yield


# --- a warehouse at the newest revision per test, or an empty database; removed afterwards ---


@pytest.fixture(params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def warehouse_url(engine_name: str, request: pytest.FixtureRequest) -> str:
    """URL of a migrated warehouse on each engine in turn."""
    return str(request.getfixturevalue(ENGINES[engine_name].url_fixture))


@pytest.fixture
def empty_url(engine_name: str, request: pytest.FixtureRequest) -> str:
    """URL of an empty database on each engine in turn."""
    return str(request.getfixturevalue(f"empty_{ENGINES[engine_name].url_fixture}"))


@pytest.fixture
def sqlite_url(tmp_path: Path, run_folder: Path) -> str:
    return f"sqlite:///{shutil.copy(template_file(run_folder, 'sqlite'), tmp_path / 'warehouse.sqlite')}"


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'empty.sqlite'}"


@pytest.fixture
def duckdb_url(tmp_path: Path, run_folder: Path) -> str:
    skip_if_absent("duckdb")
    return f"duckdb:///{shutil.copy(template_file(run_folder, 'duckdb'), tmp_path / 'warehouse.duckdb')}"


@pytest.fixture
def empty_duckdb_url(tmp_path: Path) -> str:
    skip_if_absent("duckdb")
    return f"duckdb:///{tmp_path / 'empty.duckdb'}"


@pytest.fixture
def ducklake_url(tmp_path: Path, run_folder: Path) -> str:
    """A lake whose catalog is a file."""
    skip_if_absent("ducklake")
    catalog = shutil.copy(template_file(run_folder, "ducklake"), tmp_path / "warehouse.ducklake")
    return f"ducklake+duckdb:///{catalog}"


@pytest.fixture
def empty_ducklake_url(tmp_path: Path) -> str:
    skip_if_absent("ducklake")
    return f"ducklake+duckdb:///{tmp_path / 'empty.ducklake'}"


@pytest.fixture
def ducklake_postgres_url(postgres18_server: PostgresServer, tmp_path: Path) -> Iterator[str]:
    """A lake that processes can share: its catalog is a database in PostgreSQL."""
    skip_if_absent("ducklake_postgres")
    yield from lend_lake(postgres18_server, tmp_path / "lake")


@pytest.fixture
def empty_ducklake_postgres_url(postgres18_server: PostgresServer, tmp_path: Path) -> Iterator[str]:
    skip_if_absent("ducklake_postgres")
    for url in lend_database(postgres18_server):
        with connected(f"{as_catalog(url)}?data_path={tmp_path / 'data'}") as connection:
            connection.scalar(sa.text("SELECT 1"))  # makes the catalog, with nothing in it
        yield as_catalog(url)


@pytest.fixture
def postgres18_url(postgres18_server: PostgresServer) -> Iterator[str]:
    yield from lend_database(postgres18_server, template_database(postgres18_server))


@pytest.fixture
def empty_postgres18_url(postgres18_server: PostgresServer) -> Iterator[str]:
    yield from lend_database(postgres18_server)


@pytest.fixture
def postgres16_url(postgres16_server: PostgresServer) -> Iterator[str]:
    yield from lend_database(postgres16_server, template_database(postgres16_server))


@pytest.fixture
def empty_postgres16_url(postgres16_server: PostgresServer) -> Iterator[str]:
    yield from lend_database(postgres16_server)


@pytest.fixture
def mariadb_url(mariadb_server: MariaDBServer) -> Iterator[str]:
    yield from lend_database(mariadb_server, template_database(mariadb_server))


@pytest.fixture
def empty_mariadb_url(mariadb_server: MariaDBServer) -> Iterator[str]:
    yield from lend_database(mariadb_server)


@pytest.fixture
def galera_url(galera_cluster: GaleraCluster) -> Iterator[str]:
    yield from lend_balanced(galera_cluster, template_database(galera_cluster))


@pytest.fixture
def empty_galera_url(galera_cluster: GaleraCluster) -> Iterator[str]:
    yield from lend_balanced(galera_cluster)


@pytest.fixture
def snowflake_url(snowflake_emulator: SnowflakeEmulator) -> Iterator[str]:
    yield from lend_database(snowflake_emulator, template_database(snowflake_emulator))


@pytest.fixture
def empty_snowflake_url(snowflake_emulator: SnowflakeEmulator) -> Iterator[str]:
    yield from lend_database(snowflake_emulator)


@pytest.fixture
def snowflake_live_url(empty_snowflake_live_url: str) -> str:
    migrate(empty_snowflake_live_url)
    return empty_snowflake_live_url


@pytest.fixture
def empty_snowflake_live_url() -> Iterator[str]:
    """A schema of its own in the database that $SNOWFLAKE_URL names."""
    yield from lend_schema(os.environ[LIVE_URL])


def lend_balanced(cluster: GaleraCluster, template: str | None = None) -> Iterator[str]:
    """Yield the URL of a new database behind a balancer: each connection is to the next node."""
    nodes = [f"tcp://127.0.0.1:{node.port}" for node in cluster.nodes]
    with listening(in_turn(*nodes)) as balancer:
        for url in lend_database(cluster, template):
            yield url.replace(place_of(url), f"127.0.0.1:{balancer.port}")


# --- servers of the whole run, shared by all workers: make databases in them, never stop them ---


@pytest.fixture(scope="session")
def run_folder(pytestconfig: pytest.Config) -> Path:
    return pytestconfig.stash[RUN_FOLDER]


@pytest.fixture(scope="session")
def postgres18_server(run_folder: Path) -> PostgresServer:
    return shared(PostgresServer(18, run_folder / "postgres18"), "postgresql18")


@pytest.fixture(scope="session")
def postgres16_server(run_folder: Path) -> PostgresServer:
    return shared(PostgresServer(16, run_folder / "postgres16"), "postgresql16")


@pytest.fixture(scope="session")
def mariadb_server(run_folder: Path) -> MariaDBServer:
    return shared(MariaDBServer(run_folder / "mariadb"), "mariadb")


@pytest.fixture(scope="session")
def galera_cluster(run_folder: Path) -> GaleraCluster:
    """Its nodes wait for each other with whatever session: also with those of the tests."""
    cluster = GaleraCluster(run_folder / "galera", ("--wsrep-sync-wait=7",))
    return shared(cluster, "galera")


@pytest.fixture(scope="session")
def snowflake_emulator(run_folder: Path) -> SnowflakeEmulator:
    return shared(SnowflakeEmulator(run_folder / "snowflake"), "snowflake")


def shared(server: S, engine_name: str) -> S:
    skip_if_absent(engine_name)
    share(server)
    return server


# --- a server of the test's own, to halt, restart and crash ---


@pytest.fixture
def own_postgres18(run_folder: Path) -> Iterator[PostgresServer]:
    yield from own(PostgresServer(18, run_folder / f"own-{uuid.uuid4().hex}"), "postgresql18")


@pytest.fixture
def own_mariadb(run_folder: Path) -> Iterator[MariaDBServer]:
    yield from own(MariaDBServer(run_folder / f"own-{uuid.uuid4().hex}"), "mariadb")


@pytest.fixture
def logging_mariadb(run_folder: Path) -> Iterator[MariaDBServer]:
    """One that writes a binary log, as any that is backed up or replicated."""
    options = ("--log-bin=binlog", "--server-id=1", "--binlog-format=ROW")
    yield from own(MariaDBServer(run_folder / f"own-{uuid.uuid4().hex}", options), "mariadb")


@pytest.fixture
def own_mariadb_of_few(run_folder: Path) -> Iterator[MariaDBServer]:
    """One that lets each user have three connections."""
    options = ("--max-user-connections=3",)
    yield from own(MariaDBServer(run_folder / f"own-{uuid.uuid4().hex}", options), "mariadb")


def own(server: S, engine_name: str) -> Iterator[S]:
    skip_if_absent(engine_name)
    start_reaper(server.home.parent)
    server.start()
    yield server
    server.stop()


def skip_if_absent(engine_name: str) -> None:
    reason = ENGINES[engine_name].missing()
    if reason:
        pytest.skip(reason)
