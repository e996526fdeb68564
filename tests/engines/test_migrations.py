"""Migrations: up, down, up again, and no drift between them and `tables.py`."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from etl import config, errors
from etl.stopping import Stop
from etl.warehouse import migration, tables
from etl.warehouse.connection import Warehouse, open_warehouse
from etl.warehouse.views import COMMENTS
from tests.engines import released


@pytest.fixture
def warehouse(empty_url: str) -> Iterator[Warehouse]:
    opened = open_warehouse(
        config.Warehouse(url=SecretStr(empty_url)), config.Retry(attempts=2), Stop()
    )
    yield opened
    opened.close()


def table_names(warehouse: Warehouse) -> set[str]:
    return warehouse.read(lambda conn: set(sa.inspect(conn).get_table_names()))


def view_names(warehouse: Warehouse) -> set[str]:
    return warehouse.read(lambda conn: set(sa.inspect(conn).get_view_names()))


def rows_of(conn: sa.Connection, query: sa.TextClause) -> list[Any]:
    return list(conn.execute(query))


def differences(warehouse: Warehouse, engine_name: str) -> list[Any]:
    """Between what is there and what `tables.py` says."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def is_for_this_engine(one: Any, *_: Any) -> bool:
        """Alembic does not ask on which engines an index is."""
        engines = getattr(one, "info", {}).get("engines")
        return engines is None or warehouse.dialect in engines

    options = {
        "include_object": is_for_this_engine,
        "version_table": tables.VERSION_TABLE,
        "compare_type": not engine_name.startswith(("duck", "snow")),
        "compare_server_default": not engine_name.startswith(("duck", "snow")),
    }
    with warehouse.migrating() as conn:
        context = MigrationContext.configure(conn, opts=options)
        found = list(compare_metadata(context, tables.give_indexes_their_options()))
    if engine_name == "snowflake":  # the emulator does not tell the comments that it was given
        return [
            one
            for one in found
            if "comment" not in str((one[0] if isinstance(one, list) else one)[0])
        ]
    return found


def test_up_down_up_leaves_everything_and_nothing(warehouse: Warehouse) -> None:
    """A migration that cannot be taken back, or not be applied twice, would strand an operator half way."""
    migration.upgrade(warehouse, None)
    assert set(COMMENTS) <= view_names(warehouse)
    migration.downgrade(warehouse, "base")
    assert table_names(warehouse) <= {"bindings_etl_version"}
    assert not set(COMMENTS) & view_names(warehouse)
    assert migration.upgrade(warehouse, None) == (None, tables.HEAD)
    assert set(tables.metadata.tables) <= table_names(warehouse)


def test_migrations_rebuild_what_tables_says(warehouse: Warehouse, engine_name: str) -> None:
    """If a migration and `tables.py` drifted apart, the program would use columns that no warehouse has."""
    migration.upgrade(warehouse, None)
    assert differences(warehouse, engine_name) == []


def test_head_is_the_newest_script() -> None:
    """`tables.HEAD` is compared at every start; were it behind the scripts, every run would be refused."""
    assert migration.known_revisions()[0] == tables.HEAD


def test_every_view_can_be_queried(warehouse: Warehouse) -> None:
    """A view that an engine accepts and cannot run would only fail before an analyst's eyes."""
    migration.upgrade(warehouse, None)
    for view in COMMENTS:
        query = sa.text(f"SELECT * FROM {view}")
        assert warehouse.read(partial(rows_of, query=query)) == []


@pytest.mark.parametrize("engine_name", ["mariadb"], indirect=True)
def test_mariadb_holds_every_text_in_utf8mb4_and_compares_it_byte_by_byte(
    warehouse: Warehouse,
) -> None:
    """A column of another character set makes joins with it convert, and then no index is used."""
    migration.upgrade(warehouse, None)
    query = "SELECT DISTINCT collation_name FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name IN "
    tables_of_ours = ", ".join(f"'{name}'" for name in tables.metadata.tables)
    kinds = warehouse.read(
        lambda conn: set(conn.exec_driver_sql(f"{query} ({tables_of_ours})").scalars())
    )
    assert kinds == {None, "utf8mb4_bin", "utf8mb4_nopad_bin"}


@pytest.mark.parametrize("engine_name", ["postgresql18", "postgresql16", "duckdb"], indirect=True)
def test_every_column_of_every_view_is_explained(warehouse: Warehouse, engine_name: str) -> None:
    """Analysts see the comments in their client, and ask no page."""
    migration.upgrade(warehouse, None)
    query = "SELECT table_name, column_name FROM duckdb_columns() WHERE comment IS NULL"
    if engine_name != "duckdb":
        query = "SELECT attrelid::regclass::text, attname FROM pg_attribute WHERE attnum > 0 AND col_description(attrelid, attnum) IS NULL"
    silent = warehouse.read(lambda conn: conn.exec_driver_sql(query).all())
    assert [tuple(one) for one in silent if one[0] in COMMENTS] == []


@pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
def test_a_newer_warehouse_is_refused(warehouse: Warehouse) -> None:
    """An old program writing into a newer warehouse could damage it."""
    migration.upgrade(warehouse, None)
    warehouse.transact(
        lambda conn: conn.execute(
            sa.text("UPDATE bindings_etl_version SET version_num = 'from_the_future'")
        )
    )
    with pytest.raises(errors.WarehouseOutdated, match="upgrade this one"):
        warehouse.read(migration.require_head)
    with pytest.raises(errors.WarehouseOutdated, match="upgrade this one"):
        migration.upgrade(warehouse, None)


@pytest.mark.parametrize(
    "dialect", ["sqlite", "postgresql", "mariadb", "duckdb", "ducklake", "snowflake"]
)
def test_sql_for_review_is_whole(dialect: str) -> None:
    """A DBA who reviews and runs the SQL must get all tables and views and the revision."""
    sql = migration.print_sql(dialect)
    for name in (*tables.metadata.tables, *COMMENTS):
        assert name in sql
    assert tables.HEAD in sql


def test_a_released_warehouse_keeps_its_data(warehouse: Warehouse) -> None:
    """Whoever upgrades the program has a warehouse full of history: not a value of it may change."""
    released.make(warehouse)
    before = warehouse.read(released.rows)
    assert all(before.values())
    assert migration.upgrade(warehouse, None) == (released.V0_1, tables.HEAD)
    released.assert_kept(before, warehouse.read(released.rows))
    warehouse.read(lambda conn: conn.execute(sa.select(tables.bindings)).all())
    assert "alembic_version" not in table_names(warehouse)


def test_services_that_were_published_are_carried_over(warehouse: Warehouse) -> None:
    """Without them, freshness would forget every service until it is read again."""
    released.make(warehouse)
    ends = [
        ("IS2", "type:apn", "published", "2026-03-01"),
        ("IS2", "type:fcm", "refused", "2026-03-02"),
        ("IS2", "type:gcm", "skipped", "2026-03-03"),
        ("IS2", "type:twilsock", "published", "2026-03-04"),
        ("IS1", "type:apn", "published", "2026-03-01"),
        ("IS1", "type:fcm", "published", "2026-04-01"),
        ("IS3", "service", "failed", "2026-03-01"),
    ]
    line = """INSERT INTO sync_scans (run_id, account, chat_service_sid, scope, status, complete,
        resumed, started_at, finished_at) VALUES (1, 'other', '{}', '{}', '{}', {}, FALSE,
        '2026-03-01 00:00:00.000000', '{} 00:00:00.000000')"""

    def plant(conn: sa.Connection) -> None:
        for sid, scope, status, at in ends:
            complete = str(status in ("published", "refused")).upper()
            conn.exec_driver_sql(line.format(sid, scope, status, complete, at))

    warehouse.transact(plant)
    before = warehouse.read(freshness_of_before)
    migration.upgrade(warehouse, None)
    lines = warehouse.read(lambda conn: conn.execute(sa.select(tables.services)).mappings().all())
    after = {
        line["chat_service_sid"]: (line["last_complete_at"], line["active"], line["deleted"])
        for line in lines
    }
    assert after == {sid: before[sid] for sid in ("IS1", "IS2")}
    assert after["IS2"][0] == datetime(2026, 3, 1, tzinfo=UTC)
    parts = warehouse.read(
        lambda conn: conn.execute(
            sa.select(tables.service_parts.c.chat_service_sid, tables.service_parts.c.binding_type)
        ).all()
    )
    assert sorted(map(tuple, parts)) == [
        ("IS1", "fcm"),
        *(("IS2", kind) for kind in ("apn", "fcm", "gcm", "twilsock")),
    ]
    migration.downgrade(warehouse, released.V0_1)
    assert warehouse.read(freshness_of_before) == before


def freshness_of_before(conn: sa.Connection) -> dict[str, tuple[object, ...]]:
    """What 0.1.0's view told, by service, of the account with the latest time."""
    query = sa.text(
        "SELECT chat_service_sid, MAX(last_complete_at), SUM(active), SUM(deleted) "
        "FROM service_freshness GROUP BY chat_service_sid"
    )
    return {
        sid: (released._meaning("_at", at), int(active), int(deleted))
        for sid, at, active, deleted in conn.execute(query)
    }


def test_rows_with_unknown_fields_are_looked_at_again(warehouse: Warehouse) -> None:
    """0.1.0 stored their numbers as floats; unless they look changed, that would stay for ever."""
    released.make(warehouse)
    plant = """UPDATE bindings SET extra = '{"x": 1.1}' WHERE sid = 'BS1'"""
    warehouse.transact(lambda conn: conn.execute(sa.text(plant.replace(":", r"\:"))))
    migration.upgrade(warehouse, None)
    hashes = warehouse.read(
        lambda conn: conn.execute(sa.text("SELECT sid, source_hash FROM bindings")).all()
    )
    assert dict(map(tuple, hashes)) == {"BS1": "0" * 32, "BS2": "s1"}


@pytest.mark.parametrize("revisions", [(), ("e1f2a3b4c5d6",), ("e1f2a3b4c5d6", "0a1b2c3d4e5f")])
def test_another_program_may_keep_its_own_revision_beside(
    warehouse: Warehouse, revisions: tuple[str, ...]
) -> None:
    """Airflow, Superset or an application in the same schema: theirs was taken for ours."""
    theirs = sa.table("alembic_version", sa.column("version_num"))

    def install(conn: sa.Connection) -> None:
        conn.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        for one in revisions:
            conn.execute(sa.insert(theirs).values(version_num=one))

    with warehouse.migrating() as conn:
        install(conn)
    assert migration.upgrade(warehouse, None) == (None, tables.HEAD)
    warehouse.read(migration.require_head)
    migration.downgrade(warehouse, "base")
    assert set(warehouse.read(lambda conn: conn.scalars(sa.select(theirs)).all())) == set(revisions)


def test_taking_over_the_old_revision_can_be_broken_off(warehouse: Warehouse) -> None:
    """MariaDB commits each step: between them, both tables hold the revision, or the new one none."""
    released.make(warehouse)
    ours = sa.Table("bindings_etl_version", sa.MetaData(), sa.Column("version_num", sa.String(32)))
    warehouse.transact(ours.create)
    assert warehouse.read(migration.current_revision) == released.V0_1
    warehouse.transact(lambda conn: conn.execute(sa.insert(ours).values(version_num=released.V0_1)))
    assert migration.upgrade(warehouse, None) == (released.V0_1, tables.HEAD)
    assert "alembic_version" not in table_names(warehouse)


@pytest.mark.parametrize("engine_name", ["duckdb", "postgresql18"], indirect=True)
def test_times_mean_the_same_in_every_time_zone(warehouse: Warehouse, engine_name: str) -> None:
    """Analysts ask in their own time zone: `deleted_at <= now()` found nothing for hours."""
    released.make(warehouse)
    migration.upgrade(warehouse, None)

    def count(conn: sa.Connection) -> list[int]:
        setting = "TIME ZONE" if engine_name == "postgresql18" else "TimeZone ="
        counts = []
        for zone in ("Pacific/Kiritimati", "America/Los_Angeles"):
            conn.exec_driver_sql(f"SET {setting} '{zone}'")
            statement = (
                "SELECT COUNT(*) FROM bindings "
                "WHERE deleted_at BETWEEN '2026-03-29 02:30:00+00' AND '2026-03-29 02:30:00+00'"
            )
            counts.append(conn.exec_driver_sql(statement).scalar_one())
        return counts

    assert warehouse.read(count) == [1, 1]
    migration.downgrade(warehouse, released.V0_1)
    before = warehouse.read(released.rows)
    migration.upgrade(warehouse, None)
    after = warehouse.read(released.rows)
    for table, rows in before.items():
        assert [
            {name: now[name] for name in old} for old, now in zip(rows, after[table], strict=True)
        ] == rows


def test_sql_for_duckdb_needs_no_order_of_imports() -> None:
    """The dialect, loaded before Alembic, would not be known to it, and `migrate --sql` would end in a fault."""
    code = "import duckdb_sqlalchemy; from etl.warehouse.migration import print_sql; print_sql('duckdb')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
