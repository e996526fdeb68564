"""Where a contestant puts its rows, and how the bench looks at what arrived there."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from benchmarks.postgres import PostgresServer
from benchmarks.world import CHANGED_SINCE
from etl.warehouse.engines import locate
from etl.warehouse.engines.base import Limits
from tests.servers.mariadb import MariaDBServer

_numbers = count(1)
_AS_INSTALLED = (
    "--innodb-log-file-size=96M",
    "--innodb-flush-method=O_DIRECT",
    "--innodb-doublewrite=1",
)
"""What tests switch off, since nothing of theirs has to outlive a power cut."""
_WRITTEN = (
    "SELECT schemaname || '.' || relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables"
)


@dataclass(frozen=True)
class Tally:
    """What a table holds."""

    rows: int
    distinct: int
    changed: int


@dataclass(frozen=True)
class Marks:
    """The server's counters: WAL position; rows inserted, updated, deleted so far by table."""

    wal: int = 0
    written: dict[str, list[int]] = field(default_factory=dict)

    def since(self, before: Marks) -> Marks:
        deltas = {
            table: [
                new - old
                for new, old in zip(counts, before.written.get(table, [0, 0, 0]), strict=True)
            ]
            for table, counts in self.written.items()
        }
        return Marks(
            self.wal - before.wal, {table: delta for table, delta in deltas.items() if any(delta)}
        )


class Store(Protocol):
    """A fresh, empty database for one contestant in one round."""

    url: str

    def settle(self) -> None: ...
    def mark(self) -> Marks: ...
    def tally(self, table: str) -> Tally: ...


def _tally_query(table: str, moment: str) -> str:
    changed = f"sum(CASE WHEN date_updated >= {moment} THEN 1 ELSE 0 END)"
    return f"SELECT count(*), count(DISTINCT sid), coalesce({changed}, 0) FROM {table}"


def _to_tally(row: tuple[Any, ...]) -> Tally:
    return Tally(*(int(number) for number in row))


class PostgresStore:
    """A database of the bench's PostgreSQL server."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self.server, self.name = server, name
        self.url = server.url(name)

    def settle(self) -> None:
        self.server.wait_until_idle(self.name)
        self.server.checkpoint()

    def mark(self) -> Marks:
        self.server.wait_until_idle(self.name)
        rows = self.server.ask(self.name, _WRITTEN)
        return Marks(self.server.wal_position(), {row[0]: list(row[1:]) for row in rows})

    def tally(self, table: str) -> Tally:
        return _to_tally(
            self.server.ask(self.name, _tally_query(table, f"TIMESTAMP '{CHANGED_SINCE[:-1]}'"))[0]
        )


class FileStore:
    """A SQLite or DuckDB file."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind, self.path = kind, path
        self.url = f"{kind}:///{path}"

    def settle(self) -> None:
        """Nothing to wait for."""

    def mark(self) -> Marks:
        return Marks()

    def tally(self, table: str) -> Tally:
        moment = CHANGED_SINCE[:-1].replace("T", " ")
        if self.kind == "sqlite":
            with closing(sqlite3.connect(self.path)) as connection:
                return _to_tally(connection.execute(_tally_query(table, f"'{moment}'")).fetchone())
        import duckdb

        with closing(duckdb.connect(str(self.path), read_only=True)) as connection:
            row = connection.execute(_tally_query(table, f"TIMESTAMP '{moment}'")).fetchone()
            return _to_tally(row or (0, 0, 0))


class MariadbStore:
    """A database of a MariaDB server that writes to the disk as one out of the box does."""

    def __init__(self, server: MariaDBServer) -> None:
        self.url = server.create_database()

    def settle(self) -> None:
        """Nothing to wait for."""

    def mark(self) -> Marks:
        return Marks()

    def tally(self, table: str) -> Tally:
        pool = sa.create_engine(self.url, poolclass=sa.NullPool)
        moment = CHANGED_SINCE[:-1].replace("T", " ")
        with pool.connect() as conn:
            query = _tally_query(table, f"TIMESTAMP '{moment}'")
            return _to_tally(tuple(conn.exec_driver_sql(query).one()))


class LakeStore:
    """A DuckLake; its catalog is a file, or a database of the bench's PostgreSQL server."""

    def __init__(self, catalog: str, folder: Path) -> None:
        self.url = f"ducklake+{catalog}?data_path={folder / 'lake'}"

    def settle(self) -> None:
        """Nothing to wait for."""

    def mark(self) -> Marks:
        return Marks()

    def tally(self, table: str) -> Tally:
        engine, url = locate(self.url)
        pool = engine.open(url, None, Limits())
        moment = CHANGED_SINCE[:-1].replace("T", " ")
        query = _tally_query(table, f"TIMESTAMP '{moment}'")
        with pool.connect().execution_options(reading=True) as conn:
            found = _to_tally(tuple(conn.exec_driver_sql(query).one()))
        pool.dispose()
        return found


@contextmanager
def open_store(kind: str, server: PostgresServer, folder: Path) -> Iterator[Store]:
    """``postgres``, ``mariadb``, ``sqlite``, ``duckdb`` or a DuckLake by its catalog; gone afterwards."""
    if kind == "mariadb":
        place = Path(tempfile.mkdtemp(prefix="bindings-bench-"))
        mariadb = MariaDBServer(place / "mariadb", _AS_INSTALLED)
        place.chmod(0o755)  # the server is another user
        mariadb.start()
        try:
            yield MariadbStore(mariadb)
        finally:
            mariadb.stop()
            shutil.rmtree(place, ignore_errors=True)
        return
    if kind == "ducklake":
        yield LakeStore(f"duckdb:///{folder / 'bench.ducklake'}", folder)
        return
    if not kind.endswith("postgres"):
        path = folder / f"bench.{kind}"
        yield FileStore(kind, path)
        return
    name = f"bench_{next(_numbers)}"
    server.create_database(name)
    try:
        lake = LakeStore(server.url(name), folder)
        yield PostgresStore(server, name) if kind == "postgres" else lake
    finally:
        server.drop_database(name)
