"""What only PostgreSQL has: dead rows, unlogged tables, schemas, roles and plans."""

import gc
import json
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from etl import config, errors
from etl.warehouse import absences, migration, staging, tables
from etl.warehouse.connection import Warehouse, limits_of
from etl.warehouse.engines.postgresql.sessions import connect
from etl.warehouse.views import COMMENTS
from tests.acceptance.scenario import Scenario, wait_until
from tests.engines.scan_harness import SERVICE, ScanHarness, sent
from tests.servers.folder import lend_database
from tests.servers.postgres import PostgresServer
from tests.servers.templates import migrate

POSTGRESQL = ["postgresql18", "postgresql16"]
every_postgresql = pytest.mark.parametrize("engine_name", POSTGRESQL, indirect=True)

# What the job needs, and nothing beyond it: no DDL, no ownership. docs/warehouse.md shows the same.
GRANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "USAGE": {
        "SCHEMA": ("push",),
        "SEQUENCE": ("binding_versions_id_seq", "sync_runs_id_seq", "sync_scans_id_seq", "rejected_bindings_id_seq"),
    },
    "SELECT": {
        "TABLE": (
            "bindings_etl_version", "bindings", "binding_versions", "sync_runs", "sync_scans", "rejected_bindings", "sync_leases",
            "sync_gates", "scan_progress", "scan_seen", "scan_staged", "scan_absent", "services", "service_parts", "schema_drift",
            "page_links", "privacy_rules",
        )
    },
    "INSERT": {
        "TABLE": (
            "bindings", "binding_versions", "sync_runs", "sync_scans", "rejected_bindings", "sync_leases",
            "sync_gates", "scan_progress", "scan_seen", "scan_staged", "scan_absent", "services", "service_parts", "schema_drift",
            "page_links", "privacy_rules",
        )
    },
    "UPDATE": {
        "TABLE": (
            "bindings", "sync_runs", "sync_scans", "rejected_bindings", "sync_leases", "sync_gates", "scan_progress", "services",
            "service_parts", "schema_drift", "privacy_rules",
        )
    },
    "DELETE": {
        "TABLE": (
            "bindings", "sync_leases", "scan_progress", "scan_seen", "scan_staged", "scan_absent", "service_parts", "page_links",
        )
    },
}  # fmt: skip


def single_grants() -> list[tuple[str, str, str]]:
    """Each privilege, kind and name of `GRANTS`."""
    return [
        (privilege, kind, name)
        for privilege, kinds in GRANTS.items()
        for kind, names in kinds.items()
        for name in names
    ]


def full_name(kind: str, name: str) -> str:
    return name if kind == "SCHEMA" else f"push.{name}"


def too_many_parameters(conn: sa.Connection) -> None:
    conn.execute(sa.select(tables.bindings.c.sid).where(tables.bindings.c.sid.in_(["x"] * 66_000)))


def too_large_a_sort(conn: sa.Connection) -> None:
    conn.execute(sa.text("SET LOCAL temp_file_limit = '64kB'; SET LOCAL work_mem = '64kB'"))
    conn.execute(sa.text("SELECT n FROM generate_series(1, 50000) AS n ORDER BY n % 7, n"))


@pytest.mark.parametrize("work", [too_many_parameters, too_large_a_sort])
@pytest.mark.parametrize("engine_name", ["postgresql18"], indirect=True)
def test_a_fault_of_a_statement_is_told_as_that(
    warehouse: Warehouse, work: Callable[[sa.Connection], None]
) -> None:
    """Told as a fault of the network it is tried again in vain, and people look for a broken cable."""
    with pytest.raises(errors.WarehouseRefused, match="refused the work"):
        warehouse.transact(work)


@every_postgresql
def test_an_unchanged_repeat_makes_no_dead_row(
    scenario_on: Callable[..., Scenario], warehouse_url: str
) -> None:
    """Each rewritten row is a dead one for vacuum and a record for every replica: a repeat must cost none."""
    scenario = scenario_on(warehouse_url)
    scenario.sync()

    def written() -> list[dict[str, object]]:
        return scenario.query(
            "SELECT relname, n_tup_ins, n_tup_upd, n_tup_del, n_dead_tup FROM pg_stat_user_tables "
            "WHERE relname IN ('bindings', 'binding_versions', 'rejected_bindings') ORDER BY relname"
        )

    before = written()
    assert before[1]["n_tup_ins"] == 52
    assert scenario.sync().totals["unchanged"] == 52
    assert written() == before


@every_postgresql
def test_staging_is_unlogged_and_types_are_those_of_the_house(warehouse: Warehouse) -> None:
    """Logged staging doubles the write-ahead log; text in place of jsonb and timestamptz would break analysts' queries."""
    query = sa.text("SELECT relname, relpersistence::text FROM pg_class")
    kinds: dict[str, str] = warehouse.read(lambda conn: dict(conn.execute(query).all()))
    assert {name for name in tables.metadata.tables if kinds[name] == "u"} == {
        "scan_absent",
        "scan_progress",
        "scan_seen",
        "scan_staged",
    }
    columns = sa.text(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'bindings'"
    )
    types: dict[str, str] = warehouse.read(lambda conn: dict(conn.execute(columns).all()))
    for name in ("date_created", "date_updated", "first_seen_at", "changed_at", "deleted_at"):
        assert types[name] == "timestamp with time zone", name
    assert types["message_types"] == types["extra"] == "jsonb"
    assert types["identity"] == types["endpoint"] == "text"


@pytest.mark.parametrize("engine_name", ["postgresql18", "duckdb", "ducklake"], indirect=True)
def test_the_schema_of_the_configuration_is_where_everything_lies(
    scenario_on: Callable[..., Scenario], empty_url: str
) -> None:
    """A warehouse is shared: tables in the wrong schema collide with others', or nobody finds them."""
    schema = "Push data"
    scenario = scenario_on(empty_url, schema=schema)
    assert scenario.sync().totals["inserted"] == 52
    assert scenario.sync().totals["unchanged"] == 52
    query = "SELECT table_schema, table_name FROM information_schema.tables "
    query += "WHERE table_schema NOT IN ('pg_catalog', 'information_schema')"
    found = {(row["table_schema"], row["table_name"]) for row in scenario.query(query)}
    assert {one for one, _ in found} == {schema}
    assert {*tables.metadata.tables, "bindings_etl_version", "active_bindings"} <= {
        name for _, name in found
    }
    assert scenario.query(f'SELECT count(*) AS n FROM "{schema}".active_bindings') == [{"n": 52}]
    scenario.run("migrate", "--check")


def test_on_mariadb_the_schema_is_the_database(
    scenario_on: Callable[..., Scenario], empty_mariadb_url: str
) -> None:
    """On MariaDB a schema is a database; the setting has to lead there, whatever the URL names."""
    elsewhere = sa.make_url(empty_mariadb_url)
    scenario = scenario_on(
        elsewhere.set(database="mysql").render_as_string(hide_password=False),
        schema=elsewhere.database,
    )
    assert scenario.sync().totals["inserted"] == 52
    scenario.warehouse_url = empty_mariadb_url
    scenario.assert_equal_to_world()


def as_small_role(scenario: Scenario, schema: str = "push") -> str:
    """Make a role that owns nothing, and let the scenario's job use it."""
    url = sa.make_url(scenario.warehouse_url)
    role = f"small_{url.database}"
    scenario.execute(f"CREATE ROLE {role} LOGIN")
    scenario.settings["warehouse"]["url"] = url.set(username=role).render_as_string(
        hide_password=False
    )
    return role


def story(scenario: Scenario) -> int:
    """Everything a job does: load, change, delete in both ways, return, reject, repair; gives the first exit code but 0."""
    service = scenario.services[0]
    steps: list[Callable[[], object]] = [
        lambda: [scenario.account.update(chains_per_service=2, page_size=2)],
        lambda: [
            service.touch(3),
            service.delete(2),
            service.put({"sid": "BS" + "0" * 32, "account_sid": "bad"}),
        ],
        lambda: [service.bring_back(1), service.touch(1)],
        lambda: [
            service.remove(["BS" + "0" * 32]),
            service.delete(1),
            scenario.settings.update(deletes={"mode": "hard"}),
        ],
        lambda: [
            service.put(service.bindings[service.sids()[0]] | {"binding_type": "web"}),
            scenario.account.update(partition_by_type=True),
        ],
        lambda: None,
        lambda: [scenario.account.update(partition_by_type=False)],
    ]
    for step in steps:
        step()
        code = scenario.sync(expect=None).code
        if code:
            return code
    return 0


@pytest.fixture(scope="module")
def warehouse_in_push(postgres18_server: PostgresServer) -> Iterator[str]:
    """URL of a warehouse in the schema `push`, to be copied."""
    url = postgres18_server.create_database()
    migrate(url, "push")
    yield url
    postgres18_server.drop_database(url)


@pytest.fixture
def push_url(postgres18_server: PostgresServer, warehouse_in_push: str) -> Iterator[str]:
    yield from lend_database(postgres18_server, warehouse_in_push)


def drop_role(scenario: Scenario, role: str) -> None:
    scenario.execute(f"DROP OWNED BY {role}")
    scenario.execute(f"DROP ROLE {role}")


def test_the_job_runs_under_a_role_that_owns_nothing(
    scenario_on: Callable[..., Scenario], push_url: str
) -> None:
    """The nightly job must not need the right to drop a table."""
    scenario = scenario_on(push_url, (20,), schema="push")
    role = as_small_role(scenario)
    for privilege, kind, name in single_grants():
        scenario.execute(f"GRANT {privilege} ON {kind} {full_name(kind, name)} TO {role}")
    try:
        assert story(scenario) == 0
        scenario.run("migrate", "--check")
        assert scenario.run("migrate", expect=None).code == 0  # nothing to do is no DDL
    finally:
        drop_role(scenario, role)


@pytest.mark.slow
@pytest.mark.parametrize("revoked", single_grants(), ids=" ".join)
def test_no_grant_is_superfluous(
    scenario_on: Callable[..., Scenario], push_url: str, revoked: tuple[str, str, str]
) -> None:
    """A privilege that the job does not need is one that a thief of its password does not need to get."""
    scenario = scenario_on(push_url, (20,), schema="push")
    role = as_small_role(scenario)
    for privilege, kind, name in single_grants():
        if (privilege, kind, name) != revoked:
            scenario.execute(f"GRANT {privilege} ON {kind} {full_name(kind, name)} TO {role}")
    try:
        assert story(scenario) != 0
    finally:
        drop_role(scenario, role)


def test_a_missing_privilege_is_said_in_a_sentence(
    scenario_on: Callable[..., Scenario], push_url: str
) -> None:
    """Who sets up the role has to learn that a GRANT is missing, and where they are listed."""
    scenario = scenario_on(push_url, (20,), schema="push")
    role = as_small_role(scenario)
    for privilege, kind, name in single_grants():
        if (privilege, name) != ("INSERT", "bindings"):
            scenario.execute(f"GRANT {privilege} ON {kind} {full_name(kind, name)} TO {role}")
    try:
        result = scenario.sync(expect=7)
        assert "lacks a privilege" in result.out
        assert "Traceback" not in result.err
    finally:
        drop_role(scenario, role)


def documented(mark: str, database: str) -> list[str]:
    """The statements of docs/warehouse.md below a mark, with names of the test's own."""
    page = (Path(__file__).parents[2] / "docs" / "warehouse.md").read_text(encoding="utf-8")
    block = page.partition(f"<!-- {mark} -->")[2].partition("```sql")[2].partition("```")[0]
    block = re.sub("--.*", "", block).replace("PASSWORD '…'", "").replace("IDENTIFIED BY '…'", "")
    for name, own in {
        "etl_owner": f"owner_{database}",
        "etl_job": f"job_{database}",
        "etl_analyst": f"analyst_{database}",
        "analytics": database,
    }.items():
        block = block.replace(name, own[:64])
    return [statement for statement in block.split(";") if statement.strip()]


@pytest.mark.parametrize("engine_name", ["postgresql18", "postgresql16", "mariadb"], indirect=True)
def test_the_documented_grants_are_enough(
    scenario_on: Callable[..., Scenario],
    warehouse_url: str,
    engine_name: str,
    open_on: Callable[..., Warehouse],
) -> None:
    """Who follows the page, step by step, has to end with an owner that migrates and a job that runs."""
    url = sa.make_url(warehouse_url)
    database = str(url.database)
    server, schema = ("mariadb", None) if engine_name == "mariadb" else ("postgresql", "twilio")
    scenario = scenario_on(warehouse_url, (20,))
    migration.downgrade(open_on(warehouse_url), "base")
    scenario.settings["warehouse"]["schema"] = schema
    for statement in documented(f"{server}, administrator", database):
        scenario.execute(statement)

    def as_role(role: str) -> str:
        return url.set(username=f"{role}_{database}").render_as_string(hide_password=False)

    try:
        scenario.warehouse_url = scenario.settings["warehouse"]["url"] = as_role("owner")
        scenario.run("migrate")
        for statement in documented(f"{server}, owner", database):
            scenario.execute(statement)
        scenario.settings["warehouse"]["url"] = as_role("job")
        assert story(scenario) == 0
        for command in (
            ("check",),
            ("status",),
            ("migrate", "--check"),
            ("purge", "--deleted-before", "1d"),
        ):
            scenario.run(*command)
        if engine_name == "mariadb":
            scenario.warehouse_url = warehouse_url
            for statement in documented("mariadb, administrator, analysts", database):
                scenario.execute(statement)
            scenario.execute(f"DROP USER owner_{database}")
            scenario.run("status")
            assert_reads_views_only(scenario, as_role("analyst"))
    finally:
        scenario.warehouse_url = warehouse_url
        drop_roles(scenario, engine_name, database)


def assert_reads_views_only(scenario: Scenario, url: str) -> None:
    """MariaDB's views that carry the user who made them fail for everybody once that user is dropped."""
    scenario.warehouse_url = url
    for view in COMMENTS:
        scenario.query(f"SELECT * FROM {view}")
    with pytest.raises(sa.exc.DBAPIError):
        scenario.query("SELECT payload FROM rejected_bindings")


def drop_roles(scenario: Scenario, engine_name: str, database: str) -> None:
    if engine_name == "mariadb":
        for role in ("job", "owner", "analyst"):
            scenario.execute(f"DROP USER IF EXISTS {role}_{database}")
    else:
        for role in ("job", "owner"):
            drop_role(scenario, f"{role}_{database}")


def test_check_names_every_privilege_that_is_missing(
    scenario_on: Callable[..., Scenario], push_url: str
) -> None:
    """A preflight that is content, and a run that then fails for a sequence or a view, is worse than none."""
    scenario = scenario_on(push_url, (20,), schema="push")
    role = as_small_role(scenario)
    scenario.execute(f"GRANT USAGE ON SCHEMA push TO {role}")
    scenario.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA push TO {role}")
    scenario.execute(f"REVOKE SELECT ON push.service_freshness FROM {role}")
    scenario.execute(f"REVOKE DELETE ON push.bindings FROM {role}")
    try:
        told = {
            one["message"].partition(";")[0]
            for one in scenario.run("check", "--json", expect=7).json["findings"]
            if not one["ok"]
        }
        sequences = [name for privilege, kind, name in single_grants() if kind == "SEQUENCE"]
        may_not = (
            "DELETE bindings",
            "SELECT service_freshness",
            *(f"USE {one}" for one in sequences),
        )
        assert told == {f"the role lacks the privilege {one}" for one in may_not}
    finally:
        drop_role(scenario, role)


def test_check_tells_a_read_only_warehouse_once(
    scenario_on: Callable[..., Scenario], sqlite_url: str
) -> None:
    """No GRANT helps where the file is read-only, and forty lines hide the one that counts."""
    scenario = scenario_on(sqlite_url, (5,))
    scenario.settings["warehouse"]["url"] = (
        f"sqlite:///file:{sqlite_url.removeprefix('sqlite:///')}?mode=ro&uri=true"
    )
    findings = [
        one["message"]
        for one in scenario.run("check", "--json", expect=7).json["findings"]
        if not one["ok"]
    ]
    assert len(findings) == 1
    assert "it is read-only" in findings[0]


@every_postgresql
def test_migrate_needs_no_more_than_to_create_in_its_schema(
    scenario_on: Callable[..., Scenario], warehouse_url: str
) -> None:
    """A DBA prepares a schema and hands it over; `migrate` must not ask for the whole database."""
    scenario = scenario_on(warehouse_url, (20,))
    role = as_small_role(scenario)
    scenario.execute(f"CREATE SCHEMA handed_over AUTHORIZATION {role}")
    scenario.settings["warehouse"]["schema"] = "handed_over"
    try:
        scenario.run("migrate")
        assert story(scenario) == 0
    finally:
        drop_role(scenario, role)


@every_postgresql
@pytest.mark.parametrize("rows", [0, 2000], ids=["empty", "freshly loaded"])
def test_a_batch_is_looked_up_by_index(
    harness: ScanHarness, warehouse: Warehouse, rows: int
) -> None:
    """Fresh tables have no statistics: a plan that reads the whole table once per SID takes minutes instead of milliseconds."""
    if rows:
        harness.scan([sent(number) for number in range(rows)])
    plans: list[str] = []

    def explain(
        conn: sa.Connection, _cursor: object, statement: str, parameters: Any, *_: object
    ) -> None:
        if statement.startswith(("SELECT", "INSERT INTO scan_absent")):
            plan = conn.connection.cursor()
            plan.execute("EXPLAIN " + statement, parameters)
            plans.append("\n".join(line for (line,) in plan.fetchall()))

    keys, _ = harness._normalizer.hash_rows(
        [json.dumps(sent(number)).encode() for number in range(3000)]
    )
    sa.event.listen(sa.Engine, "before_cursor_execute", explain)
    try:
        warehouse.read(
            lambda conn: staging.find_differing(conn, warehouse.engine, keys.values(), SERVICE)
        )
        warehouse.read(
            lambda conn: absences.list_absent(conn, warehouse.engine, harness.scope, [], 1)
        )
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", explain)
    assert len(plans) == 3
    for plan in plans:
        lines = plan.splitlines()
        for place, line in enumerate(lines):
            if "Nested Loop" in line:
                depth = len(line) - len(line.lstrip())
                below = [one for one in lines[place + 1 :] if len(one) - len(one.lstrip()) > depth]
                assert not any("Seq Scan" in one for one in below), plan


@every_postgresql
def test_a_session_that_nobody_holds_is_closed_without_a_warning(empty_url: str) -> None:
    """A thread that hangs at the end of a run is left behind, and the driver's warning would go to cron's mail."""
    url = sa.make_url(empty_url)
    place = {"host": url.host, "port": url.port, "user": url.username, "dbname": url.database}
    limits = limits_of(config.Retry(), 60)
    with warnings.catch_warnings(record=True) as told, connect(place, limits) as observer:
        warnings.simplefilter("always")
        session = connect(place, limits)
        alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
        pid = session.info.backend_pid
        assert observer.execute(alive, [pid]).fetchone() == (1,)
        del session
        gc.collect()
        wait_until(lambda: observer.execute(alive, [pid]).fetchone() == (0,))
    assert told == []


def test_the_mariadb_name_of_the_url_is_as_good_as_the_mysql_one(
    scenario_on: Callable[..., Scenario], mariadb_url: str
) -> None:
    """The contract takes both; a user of MariaDB writes mariadb:// first of all."""
    scenario = scenario_on(mariadb_url.replace("mysql+pymysql", "mariadb+pymysql"), (20,))
    assert scenario.sync().totals["inserted"] == 20
    scenario.assert_equal_to_world()
