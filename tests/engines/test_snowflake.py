"""Snowflake: what its statements have to be like, who gets in, and what stands in the way."""

import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from etl import errors
from etl.warehouse import leases, migration
from etl.warehouse.connection import Warehouse
from etl.warehouse.engines import engine_named, masked, read_url
from etl.warehouse.engines.base import DbErrorKind
from etl.warehouse.engines.snowflake.claim import CLAIM
from etl.warehouse.tables import bindings, scan_absent, scan_staged
from tests.engines import fail_at
from tests.servers.folder import free_port
from tests.servers.keys import repeated_keys
from tests.servers.snowflake import SnowflakeEmulator, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

OpenOn = Callable[..., Warehouse]
SERVICE = "IS" + "1" * 32


def compiled(statement: sa.ClauseElement) -> str:
    from etl.warehouse.engines.snowflake.dialect import Dialect

    return " ".join(str(statement.compile(dialect=Dialect())).split())


# --- statements: what the emulator takes and Snowflake, by its documentation, does not ---


def test_what_is_looked_up_row_by_row_is_one_row_for_all_to_see() -> None:
    """Snowflake refuses a scalar subquery that looks at the outer query and aggregates nothing."""
    lookup = sa.select(bindings.c.changed_at).where(bindings.c.sid == scan_absent.c.sid)
    found = compiled(sa.select(scan_absent.c.sid, lookup.scalar_subquery()))
    assert "(SELECT max(bindings.changed_at) AS max_1 FROM bindings" in found
    newest = sa.select(sa.func.min(bindings.c.changed_at)).where(
        bindings.c.sid == scan_absent.c.sid
    )
    assert "max(" not in compiled(sa.select(scan_absent.c.sid, newest.scalar_subquery()))


def test_a_subquery_of_many_rows_stays_one_of_many_rows() -> None:
    """Aggregated, `IN` and `NOT IN` would find one row of all, and the others would stay as they are."""
    many = sa.select(scan_staged.c.sid)
    pairs = sa.select(scan_staged.c.batch, scan_staged.c.sid)
    for condition in (
        bindings.c.sid.in_(many),
        bindings.c.sid.not_in(many),
        sa.tuple_(scan_staged.c.batch, scan_staged.c.sid).in_(pairs),
    ):
        assert "max(" not in compiled(sa.delete(bindings).where(condition))


def test_exists_is_counted_among_columns_and_stays_where_rows_are_chosen() -> None:
    """Snowflake takes EXISTS in a WHERE only."""
    known = sa.exists().where(bindings.c.sid == scan_staged.c.sid)
    case = sa.case((known, 1), else_=2)
    query = compiled(sa.select(scan_staged.c.sid, case).where(known))
    columns, _, conditions = query.rpartition("WHERE EXISTS")
    assert "EXISTS" not in columns
    assert "(SELECT count(*) AS count_1 FROM bindings WHERE bindings.sid = scan_staged.sid) > 0" in columns  # fmt: skip
    assert conditions.startswith(" (SELECT *")


def test_no_row_is_locked() -> None:
    """Snowflake takes FOR UPDATE on hybrid tables only."""
    query = sa.select(bindings.c.sid).with_for_update(skip_locked=True)
    assert "FOR UPDATE" not in compiled(query)


def test_tables_have_no_keys_no_indexes_and_numbers_that_rise() -> None:
    """A declared key would be believed and not held; NOORDER gives a later run a smaller number."""
    sql = migration.print_sql("snowflake")
    assert "PRIMARY KEY" not in sql
    assert "UNIQUE" not in sql
    assert " INDEX " not in sql
    assert sql.count("CREATE SEQUENCE") == sql.count("_id_seq ORDER;") == 4
    assert "TIMESTAMP_NTZ(6)" in sql
    assert "DATETIME" not in sql.upper().replace("MAXDATETIME", "")


# --- where it is ---


@pytest.mark.parametrize(
    "text",
    [
        "snowflake://etl:pw@acme-prod/analytics/push?warehouse=etl&role=etl",
        "snowflake://etl@acme-prod.privatelink/analytics",
        "snowflake://etl:pw@127.0.0.1:8080/a/b?account=x&protocol=http",
    ],
)
def test_urls_that_name_a_warehouse(text: str) -> None:
    """A URL as the vendor's own pages write it must be taken."""
    assert read_url(text).engine == "snowflake"


@pytest.mark.parametrize(
    "text",
    [
        "snowflake://acme-prod/analytics/push",
        "snowflake://etl:pw@acme-prod",
        "snowflake://etl:pw@acme-prod/",
        "snowflake://etl:pw@acme-prod/a/b/c",
        "snowflake://etl:pw@acme-prod/a/b?protocol=http",
    ],
)
def test_urls_that_name_none_are_told_what_to_write(text: str) -> None:
    """Without user or database it would fail after the login; in plain http the password would travel open."""
    with pytest.raises(ValueError, match="must be snowflake://user:password@account/database"):
        read_url(text)


def test_what_is_shown_of_a_url_holds_no_secret() -> None:
    """Options that nobody has looked at may be passphrases and tokens."""
    shown = masked("snowflake://etl:s3cret@acme/a/b?warehouse=w&passcode=s3cret&token=s3cret")
    assert "s3cret" not in shown
    assert "warehouse=w" in shown


def test_a_missing_driver_is_told() -> None:
    """Whoever installs the program without the extra has to read which one, and no traceback."""
    script = (
        "import sys; sys.modules['snowflake'] = None\n"
        "from etl.warehouse.engines import locate\n"
        "from etl.warehouse.engines.base import Limits\n"
        "engine, url = locate('snowflake://etl:pw@acme/a/b')\n"
        "engine.open(url, None, Limits())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert "ConfigurationError: Snowflake needs a driver" in ended.stderr
    assert "bindings-etl[snowflake]" in ended.stderr


# --- numbers of errors ---


@pytest.mark.parametrize(
    ("number", "state", "kind"),
    [
        (606, "57P03", DbErrorKind.NO_DATABASE),
        (604, "57014", DbErrorKind.CANCELLED),
        (630, "57014", DbErrorKind.CANCELLED),
        (625, "57014", DbErrorKind.CONFLICT),
        (2003, "02000", DbErrorKind.MISSING),
        (3001, "42501", DbErrorKind.DENIED),
        (90105, "22000", DbErrorKind.NO_DATABASE),
        (390100, "08001", DbErrorKind.LOGIN),
        (390114, "08001", DbErrorKind.LOST),
        (99999, "42501", DbErrorKind.DENIED),
        (99999, "XX000", DbErrorKind.OTHER),
        (-1, None, DbErrorKind.OTHER),
    ],
)
def test_an_error_is_known_by_its_number(number: int, state: str | None, kind: DbErrorKind) -> None:
    """A number that is read wrong sends people to look in the wrong place, or is tried again for ever."""
    from snowflake.connector.errors import ProgrammingError

    engine = engine_named("snowflake")
    assert engine is not None
    told = ProgrammingError(msg="", errno=number, sqlstate=state)
    assert engine.error_kind(sa.exc.ProgrammingError("", (), told)) is kind


# --- sessions on the emulator ---


@pytest.fixture
def opened(empty_snowflake_url: str, open_on: OpenOn) -> Warehouse:
    return open_on(empty_snowflake_url, attempts=1)


def one(conn: sa.Connection) -> int:
    return int(conn.scalar(sa.text("SELECT 1")) or 0)


@pytest.mark.nightly
def test_a_wrong_password_is_told(empty_snowflake_url: str, open_on: OpenOn) -> None:
    """Without a sentence of its own people would look for the network."""
    wrong = open_on(empty_snowflake_url.replace(":snow@", ":s3cret@"), attempts=1)
    with pytest.raises(errors.WarehouseError, match=r"user or the password.*\(390100\)") as told:
        wrong.read(one)
    assert "s3cret" not in str(told.value)


@pytest.mark.nightly
def test_the_password_comes_from_the_command(
    empty_snowflake_url: str, open_on: OpenOn, tmp_path: Path
) -> None:
    """Short-lived tokens are asked for at each login, and one of before would lock the job out."""
    printed = tmp_path / "password"
    printed.write_text("snow")
    url = empty_snowflake_url.replace(":snow@", "@")
    warehouse = open_on(url, password_command=["/bin/cat", str(printed)], attempts=1)
    assert warehouse.read(one) == 1
    warehouse.close()
    printed.write_text("wrong")
    with pytest.raises(errors.WarehouseError, match="password_command prints"):
        warehouse.read(one)


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("no-such-account.invalid:443", r"there is no such host; check the account"),
        ("127.0.0.1:{closed}", "refuses the connection"),
    ],
)
@pytest.mark.nightly
def test_what_is_not_there_is_told(place: str, told: str, open_on: OpenOn) -> None:
    """The driver has one number for whatever is wrong before the login."""
    url = f"snowflake://etl:s3cret@{place.format(closed=free_port())}/a/b?account=x"
    warehouse = open_on(url, attempts=1)
    with pytest.raises(errors.WarehouseUnreachable, match=told) as refused:
        warehouse.read(one)
    assert "s3cret" not in str(refused.value)


@pytest.mark.nightly
def test_a_schema_that_is_missing_is_told_and_made(
    empty_snowflake_url: str, open_on: OpenOn
) -> None:
    """A login goes through without it, and then nothing is found."""
    warehouse = open_on(empty_snowflake_url, schema="push")
    with pytest.raises(errors.WarehouseOutdated, match="migrate"):
        warehouse.read(migration.require_head)
    migration.upgrade(warehouse, "push")
    warehouse.read(migration.require_head)


@pytest.mark.nightly
def test_a_server_that_goes_away_is_told_as_such(run_folder: Path, open_on: OpenOn) -> None:
    """A lost connection is tried again; taken for a fault of a statement, it would end the run."""
    server = SnowflakeEmulator(run_folder / f"own-{free_port()}")
    server.start()
    try:
        warehouse = open_on(server.create_database(), attempts=1, timeout_seconds=5)
        assert warehouse.read(one) == 1
    finally:
        server.stop()
    with pytest.raises(errors.WarehouseUnreachable):
        warehouse.read(one)


# --- writers take turns ---


@pytest.mark.nightly
def test_of_two_who_find_no_gate_one_makes_it(snowflake_url: str, open_on: OpenOn) -> None:
    """No key is enforced: both would put it in, and then neither would wait for the other."""
    warehouses = [open_on(snowflake_url) for _ in range(3)]
    meet = threading.Barrier(len(warehouses))

    def lock(warehouse: Warehouse) -> None:
        meet.wait()
        warehouse.transact(
            partial(leases.lock_service, engine=warehouse.engine, chat_service_sid=SERVICE)
        )

    threads = [threading.Thread(target=lock, args=(warehouse,)) for warehouse in warehouses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warehouses[0].read(repeated_keys) == {}
    gates = warehouses[0].read(
        lambda conn: conn.scalars(sa.text("SELECT chat_service_sid FROM sync_gates")).all()
    )
    assert SERVICE in gates


@pytest.mark.nightly
def test_whoever_does_not_get_its_turn_writes_nothing(snowflake_url: str, open_on: OpenOn) -> None:
    """A claim that failed and was passed over would let two write what one key should hold."""
    from snowflake.connector.errors import ProgrammingError

    def fail(_conn: object) -> None:
        waited = ProgrammingError(msg="", errno=625, sqlstate="57014")
        raise sa.exc.ProgrammingError(CLAIM, (), waited)

    warehouse = open_on(snowflake_url, attempts=1)
    with fail_at.before(CLAIM, fail) as hits, pytest.raises(errors.WarehouseConflict):
        warehouse.transact(lambda conn: conn.execute(sa.delete(scan_absent)))
    assert hits.count == 1


@pytest.mark.nightly
def test_without_the_row_nobody_writes(snowflake_url: str, open_on: OpenOn) -> None:
    """An UPDATE of no row locks nothing: without it writers would no longer wait for each other."""
    warehouse = open_on(snowflake_url, attempts=1)
    delete = sa.text("DELETE FROM sync_gates WHERE chat_service_sid = '*'")
    warehouse.transact(lambda conn: conn.execute(delete))
    with pytest.raises(errors.WarehouseRefused, match="INSERT INTO sync_gates"):
        warehouse.transact(lambda conn: conn.execute(sa.delete(scan_absent)))


@pytest.mark.nightly
def test_whoever_writes_begins_with_the_one_row(snowflake_url: str, open_on: OpenOn) -> None:
    """What writes without it would not wait, and could wait for what waits for it."""
    warehouse = open_on(snowflake_url)
    told: list[str] = []

    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def note(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        told.append(statement)

    try:
        warehouse.transact(lambda conn: conn.execute(sa.delete(scan_absent)))
        warehouse.read(lambda conn: conn.execute(sa.select(scan_absent)).all())
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    mine = [statement.split()[:2] for statement in told]
    assert mine == [
        ["UPDATE", "sync_gates"],
        ["DELETE", "FROM"],
        ["SELECT", "scan_absent.stage_id,"],
    ]
