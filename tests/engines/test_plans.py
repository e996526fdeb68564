"""How much work the set-based statements make for an engine: it has to grow with the rows, and not with their square."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from etl.sync import removal
from etl.warehouse import staging
from etl.warehouse.connection import Warehouse
from etl.warehouse.purging import Cutoffs
from tests.engines.changing_world import ChangingWorld
from tests.engines.scan_harness import ScanHarness, sent

ROWS = 600


@contextmanager
def explaining(prefix: str) -> Iterator[list[str]]:
    """The plans of the statements that begin so."""
    plans: list[str] = []

    def explain(
        conn: sa.Connection, _cursor: object, statement: str, parameters: Any, *_: object
    ) -> None:
        if statement.startswith(prefix):
            plan = conn.connection.cursor()
            plan.execute("EXPLAIN " + statement, parameters)
            plans.append("\n".join(" ".join(map(str, line)) for line in plan.fetchall()))

    sa.event.listen(sa.Engine, "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", explain)


def sqlite_steps(conn: sa.Connection, work: Callable[[], None]) -> int:
    """Instructions of SQLite's machine, in tens."""
    steps = [0]

    def step() -> None:
        steps[0] += 1

    driver = conn.connection.driver_connection
    assert driver is not None
    driver.set_progress_handler(step, 10)
    work()
    driver.set_progress_handler(None, 0)
    return steps[0]


def mariadb_reads(conn: sa.Connection, work: Callable[[], None]) -> int:
    """Rows that MariaDB has read, again and again counted."""

    def read() -> int:
        return sum(
            int(number)
            for _, number in conn.exec_driver_sql("SHOW SESSION STATUS LIKE 'Handler_read%%'")
        )

    before = read()
    work()
    return read() - before


QUESTIONS = {
    "SELECT sid FROM bindings WHERE identity = 'person-7'": "ix_bindings_identity",
    "SELECT sid FROM binding_versions WHERE identity = 'person-7'": "ix_binding_versions_identity",
    "SELECT sid FROM bindings WHERE changed_at > '2099-01-01'": "ix_bindings_changed_at",
    "SELECT sid FROM bindings WHERE deleted_at < '1999-01-01'": "ix_bindings_deleted_at_sid",
    "SELECT count(*) FROM binding_versions WHERE change = 'updated' AND valid_to > '2099-01-01'": "ix_binding_versions_change_valid_to",
    "SELECT id FROM sync_runs WHERE status = 'running'": "ix_sync_runs_status",
}  # fmt: skip


@pytest.mark.parametrize("engine_name", ["sqlite", "postgresql18", "mariadb"], indirect=True)
def test_what_people_ask_is_found_by_index(harness: ScanHarness, engine_name: str) -> None:
    """In a warehouse of years each of these would read millions of rows, and erase and purge ask them too."""
    rows = [sent(number) for number in range(50)]
    harness.scan([*rows, sent(50, identity="long " * 5_000)])
    harness.scan([{**row, "endpoint": "another"} for row in rows[1:]])

    def plan(conn: sa.Connection, question: str) -> str:
        if engine_name == "postgresql18":
            conn.exec_driver_sql("SET LOCAL enable_seqscan = off")
        if engine_name == "mariadb":  # where it is a reserved word
            question = question.replace(" change ", " `change` ")
        how = "EXPLAIN QUERY PLAN" if engine_name == "sqlite" else "EXPLAIN"
        return "\n".join(str(line) for line in conn.exec_driver_sql(f"{how} {question}"))

    asked = dict(QUESTIONS)
    if engine_name == "sqlite":  # docs/warehouse.md says why
        del asked["SELECT sid FROM bindings WHERE identity = 'person-7'"]
    for question, index in asked.items():
        found = harness.warehouse.transact(partial(plan, question=question))
        assert index in found, found


@pytest.mark.parametrize("engine_name", ["postgresql18", "postgresql16"], indirect=True)
def test_postgresql_compares_a_batch_by_an_index_that_holds_it(harness: ScanHarness) -> None:
    """Looked up row by row, the bindings of a service lie in as many pages of a grown table."""
    rows = [sent(number) for number in range(2000)]
    harness.scan(rows)
    harness.warehouse.transact(lambda conn: conn.exec_driver_sql("ANALYZE bindings"))
    with explaining("SELECT CAST(json_object_agg") as plans:
        harness.scan(rows)
    assert len(plans) == 1
    assert "Index Only Scan using ix_bindings_chat_service_sid_sid" in plans[0], plans[0]


@pytest.mark.parametrize("engine_name", ["postgresql18"], indirect=True)
def test_a_small_service_that_is_as_it_was_is_looked_up_once(warehouse: Warehouse) -> None:
    """Looked up batch by batch, a repeat every few minutes would cost the server twice its work, for years."""
    world = ChangingWorld(warehouse, 1, rows=60, page_size=3)
    assert world.read(1, chance=0).counters.inserted == 60
    lookups: list[list[str]] = []
    for begin in ("SELECT CASE WHEN (count(*)", "SELECT CAST(json_object_agg"):
        with explaining(begin) as plans:
            assert world.read(1, chance=0).counters.unchanged == 60
        lookups.append(plans)
    assert [len(plans) for plans in lookups] == [1, 0]


@pytest.mark.parametrize("engine_name", ["postgresql18", "postgresql16"], indirect=True)
def test_postgresql_counts_the_changes_of_each_day_by_an_index(harness: ScanHarness) -> None:
    """Five million past images are three gigabytes to read; what is counted by stands in the index."""
    harness.scan([sent(1), sent(2)])
    harness.scan([sent(1)])

    def plan(conn: sa.Connection) -> str:
        for way in ("seqscan", "bitmapscan"):  # of so few rows they cost less
            conn.exec_driver_sql(f"SET LOCAL enable_{way} = off")
        return "\n".join(conn.exec_driver_sql("EXPLAIN SELECT * FROM daily_changes").scalars())

    found = harness.warehouse.transact(plan)
    assert "Index Only Scan using ix_binding_versions_change_valid_to" in found, found


@pytest.mark.parametrize("engine_name", ["sqlite", "mariadb"], indirect=True)
@pytest.mark.parametrize("again", [1, ROWS], ids=["one SID again", "every SID again"])
def test_a_sid_that_comes_again_costs_no_look_at_every_list_for_every_row(
    harness: ScanHarness, engine_name: str, again: int
) -> None:
    """One row that moved between pages made a first load of 20,000 rows take a quarter of a minute longer."""
    count = sqlite_steps if engine_name == "sqlite" else mariadb_reads
    counted = []
    for rows in (ROWS, 2 * ROWS):
        harness.scans += 1

        def measure(conn: sa.Connection, rows: int = rows) -> int:
            for half in (range(rows // 2), range(rows // 2, rows), range(again * rows // ROWS)):
                harness.stage(conn, [sent(number) for number in half])
            return count(
                conn, lambda: staging.drop_superseded(conn, harness.warehouse.engine, harness.scans)
            )

        counted.append(harness.warehouse.transact(measure))
    assert counted[1] < 3 * counted[0]


@pytest.mark.parametrize("engine_name", ["mariadb"], indirect=True)
def test_mariadb_finds_the_past_of_new_rows_by_index(harness: ScanHarness) -> None:
    """After a purge the statistics know no rows, and the rows that are on their way out were read for each new one: half a minute."""
    rows = [sent(number) for number in range(200)]
    harness.scan(rows)
    harness.scan(rows[:100], deletes="hard")
    removal.purge(harness.warehouse, Cutoffs(harness.now + timedelta(days=1)), dry_run=False)
    with explaining("SELECT sum(CASE") as plans:
        harness.scan(rows)
    assert len(plans) == 1
    past = [line for line in plans[0].splitlines() if " binding_versions " in line]
    assert past
    assert all("ix_binding_versions_sid_id" in line for line in past), plans[0]


@pytest.mark.parametrize("engine_name", ["postgresql18", "postgresql16"], indirect=True)
def test_postgresql_finds_the_gaps_of_returned_rows_by_index(harness: ScanHarness) -> None:
    """Without statistics, the planner walked through the whole history for each row that came back."""
    rows = [sent(number) for number in range(2000)]
    harness.scan(rows)
    harness.scan(rows[:1000], deletes="hard")
    with explaining("INSERT INTO binding_versions") as plans:
        harness.scan(rows, deletes=None)
    assert len(plans) == 1
    assert re.search(r"Index Only Scan (Backward )?using ix_binding_versions_sid_id", plans[0]), (
        plans[0]
    )
    assert "Join Filter" not in plans[0], plans[0]
