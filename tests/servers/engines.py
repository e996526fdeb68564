"""The engines that the warehouse is tested on, and what this machine can run of them."""

import importlib.util
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import NamedTuple

import sqlalchemy as sa

from etl.warehouse.engines import locate
from etl.warehouse.engines.base import Limits
from tests.servers import galera, mariadb, postgres, snowflake


class Engine(NamedTuple):
    url_fixture: str  # gives the URL of a migrated warehouse; `empty_…`, of an empty database
    missing: Callable[[], str | None]
    version: Callable[[], str]
    mark: str = ""  # of its contract, and of what names it: "slow" or "nightly"
    beyond: str = ""  # of whatever else is tested on every engine


def missing_duckdb() -> str | None:
    if importlib.util.find_spec("duckdb_sqlalchemy") is None:
        return "duckdb-sqlalchemy not installed: run `make test`"
    return None


def missing_ducklake() -> str | None:
    if importlib.util.find_spec("duckdb_extension_ducklake") is None:
        return "duckdb-extension-ducklake not installed: run `make test`"
    return missing_duckdb()


ENGINES = {
    "sqlite": Engine("sqlite_url", lambda: None, lambda: sqlite3.sqlite_version),
    "postgresql18": Engine("postgres18_url", postgres.missing, lambda: postgres.version(18)),
    "postgresql16": Engine(
        "postgres16_url", postgres.missing, lambda: postgres.version(16), "slow", "nightly"
    ),
    "mariadb": Engine("mariadb_url", mariadb.missing, mariadb.version, beyond="slow"),
    "galera": Engine("galera_url", galera.missing, mariadb.version, "nightly", "nightly"),
    "duckdb": Engine(
        "duckdb_url", missing_duckdb, lambda: metadata.version("duckdb"), "slow", "slow"
    ),
    "ducklake": Engine(
        "ducklake_url",
        missing_ducklake,
        lambda: metadata.version("duckdb-extension-ducklake"),
        "slow",
        "nightly",
    ),
    "ducklake_postgres": Engine(
        "ducklake_postgres_url",
        lambda: missing_ducklake() or postgres.missing(),
        lambda: metadata.version("duckdb-extension-ducklake"),
        "slow",
        "nightly",
    ),
    "snowflake": Engine(
        "snowflake_url", snowflake.missing, snowflake.version, "nightly", "nightly"
    ),
}


if os.environ.get(snowflake.LIVE_URL):
    ENGINES["snowflake_live"] = Engine(
        "snowflake_live_url", snowflake.missing, lambda: "an account", "nightly", "nightly"
    )


@contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    """A connection past the program; a lake has to be attached first, by its engine."""
    if url.startswith(("ducklake", "snowflake")):
        engine, place = locate(url)
        pool = engine.open(place, None, Limits())
    else:
        pool = sa.create_engine(url, poolclass=sa.NullPool)
    try:
        with pool.connect().execution_options(migrating=True) as connection:
            yield connection
    finally:
        pool.dispose()


def absent() -> dict[str, str]:
    """The engines that cannot run here, each with its reason."""
    reasons = {name: engine.missing() for name, engine in ENGINES.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def describe() -> list[str]:
    """What the head of a test report says about engines."""
    reasons = absent()
    running = (
        f"{name} ({engine.version()})" for name, engine in ENGINES.items() if name not in reasons
    )
    return [
        f"engines: {', '.join(running)}",
        *(f"engine skipped: {name} ({reason})" for name, reason in reasons.items()),
    ]
