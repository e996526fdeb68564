"""The engines that the warehouse is tested on, and what this machine can run of them."""

import importlib.util
import sqlite3
from collections.abc import Callable
from importlib import metadata
from typing import NamedTuple

from tests.servers import mariadb, postgres


class Engine(NamedTuple):
    url_fixture: str  # gives the URL of a migrated warehouse; `empty_…`, of an empty database
    missing: Callable[[], str | None]
    version: Callable[[], str]


def missing_duckdb() -> str | None:
    if importlib.util.find_spec("duckdb_sqlalchemy") is None:
        return "duckdb-sqlalchemy not installed: run `make test`"
    return None


ENGINES = {
    "sqlite": Engine("sqlite_url", lambda: None, lambda: sqlite3.sqlite_version),
    "postgresql18": Engine("postgres18_url", postgres.missing, lambda: postgres.version(18)),
    "postgresql16": Engine("postgres16_url", postgres.missing, lambda: postgres.version(16)),
    "mariadb": Engine("mariadb_url", mariadb.missing, mariadb.version),
    "duckdb": Engine("duckdb_url", missing_duckdb, lambda: metadata.version("duckdb")),
}


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
