"""Behind a transaction pooler (PgBouncer) each transaction may meet another backend, and strangers' settings."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from tests.acceptance.scenario import Scenario
from tests.servers import pgbouncer
from tests.servers.postgres import PostgresServer


@pytest.fixture
def pooled_url(
    postgres18_server: PostgresServer, empty_postgres18_url: str, run_folder: Path
) -> Iterator[str]:
    """An empty database behind a transaction pooler with two backends."""
    pgbouncer.require()
    home = run_folder / f"pgbouncer-{uuid.uuid4().hex}"
    with pgbouncer.pooling(postgres18_server, home) as port:
        url = sa.make_url(empty_postgres18_url).set(port=port)
        yield url.render_as_string(hide_password=False)


def test_two_warehouses_side_by_side_behind_a_pooler_do_not_mix(
    scenario_on: Callable[..., Scenario], pooled_url: str, empty_postgres18_url: str
) -> None:
    """What a session sets stays in a backend that the next transaction of the other warehouse gets."""
    scenario = scenario_on(pooled_url, (150, 90), schema="one")
    scenario.account |= {"page_size": 20, "concurrency": 4}
    running = []
    for schema in ("two", "one"):
        scenario.settings["warehouse"]["schema"] = schema
        scenario.config_path = scenario.folder / f"{schema}.yaml"
        scenario.migrate()
    for schema in ("two", "one"):
        scenario.settings["warehouse"]["schema"] = schema
        scenario.config_path = scenario.folder / f"{schema}.yaml"
        running.append(scenario.start("sync", "--json"))
    for process in running:
        scenario.wait_for(process)
    with psycopg.connect(empty_postgres18_url, autocommit=True) as conn:
        for schema in ("one", "two"):
            counted = conn.execute(f'SELECT count(*) FROM "{schema}".bindings'.encode()).fetchone()
            assert counted == (240,)
            runs = conn.execute(f'SELECT status FROM "{schema}".sync_runs'.encode()).fetchall()
            assert runs == [("succeeded",)]


def test_a_strangers_settings_in_a_pooled_backend_change_nothing(
    scenario_on: Callable[..., Scenario], pooled_url: str
) -> None:
    """Another program's search path or time zone must not decide what is written where, nor ours what it does."""
    scenario = scenario_on(pooled_url, (30,))
    strangers = [psycopg.connect(pooled_url, autocommit=False) for _ in range(2)]
    for stranger in strangers:  # both backends, while neither is free for the other
        stranger.execute("SET search_path TO pg_catalog")
        stranger.execute("SET TIME ZONE 'Asia/Kathmandu'")
        stranger.execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE")
    for stranger in strangers:
        stranger.commit()
    scenario.sync()
    names = ("search_path", "lock_timeout", "statement_timeout")
    for stranger in strangers:  # each has one of the two, as it left it
        left = [stranger.execute(f"SHOW {name}".encode()).fetchone() for name in names]
        assert left == [("pg_catalog",), ("0",), ("0",)]
    for stranger in strangers:
        stranger.execute("SET search_path TO public")
        stranger.execute("SET TIME ZONE 'UTC'")
    for stranger in strangers:
        stranger.commit()
        stranger.close()
    scenario.assert_equal_to_world()
