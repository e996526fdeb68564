"""The report's figures: the same numbers on every engine, however it cuts a time into days."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from etl import config
from etl.report.figures import read_figures
from etl.stopping import Stop
from etl.warehouse.connection import Warehouse, open_warehouse
from etl.warehouse.tables import binding_versions, bindings
from tests.acceptance.scenario import Scenario


@pytest.mark.parametrize(("before", "while_it_counts"), [("4MB", "64MB"), ("1GB", "1GB")])
@pytest.mark.parametrize("engine_name", ["postgresql18"], indirect=True)
def test_postgresql_counts_in_memory(
    warehouse: Warehouse, before: str, while_it_counts: str
) -> None:
    """With the usual setting the report of a million bindings sorts on disk; a larger one is kept."""
    given = sa.text("SELECT current_setting('work_mem')")

    def count(conn: sa.Connection) -> str:
        conn.exec_driver_sql(f"SET LOCAL work_mem = '{before}'")
        read_figures(conn, warehouse.engine.now(conn))
        return str(conn.scalar(given))

    assert warehouse.transact(count) == while_it_counts
    assert warehouse.read(lambda conn: conn.scalar(given)) == "4MB"


def test_figures_count_what_is_stored(
    warehouse_url: str, scenario_on: Callable[..., Scenario]
) -> None:
    """A count that an engine gives in another type, or a day that it cuts in another zone, would bend a chart."""
    scenario = scenario_on(warehouse_url, (30, 12))
    scenario.sync()
    first, second = scenario.world.services.values()
    first.touch(4)
    second.delete(2)
    grown = first.grow(3)
    scenario.sync()
    warehouse = open_warehouse(
        config.Warehouse(url=SecretStr(warehouse_url)), config.Retry(attempts=2), Stop()
    )
    now = warehouse.read(warehouse.engine.now).replace(hour=12)
    yesterday = (now - timedelta(days=1)).replace(hour=23, minute=59, second=59)
    changed = (
        sa.update(binding_versions)
        .where(binding_versions.c.change == "updated")
        .values(valid_to=yesterday)
    )
    came_on = now - timedelta(days=90)
    came = sa.update(bindings).where(bindings.c.sid.not_in(grown)).values(first_seen_at=came_on)
    warehouse.transact(lambda conn: [conn.execute(statement) for statement in (changed, came)])
    figures = warehouse.read(lambda conn: read_figures(conn, now))
    warehouse.close()
    assert [(one.chat_service_sid, one.active, one.deleted) for one in figures.services] == [
        (first.sid, 33, 0),
        (second.sid, 10, 2),
    ]
    assert all(sum(one.by_type.values()) == one.active for one in figures.services)
    assert len(figures.days) == 91
    days = [(one.day, {**Counter(one.changes)}, one.active) for one in figures.days]
    none = dict.fromkeys(("first_loaded", "inserted", "restored", "updated", "deleted"), 0)
    assert days[0] == (came_on.date(), none | {"first_loaded": 42}, 42)
    assert {(str(changes), active) for _, changes, active in days[1:-2]} == {("{}", 42)}
    assert days[-2:] == [
        (yesterday.date(), none | {"updated": 4}, 42),
        (now.date(), none | {"inserted": 3, "deleted": 2}, 43),
    ]
    assert sum(sum(by_type.values()) for by_type in figures.ages.values()) == 43
    people = {(row["chat_service_sid"], row["identity"]) for row in scenario.stored().values()}
    assert sum(figures.reach.values()) == sum(figures.devices.values()) == len(people)
    assert sum(sum(kinds.values()) for kinds in figures.credentials.values()) == 43
    stored = [row["message_types"] or [] for row in scenario.stored().values()]
    assert figures.coverage == Counter(name for types in stored for name in types)
    assert sum(one.number for one in figures.unusual) < 43 / 2
    assert [run["mode"] for run in figures.runs] == ["sync", "sync"]
