"""MariaDB, when this machine has it."""

import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.servers.folder import (
    ServerFailedError,
    copy_folder,
    exclusively,
    free_port,
    make_home,
    run_detached,
    search_path,
    server_environment,
)
from tests.servers.reaper import answers, kill_server

if TYPE_CHECKING:
    import pymysql
    from pymysql.cursors import Cursor

# Nothing reaches the disk's platter (a crash of the server, though, loses nothing that was committed).
INNODB = (
    "--innodb-log-file-size=8M",
    "--innodb-flush-method=nosync",
    "--innodb-doublewrite=0",
)
# The character set is as Debian configures it. The time zone is one off the full hour: whoever
# writes local time into the warehouse is found out.
SETTINGS = (
    *INNODB,
    "--performance-schema=OFF",
    "--character-set-server=utf8mb4",
    "--collation-server=utf8mb4_general_ci",
    "--default-time-zone=+05:45",
    "--max-connections=400",
)


def missing() -> str | None:
    """Why there is no MariaDB to run here, or None."""
    if find("mariadbd") is None or find("mariadb-install-db") is None:
        return "mariadbd not found: apt install mariadb-server"
    if importlib.util.find_spec("pymysql") is None:
        return "PyMySQL not installed: pip install -e '.[dev]'"
    return None


def version() -> str:
    """The exact version, as the binary tells it."""
    told = subprocess.run(
        [program("mariadbd"), "--version"], check=True, capture_output=True, text=True
    ).stdout
    found = re.search(r"(\d+\.\d+\.\d+)-MariaDB", told)
    return found[1] if found else told.strip()


def find(name: str) -> str | None:
    return shutil.which(name, path=search_path())


def program(name: str) -> str:
    path = find(name)
    if path is None:
        raise ServerFailedError(missing())
    return path


def unprivileged_user() -> str | None:
    """The user to run as when we are root, which MariaDB refuses; None means ourselves."""
    if os.geteuid() != 0:
        return None
    known = {user.pw_name for user in pwd.getpwall()}
    return "mysql" if "mysql" in known else "nobody"


def unprivileged_uid() -> int | None:
    user = unprivileged_user()
    return None if user is None else pwd.getpwnam(user).pw_uid


def name_in(url: str) -> str:
    """The database that a URL names."""
    return urlsplit(url).path.lstrip("/")


def statements_of(cursor: "Cursor", database: str) -> list[str]:
    """What makes this database again where it is used: tables with their rows, then views."""
    cursor.execute(f"USE {database}")
    cursor.execute("SHOW FULL TABLES")
    kinds = dict(cursor.fetchall())
    tables = [name for name, kind in kinds.items() if kind == "BASE TABLE"]
    views = [name for name in kinds if name not in tables]
    made = [shown(cursor, "TABLE", name) for name in tables]
    rows = [f"INSERT INTO {name} SELECT * FROM {database}.{name}" for name in tables]
    defined = (shown(cursor, "VIEW", name).replace(f"`{database}`.", "") for name in views)
    return [*made, *rows, *defined]


def shown(cursor: "Cursor", kind: str, name: str) -> str:
    """The statement that makes a table or view."""
    cursor.execute(f"SHOW CREATE {kind} {name}")
    row = cursor.fetchone()
    assert row is not None
    return str(row[1])


@dataclass(frozen=True)
class MariaDBServer:
    home: Path
    options: tuple[str, ...] = ()
    patience: int = 120  # seconds that it may take to start

    @property
    def port(self) -> int:
        return int((self.home / "port").read_text())

    @property
    def is_up(self) -> bool:
        """Whether it was started and not halted since."""
        return (self.home / "mariadb.pid").exists()

    @property
    def superuser_url(self) -> str:
        return self.url("mysql")

    def url(self, database: str) -> str:
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/{database}?charset=utf8mb4"

    def start(self) -> None:
        make_home(self.home, unprivileged_uid())
        copy_folder(self._initialized(), self.home / "data")
        for attempt in (1, 2, 3):
            port = free_port()
            try:
                self._serve(port)
            except ServerFailedError:
                if attempt == 3:
                    raise
            else:
                (self.home / "port").write_text(str(port))
                return

    def _initialized(self) -> Path:
        """A data folder that no server has used, made once in a run."""
        fresh = MariaDBServer(self.home.with_name("fresh-mariadb"))
        done = fresh.home.with_suffix(".done")
        with exclusively(fresh.home.with_suffix(".lock")):
            if not done.exists():
                make_home(fresh.home, unprivileged_uid())
                fresh._install()
                done.touch()
        return fresh.home / "data"

    def _install(self) -> None:
        with (self.home / "log").open("w") as log:
            done = subprocess.run(
                [
                    program("mariadb-install-db"),
                    *self._place(),
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                    "--skip-name-resolve",
                    *INNODB,
                ],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                env=server_environment(),
            )
        if done.returncode:
            raise ServerFailedError(
                f"mariadb-install-db ended with {done.returncode}:\n{self._log()}"
            )

    def restart(self) -> None:
        """Crash, and come back on the same port with what was committed."""
        self.halt()
        self.resume()

    def halt(self) -> None:
        """Be unreachable; `resume` brings the same data back on the same port."""
        pid_file = self.home / "mariadb.pid"
        kill_server(int(pid_file.read_text()), self.home, signal.SIGKILL)
        pid_file.unlink()

    def resume(self) -> None:
        self._serve(self.port)

    def stop(self) -> None:
        if self.is_up:
            self.halt()
        shutil.rmtree(self.home, ignore_errors=True)

    def execute(self, statement: str) -> None:
        """As root, for good."""
        with self.connect() as connection:
            connection.cursor().execute(statement)

    def create_database(self, template: str | None = None) -> str:
        name = f"t{uuid.uuid4().hex}"
        with self.connect() as connection, connection.cursor() as cursor:
            statements = statements_of(cursor, name_in(template)) if template else []
            for statement in (f"CREATE DATABASE {name}", f"USE {name}", *statements):
                cursor.execute(statement)
        return self.url(name)

    def drop_database(self, url: str) -> None:
        # A transaction that a test left open would hold its tables, and this statement, for a day.
        self.end_sessions(url)
        self.execute(f"DROP DATABASE IF EXISTS {name_in(url)}")

    def end_sessions(self, url: str) -> None:
        """Cut off whoever is connected to a database."""
        with self.connect() as connection, connection.cursor() as cursor:
            listed = "SELECT id FROM information_schema.processlist WHERE db = %s"
            cursor.execute(listed, (name_in(url),))
            for (connection_id,) in cursor.fetchall():
                cursor.execute(f"KILL {connection_id}")

    def _serve(self, port: int) -> None:
        run_detached(
            [
                program("mariadbd"),
                *self._place(),
                "--bind-address=127.0.0.1",
                f"--port={port}",
                f"--socket={self.home / 's.sock'}",
                f"--pid-file={self.home / 'mariadb.pid'}",
                *SETTINGS,
                *self.options,
            ],
            log=self.home / "log",
            cwd=self.home,
        )
        for _ in range(50 * self.patience):
            # A foreign server that took this port in between writes no pid file here.
            if self.is_up and answers(port):
                return
            if "Aborting" in self._log():
                break
            time.sleep(0.02)
        raise ServerFailedError(f"mariadbd did not start:\n{self._log()}")

    def _place(self) -> list[str]:
        user = unprivileged_user()
        as_user = [] if user is None else [f"--user={user}"]
        # A server that starts deletes every temporary table it finds in its tmpdir: two must not share /tmp.
        return [
            "--no-defaults",
            *as_user,
            f"--datadir={self.home / 'data'}",
            f"--tmpdir={self.home}",
        ]

    def connect(self) -> "pymysql.Connection":
        """A session of the administrator."""
        import pymysql

        return pymysql.connect(host="127.0.0.1", port=self.port, user="root", autocommit=True)

    def _log(self) -> str:
        return (self.home / "log").read_text(errors="replace")[-2000:]
