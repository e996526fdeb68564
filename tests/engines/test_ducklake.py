"""What only DuckLake has: files apart from their catalog, conflicts at COMMIT, keys that nobody enforces (docs/engines/ducklake.md)."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import sqlalchemy as sa

from etl import errors
from etl.warehouse import leases, migration
from etl.warehouse.connection import Warehouse
from etl.warehouse.engines import locate
from etl.warehouse.engines.base import Limits
from etl.warehouse.engines.ducklake.claim import CLAIM
from etl.warehouse.tables import sync_gates
from tests.acceptance.scenario import Scenario, wait_until
from tests.engines.fail_at import before
from tests.engines.held_file import assert_waits_for_a_held_file
from tests.servers.keys import repeated_keys

duckdb = pytest.importorskip("duckdb", reason="duckdb not installed: run `make test`")
attaching = pytest.importorskip("etl.warehouse.engines.ducklake.attaching")

MakeScenario = Callable[..., Scenario]
OpenOn = Callable[..., Warehouse]

pytestmark = pytest.mark.slow

ON_BOTH = pytest.mark.parametrize("url_fixture", ["ducklake_url", "empty_ducklake_postgres_url"])

MINE = sync_gates.c.chat_service_sid == "IS1"


@pytest.fixture
def lake_url(url_fixture: str, request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(url_fixture))


@contextmanager
def past_the_program(url: str) -> Iterator[Any]:
    """DuckDB itself upon the lake, without the lock of those who write."""
    place = attaching.Place(locate(url)[1], None, None, Limits())
    session = duckdb.connect()
    attaching.load_extensions(session, place)
    attaching.attach(session, place, create=False)
    session.execute("USE lake")
    yield session
    session.execute("USE memory")
    session.execute("DETACH lake")
    session.close()


def data_files(url: str) -> list[Path]:
    """The files of a lake that has its folder to itself."""
    folder = attaching.Place(locate(url)[1], None, None, Limits()).usual_folder
    if folder is None:
        with past_the_program(url) as session:
            query = "SELECT value FROM ducklake_options('lake') WHERE option_name = 'data_path'"
            (folder,) = session.execute(query).fetchone()
    return list(Path(folder).rglob("*.parquet"))


@ON_BOTH
def test_commands_beside_a_run_work_on_a_lake(
    scenario_on: MakeScenario, lake_url: str, tmp_path: Path
) -> None:
    """An operator would meet the first error on the day on which something else is broken too."""
    scenario = scenario_on(lake_url, (40, 12))
    scenario.sync()
    assert "all is well" in scenario.run("check").out
    [first, second] = scenario.run("status", "--json", "--max-age", "1h").json["services"]
    assert {first["active"], second["active"]} == {40, 12}
    scenario.run("report", "--out", str(tmp_path / "report.html"))
    assert (tmp_path / "report.html").stat().st_size > 10_000
    plan = scenario.sync("--dry-run").totals
    assert (plan["unchanged"], plan["inserted"]) == (52, 0)
    scenario.run("migrate", "--check")


# --- many processes ---


def test_what_another_process_has_written_meanwhile_is_found_at_commit(
    open_on: OpenOn, ducklake_postgres_url: str
) -> None:
    """Two that each find a row missing would both put it in: there is no key to keep the second out."""
    warehouse = open_on(ducklake_postgres_url)
    tries: list[int] = []

    def take(conn: sa.Connection) -> None:
        leases.lock_service(conn, warehouse.engine, "IS1")
        tries.append(len(conn.execute(sa.select(sync_gates).where(MINE)).all()))
        if len(tries) == 1:
            with past_the_program(ducklake_postgres_url) as session:
                session.execute("BEGIN")
                session.execute(CLAIM)
                session.execute("INSERT INTO sync_gates VALUES ('IS1', 0)")
                session.execute("COMMIT")

    warehouse.transact(take)
    assert tries == [1, 1]
    assert warehouse.read(repeated_keys) == {}


def test_processes_write_one_after_the_other(open_on: OpenOn, ducklake_postgres_url: str) -> None:
    """All who write at once but one would have to do their work again, and in the end give up."""
    from etl.warehouse.engines.ducklake.writer_lock import _LOCK

    warehouse = open_on(ducklake_postgres_url, attempts=1, timeout_seconds=1)
    catalog = sa.create_engine(ducklake_postgres_url.removeprefix("ducklake+"))
    with catalog.connect() as other:
        other.execute(sa.text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        with pytest.raises(errors.WarehouseConflict, match="busy with another transaction"):
            warehouse.transact(lambda conn: conn.execute(sa.select(sync_gates)))
        warehouse.read(lambda conn: conn.execute(sa.select(sync_gates)))
    warehouse.transact(lambda conn: conn.execute(sa.select(sync_gates)))
    catalog.dispose()


def test_shards_share_a_lake(scenario_on: MakeScenario, ducklake_postgres_url: str) -> None:
    """Processes that publish side by side must lose nothing, and put nothing in twice."""
    scenario = scenario_on(ducklake_postgres_url, (40, 12, 30, 25), max_page_size=10)
    scenario.settings["retry"] |= {"timeout_seconds": 60}
    shards = [scenario.start("sync", "--json", "--shard", f"{part}/2") for part in range(2)]
    results = [scenario.wait_for(process) for process in shards]
    assert sum(result.totals["inserted"] for result in results) == 107
    assert len({result.json["run_id"] for result in results}) == 2
    scenario.assert_equal_to_world()


def test_processes_that_migrate_a_new_lake_at_once_take_turns(
    scenario_on: MakeScenario, sqlite_url: str, empty_postgres18_url: str, tmp_path: Path
) -> None:
    """Two replicas that start with `migrate`: one of them would fail as the other makes the catalog."""
    from etl.warehouse.engines.ducklake.writer_lock import _LOCK

    scenario = scenario_on(sqlite_url, (5,))
    scenario.settings["warehouse"] = {
        "url": f"ducklake+{empty_postgres18_url}",
        "data_path": str(tmp_path / "rows"),
    }
    scenario.settings["retry"] |= {"timeout_seconds": 60, "max_total_seconds": 60}
    waiting = (
        "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database "
        "WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()"
    )
    with psycopg.connect(empty_postgres18_url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
        processes = [scenario.start("migrate") for _ in range(2)]
        wait_until(lambda: other.execute(waiting).fetchone() == (2,))
        assert other.execute("SELECT to_regclass('ducklake_metadata')").fetchone() == (None,)
    for process in processes:
        scenario.wait_for(process)
    scenario.run("migrate", "--check")


def test_a_migration_undoes_what_began_before_it_and_is_undone_likewise(
    open_on: OpenOn, ducklake_postgres_url: str
) -> None:
    """Who has lost the lock would write rows of the old shape into tables of the new one."""
    warehouse = open_on(ducklake_postgres_url)
    with past_the_program(ducklake_postgres_url) as session:
        session.execute("BEGIN TRANSACTION")
        session.execute(CLAIM)
        migration.downgrade(warehouse, migration.known_revisions()[1])
        with pytest.raises(duckdb.TransactionException):
            session.execute("COMMIT")

        def write_amid(_: Any) -> None:
            session.execute(CLAIM)

        with (
            before("UPDATE bindings_etl_version", write_amid),
            pytest.raises(errors.WarehouseConflict),
        ):
            migration.upgrade(warehouse, None)
    assert warehouse.read(migration.current_revision) == migration.known_revisions()[1]
    migration.upgrade(warehouse, None)
    warehouse.read(migration.require_head)


def test_a_server_that_cuts_the_connection_costs_a_try(
    open_on: OpenOn, ducklake_postgres_url: str
) -> None:
    """A failover of the catalog must not end a run that is hours old."""
    warehouse = open_on(ducklake_postgres_url)
    catalog = sa.make_url(ducklake_postgres_url.removeprefix("ducklake+"))
    cut: list[int] = []

    def work(conn: sa.Connection) -> None:
        leases.lock_service(conn, warehouse.engine, "IS1")
        if not cut:
            administration = sa.create_engine(catalog.set(database="postgres"))
            with administration.connect() as other:
                query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :d"
                found = other.execute(sa.text(query), {"d": catalog.database})
                cut.append(len(found.all()))
            administration.dispose()

    warehouse.transact(work)
    assert cut[0] >= 2
    gates = warehouse.read(lambda conn: conn.execute(sa.select(sync_gates).where(MINE)).all())
    assert [tuple(one) for one in gates] == [("IS1", 1)]


# --- in a bucket ---


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a server that speaks S3 and has a bucket `lake`."""
    boto3 = pytest.importorskip("boto3", reason="moto not installed: run `make test`")
    moto_server = pytest.importorskip("moto.server", reason="moto not installed: run `make test`")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    signing = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    for name, value in signing.items():
        monkeypatch.setenv(name, value)
    httpx.post(
        f"http://{host}:{port}/moto-api/reset"
    )  # what tests before have left in this process
    client = boto3.client("s3")
    client.create_bucket(Bucket="lake")
    yield client
    server.stop()


def objects(s3: Any) -> list[str]:
    """The data files in the bucket."""
    found = s3.list_objects_v2(Bucket="lake").get("Contents", [])
    return [one["Key"] for one in found if one["Key"].endswith(".parquet")]


def test_a_lake_lies_in_a_bucket(scenario_on: MakeScenario, tmp_path: Path, s3: Any) -> None:
    """Who names a bucket gets every row from there, and leaves no file in it that nobody needs."""
    url = f"ducklake+duckdb:///{tmp_path / 'catalog.ducklake'}"
    scenario = scenario_on(f"{url}?data_path=s3://lake/bindings", (40, 35))
    scenario.sync()
    scenario.services[0].touch(12)
    scenario.sync()
    scenario.assert_equal_to_world()
    unknown = "bindings/main/bindings/ducklake-of-a-killed-process.parquet"
    s3.put_object(Bucket="lake", Key=unknown, Body=b"PAR1")
    scenario.run("purge", "--runs-before", "90d")
    tables = [name.split("/")[-2] for name in objects(s3)]
    assert "bindings" in tables
    assert unknown not in objects(s3)
    assert sorted({*tables}) == sorted(tables)  # no table has two
    scenario.assert_equal_to_world()


def test_a_bucket_that_is_not_there_is_told_before_anything_is_made(
    open_on: OpenOn, tmp_path: Path, s3: Any
) -> None:
    """A slip in its name would cost every run from the first one on."""
    catalog = tmp_path / "catalog.ducklake"
    warehouse = open_on(f"ducklake+duckdb:///{catalog}?data_path=s3://nolake/bindings")
    with pytest.raises(errors.WarehouseRefused, match=r"s3://nolake/bindings cannot be written"):
        migration.upgrade(warehouse, None)
    assert not catalog.exists()


def test_nobody_signs_in_to_a_bucket_without_credentials(
    open_on: OpenOn, tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a fault of the program, with half a page of DuckDB's words."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    warehouse = open_on(f"ducklake+duckdb:///{tmp_path / 'catalog'}?data_path=s3://lake/bindings")
    with pytest.raises(errors.EtlError, match=r"warehouse\.data_path: "):
        migration.upgrade(warehouse, None)


@pytest.mark.parametrize("folder", ["s3://lake/b*", "/data/b[1]", "/data/b?"])
def test_a_folder_that_is_a_pattern_is_told(
    open_on: OpenOn, ducklake_url: str, folder: str
) -> None:
    """A purge would delete the files of other folders that the pattern fits."""
    with pytest.raises(errors.ConfigurationError, match=r"warehouse\.data_path: has one of"):
        open_on(f"{ducklake_url}?data_path={folder.replace('?', '%3F')}")


def test_another_kind_of_bucket_is_told(open_on: OpenOn, ducklake_url: str) -> None:
    """DuckDB would find out at the first batch that it has nothing to write there with."""
    with pytest.raises(errors.ConfigurationError, match="neither a folder nor s3"):
        open_on(f"{ducklake_url}?data_path=gs://lake/bindings")


# --- what leaves for good ---


def test_a_run_gives_up_what_is_older_than_an_hour(
    scenario_on: MakeScenario, ducklake_url: str
) -> None:
    """Each run leaves a snapshot a transaction: after a year, a million, with all that they hold."""
    scenario = scenario_on(ducklake_url, (40,))
    scenario.sync()
    file = ducklake_url.removeprefix("ducklake+duckdb:///")
    with duckdb.connect(file) as catalog:
        catalog.execute(
            "UPDATE ducklake_snapshot SET snapshot_time = snapshot_time - INTERVAL 2 HOUR"
        )
        (newest,) = catalog.execute("SELECT MAX(snapshot_id) FROM ducklake_snapshot").fetchone()
    scenario.sync()
    with duckdb.connect(file) as catalog:
        query = "SELECT MIN(snapshot_id), COUNT(*) FROM ducklake_snapshot"
        oldest, number = catalog.execute(query).fetchone()
    assert oldest >= newest
    assert number > 1
    scenario.assert_equal_to_world()


@ON_BOTH
def test_purge_makes_few_files_of_many(scenario_on: MakeScenario, lake_url: str) -> None:
    """Each batch and each change leaves a file: after a year a query would open a million."""
    scenario = scenario_on(lake_url, (40, 35))
    for _ in range(3):
        for service in scenario.services:
            service.touch(12)
            service.delete(1)
        scenario.sync()
    before = scenario.query("SELECT * FROM bindings ORDER BY sid")
    history = scenario.query("SELECT * FROM binding_history ORDER BY sid, valid_from")
    many = len(data_files(lake_url))
    scenario.run("purge", "--runs-before", "90d")
    files = data_files(lake_url)
    names = [file.parent.name for file in files]
    assert len(files) < many
    assert sorted({*names}) == sorted(names)  # no table has two
    assert scenario.query("SELECT * FROM bindings ORDER BY sid") == before
    assert scenario.query("SELECT * FROM binding_history ORDER BY sid, valid_from") == history
    with past_the_program(lake_url) as session:
        assert session.execute("SELECT count(*) FROM ducklake_snapshots('lake')").fetchone() == (1,)
    scenario.sync()
    scenario.assert_equal_to_world()


@ON_BOTH
def test_an_erased_identity_is_in_no_file_and_no_snapshot(
    scenario_on: MakeScenario, lake_url: str
) -> None:
    """A lake keeps every version of its tables: one `AT (VERSION => 5)` would bring the person back."""
    scenario = scenario_on(lake_url, (40,))
    service = scenario.services[0]
    sid = service.sids()[3]
    service.change(sid, identity="zz-forget-me")
    scenario.sync()
    service.remove([sid])
    scenario.run("erase", "--identity", "zz-forget-me")
    files = data_files(lake_url)
    with past_the_program(lake_url) as session:
        for file in files:
            rows = session.execute(f"SELECT r::VARCHAR FROM read_parquet('{file}') AS r").fetchall()
            assert not [row for (row,) in rows if "zz-forget-me" in row], file
        metadata = "__ducklake_metadata_lake"
        listed = f"SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = '{metadata}'"
        for schema, table in session.execute(listed).fetchall():
            if table.startswith("ducklake_"):
                whole = f'SELECT t::VARCHAR FROM {metadata}."{schema}"."{table}" AS t'
                for (row,) in session.execute(whole).fetchall():
                    assert "zz-forget-me" not in row, table


_KILLED = """
import os, signal, sys
import duckdb
from etl.warehouse.engines import locate
from etl.warehouse.engines.base import Limits
from etl.warehouse.engines.ducklake import attaching

place = attaching.Place(locate(sys.argv[1])[1], None, None, Limits())
session = duckdb.connect()
attaching.load_extensions(session, place)
attaching.attach(session, place, create=False)
session.execute("BEGIN TRANSACTION")
session.execute(
    "INSERT INTO scan_seen (stage_id, batch, sids) "
    "SELECT 77, range, 'zz-forget-me' FROM range(20000)"
)
os.kill(os.getpid(), signal.SIGKILL)
"""


@ON_BOTH
def test_what_a_killed_process_has_written_is_gone_after_a_purge(
    scenario_on: MakeScenario, lake_url: str
) -> None:
    """No catalog knows a file whose transaction was never committed: it would name people for ever."""
    scenario = scenario_on(lake_url, (40,))
    scenario.sync()
    known = set(data_files(lake_url))
    subprocess.run([sys.executable, "-c", _KILLED, lake_url], check=False)
    [left] = set(data_files(lake_url)) - known
    scenario.run("purge", "--runs-before", "90d")
    assert not left.exists()
    scenario.assert_equal_to_world()


def test_what_another_process_is_about_to_commit_is_not_lost(
    open_on: OpenOn, ducklake_postgres_url: str
) -> None:
    """Who has lost the lock would commit rows whose file was just taken for one of nobody."""
    warehouse = open_on(ducklake_postgres_url)
    put = "INSERT INTO scan_seen (stage_id, batch, sids) SELECT 77, range, '[]' FROM range(2000)"
    with past_the_program(ducklake_postgres_url) as session:
        session.execute("BEGIN TRANSACTION")
        session.execute(CLAIM)
        session.execute(put)
        warehouse.reclaim()
        with pytest.raises(duckdb.TransactionException):
            session.execute("COMMIT")
        count = "SELECT count(*) FROM scan_seen WHERE sids = '[]' AND stage_id = 77"
        assert session.execute(count).fetchone() == (0,)
        session.execute("BEGIN TRANSACTION")
        session.execute(put)
        session.execute("COMMIT")
        warehouse.reclaim()
        assert session.execute(count).fetchone() == (2000,)


@pytest.mark.parametrize(
    "odd", ["{path}//rows", "/{path}/rows", "{path}/link//rows/", "{path}/x/../rows"]
)
def test_no_file_is_taken_for_one_of_nobody_because_of_how_its_folder_is_written(
    scenario_on: MakeScenario, tmp_path: Path, odd: str
) -> None:
    """DuckLake compares paths as texts: every row of the warehouse would be deleted."""
    (tmp_path / "there").mkdir()
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    folder = odd.format(path=tmp_path)
    scenario = scenario_on(f"ducklake+duckdb:///{tmp_path / 'catalog'}?data_path={folder}", (40,))
    scenario.sync()
    scenario.run("purge", "--runs-before", "90d")
    scenario.assert_equal_to_world()


# --- a folder for each ---


@pytest.mark.parametrize("where", ["rows", "rows/below/it", "."])
def test_a_folder_of_another_catalog_is_not_taken(
    scenario_on: MakeScenario, open_on: OpenOn, tmp_path: Path, where: str
) -> None:
    """The first purge of the one would delete every row of the other."""
    scenario = scenario_on(
        f"ducklake+duckdb:///{tmp_path / 'catalog'}?data_path={tmp_path / 'rows'}", (40,)
    )
    scenario.sync()
    second = open_on(f"ducklake+duckdb:///{tmp_path / 'second'}?data_path={tmp_path / where}")
    with pytest.raises(errors.ConfigurationError, match=f"{tmp_path}/rows has the files of ano"):
        migration.upgrade(second, None)
    assert not (tmp_path / "second").exists()
    with suppress(errors.EtlError):
        second.reclaim()
    scenario.run("purge", "--runs-before", "90d")
    scenario.assert_equal_to_world()


def test_a_folder_of_another_catalog_is_not_taken_in_a_bucket(
    open_on: OpenOn, tmp_path: Path, s3: Any
) -> None:
    """As on a disk: who has a bucket for everything names one folder twice sooner or later."""
    first = open_on(f"ducklake+duckdb:///{tmp_path / 'first'}?data_path=s3://lake/all/rows")
    migration.upgrade(first, None)
    for where in ("all/rows", "all/rows/below", "all"):
        other = open_on(f"ducklake+duckdb:///{tmp_path / 'other'}?data_path=s3://lake/{where}")
        with pytest.raises(errors.ConfigurationError, match="s3://lake/all/rows has the files of"):
            migration.upgrade(other, None)
    assert not (tmp_path / "other").exists()
    apart = open_on(f"ducklake+duckdb:///{tmp_path / 'apart'}?data_path=s3://lake/all/rows-too")
    migration.upgrade(apart, None)


@pytest.fixture(params=["file", "postgresql"])
def original_and_copy(
    request: pytest.FixtureRequest, tmp_path: Path, run_folder: Path
) -> Iterator[tuple[str, Callable[[], str]]]:
    """A lake's URL, and what copies its catalog, as a backup is restored beside it."""
    if request.param == "file":
        original = tmp_path / "catalog"
        yield (
            f"ducklake+duckdb:///{original}?data_path={tmp_path / 'rows'}",
            lambda: f"ducklake+duckdb:///{shutil.copy(original, tmp_path / 'copy')}",
        )
        return
    url = request.getfixturevalue("ducklake_postgres_url")
    server = request.getfixturevalue("postgres18_server")
    copies: list[str] = []

    def copy() -> str:
        copies.append(server.create_database(url.removeprefix("ducklake+")))
        return f"ducklake+{copies[0]}"

    yield url, copy
    server.drop_database(copies[0])


def test_a_copy_of_a_catalog_deletes_nothing(
    scenario_on: MakeScenario, original_and_copy: tuple[str, Callable[[], str]]
) -> None:
    """A dump of the catalog, tried on a test machine: its purge would delete the files of the real one."""
    original, copy = original_and_copy
    scenario = scenario_on(original, (40,))
    scenario.sync()
    at_copy = {"url": copy()}
    at_original = scenario.settings["warehouse"]
    scenario.services[0].touch(12)
    scenario.sync()
    scenario.run("purge", "--runs-before", "90d")
    files = {file: file.stat().st_size for file in data_files(original)}
    scenario.settings["warehouse"] = at_copy
    for command in (("purge", "--runs-before", "90d"), ("sync",), ("migrate",)):
        told = scenario.run(*command, expect=2).err
        assert "has the files of another catalog" in told
    assert {file: file.stat().st_size for file in data_files(original)} == files
    scenario.settings["warehouse"] = at_original
    scenario.assert_equal_to_world()


def test_a_catalog_that_has_taken_the_place_of_another_says_how_to_go_on(
    scenario_on: MakeScenario, tmp_path: Path
) -> None:
    """A backup that was restored on another server is the warehouse from now on."""
    rows = tmp_path / "rows"
    scenario = scenario_on(f"ducklake+duckdb:///{tmp_path / 'before'}?data_path={rows}", (40,))
    scenario.sync()
    (tmp_path / "before").rename(tmp_path / "after")
    url = f"ducklake+duckdb:///{tmp_path / 'after'}?data_path={rows}"
    scenario.warehouse_url = scenario.settings["warehouse"]["url"] = url
    [mark] = re.findall("taken the other's place, delete (.*)", scenario.sync(expect=2).err)
    Path(mark).unlink()
    scenario.run("purge", "--runs-before", "90d")
    assert Path(mark).exists()
    assert_goes_on_at(scenario, url)


# --- what is not as it should be ---


def test_a_data_path_that_cannot_be_written_is_told_before_anything_is_made(
    open_on: OpenOn, tmp_path: Path
) -> None:
    """Else the first sync would find out, behind a catalog that knows a folder which is none."""
    (tmp_path / "file").touch()
    catalog = tmp_path / "new.ducklake"
    warehouse = open_on(f"ducklake+duckdb:///{catalog}?data_path={tmp_path / 'file' / 'data'}")
    with pytest.raises(
        errors.WarehouseRefused, match=r"warehouse\.data_path: .* cannot be written"
    ):
        migration.upgrade(warehouse, None)
    assert not catalog.exists()


def test_a_catalog_of_a_newer_format_is_left_alone(
    scenario_on: MakeScenario, ducklake_url: str
) -> None:
    """DuckLake would offer to migrate it, and then older readers could not open it any more."""
    scenario = scenario_on(ducklake_url, (5,))
    file = ducklake_url.removeprefix("ducklake+duckdb:///")
    with duckdb.connect(file) as catalog:
        catalog.execute("UPDATE ducklake_metadata SET value = '9.0' WHERE key = 'version'")
    before = Path(file).read_bytes()
    result = scenario.sync(expect=7)
    assert "DuckLake's format 9.0, and this program writes 1.0" in result.err
    assert Path(file).read_bytes() == before


def test_another_data_path_than_the_catalog_has_is_told(
    scenario_on: MakeScenario, ducklake_postgres_url: str, tmp_path: Path
) -> None:
    """Rows of before would be missing, and new ones lie where nobody looks for them."""
    scenario = scenario_on(ducklake_postgres_url, (5,))
    scenario.settings["warehouse"]["data_path"] = str(tmp_path / "elsewhere")
    result = scenario.sync(expect=2)
    assert "warehouse.data_path: the catalog has its files in" in result.err
    assert not (tmp_path / "elsewhere").exists()


def test_a_catalog_in_a_file_knows_where_its_files_are(
    scenario_on: MakeScenario, tmp_path: Path
) -> None:
    """Whoever takes the setting out again would find no row, and the next sync load all into another folder."""
    scenario = scenario_on(
        f"ducklake+duckdb:///{tmp_path / 'catalog'}?data_path={tmp_path / 'rows'}", (40,)
    )
    scenario.sync()
    assert_goes_on_at(scenario, f"ducklake+duckdb:///{tmp_path / 'catalog'}")
    assert not (tmp_path / "catalog.files").exists()


def test_a_catalog_in_a_file_may_move_with_its_files(
    scenario_on: MakeScenario, tmp_path: Path
) -> None:
    """A warehouse on another disk, or a copy that was restored, would write into the old place."""
    scenario = scenario_on(f"ducklake+duckdb:///{tmp_path / 'before'}", (40,))
    scenario.sync()
    (tmp_path / "before").rename(tmp_path / "after")
    (tmp_path / "before.files").rename(tmp_path / "after.files")
    assert_goes_on_at(scenario, f"ducklake+duckdb:///{tmp_path / 'after'}")
    assert not (tmp_path / "before.files").exists()


def assert_goes_on_at(scenario: Scenario, url: str) -> None:
    """A change of the world arrives in the warehouse at this URL, and all that was there still is."""
    scenario.warehouse_url = scenario.settings["warehouse"]["url"] = url
    scenario.services[0].touch(12)
    assert scenario.sync().totals["updated"] == 12
    scenario.assert_equal_to_world()


def test_a_catalog_whose_files_are_in_a_bucket_says_so(
    open_on: OpenOn, tmp_path: Path, s3: Any
) -> None:
    """Without the setting DuckDB has nothing to read a bucket with, and would say so at the first row."""
    url = f"ducklake+duckdb:///{tmp_path / 'catalog'}"
    warehouse = open_on(f"{url}?data_path=s3://lake/bindings")
    migration.upgrade(warehouse, None)
    warehouse.close()
    with pytest.raises(errors.ConfigurationError, match="has its files in s3://lake/bindings"):
        open_on(url).read(migration.require_head)


def test_a_new_catalog_in_postgresql_asks_where_its_files_go(
    open_on: OpenOn, empty_postgres18_url: str
) -> None:
    """They would lie in whatever folder the first process happened to work in."""
    warehouse = open_on(f"ducklake+{empty_postgres18_url}")
    with pytest.raises(errors.ConfigurationError, match="has to know where its files go"):
        migration.upgrade(warehouse, None)
    catalog = sa.create_engine(empty_postgres18_url)
    with catalog.connect() as conn:
        assert sa.inspect(conn).get_table_names() == []
    catalog.dispose()


def test_an_extension_for_another_duckdb_is_told(
    scenario_on: MakeScenario, ducklake_url: str, tmp_path: Path
) -> None:
    """What DuckDB says of it is half a page, and its advice is to download something."""
    scenario = scenario_on(ducklake_url, (5,))
    package = tmp_path / "duckdb_extension_ducklake"
    (package / "extensions" / "v0.10.2").mkdir(parents=True)
    (package / "__init__.py").touch()
    process = scenario.start("sync", environment={"PYTHONPATH": str(tmp_path)})
    result = scenario.wait_for(process, expect=2)
    assert "its extension ducklake is for 0.10.2" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("content", [b"no database" * 1000, b""])
def test_a_file_that_is_no_catalog_stays_as_it_is(
    open_on: OpenOn, tmp_path: Path, content: bytes
) -> None:
    """A slip in the path must not cost somebody else's file."""
    file = tmp_path / "some.file"
    file.write_bytes(content)
    with pytest.raises(errors.WarehouseError, match="no DuckDB file|no tables yet"):
        open_on(f"ducklake+duckdb:///{file}").read(migration.require_head)
    assert file.read_bytes() == content or not content


def test_a_catalog_that_another_process_holds_is_said_in_a_sentence(
    scenario_on: MakeScenario, ducklake_url: str
) -> None:
    """An open notebook stops the job, and the sentence has to say so."""
    scenario = scenario_on(ducklake_url, (40,))
    assert_waits_for_a_held_file(scenario, ducklake_url.removeprefix("ducklake+duckdb:///"))


def test_a_password_with_odd_signs_is_taken_as_it_is() -> None:
    """It goes through a URL, libpq's words and a text of SQL; each of them quotes in its own way."""
    odd = "a b'c\\d\"e=f;g"
    url = sa.URL.create("ducklake+postgresql", "etl", odd, "db.internal", 5433, "lake")
    told = attaching.Place(url, None, None, Limits()).catalog()
    assert psycopg.conninfo.conninfo_to_dict(told)["password"] == odd
