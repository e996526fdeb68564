"""The emulator fakesnow as a server for Snowflake's own driver; it lives in an environment of its own.

It is DuckDB inside, and shows how the SQL is spelled and what the driver does; docs/engines/snowflake.md
says what it cannot show.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from etl.warehouse.engines import locate
from etl.warehouse.engines.base import Limits
from tests.servers.folder import (
    ServerFailedError,
    exclusively,
    free_port,
    make_home,
    run_detached,
)
from tests.servers.reaper import answers, kill_server

HERE = Path(__file__).parent
EMULATOR = HERE / "snowflake_emulator.py"
REQUIREMENTS = HERE / "snowflake_requirements.txt"
ENVIRONMENT = HERE / ".work" / "snowflake"
LIVE_URL = "SNOWFLAKE_URL"
LONGEST_START = 60.0


def missing() -> str | None:
    """Why Snowflake's driver cannot be tried here, or None."""
    if importlib.util.find_spec("snowflake") is None:
        return "snowflake-sqlalchemy not installed: run `make test`"
    return None


def version() -> str:
    """The emulator's, which is installed when a test first asks for it."""
    return REQUIREMENTS.read_text().split()[0].replace("[server]==", " ")


def lend_schema(live: str) -> Iterator[str]:
    """Yield the URL of a new schema in a live account's database, and drop it afterwards."""
    engine, url = locate(live)
    name = f"bindings_etl_{uuid.uuid4().hex}"
    database = str(url.database).partition("/")[0]
    pool = engine.open(url.set(database=database), None, Limits())
    try:
        with pool.connect().execution_options(migrating=True) as connection:
            connection.execute(sa.schema.CreateSchema(name))
            yield url.set(database=f"{database}/{name}").render_as_string(hide_password=False)
            connection.execute(sa.schema.DropSchema(name, cascade=True))
    finally:
        pool.dispose()


def emulator_python() -> Path:
    """The interpreter that has the emulator, installed once and again when its requirements change."""
    ENVIRONMENT.parent.mkdir(exist_ok=True)
    python = ENVIRONMENT / "bin" / "python"
    installed = ENVIRONMENT / "installed.txt"
    wanted = f"{sys.version}\n{REQUIREMENTS.read_text()}"
    with exclusively(ENVIRONMENT.with_suffix(".lock")):
        if not installed.exists() or installed.read_text() != wanted:
            shutil.rmtree(ENVIRONMENT, ignore_errors=True)
            venv.create(ENVIRONMENT, with_pip=True)
            pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS]
            done = subprocess.run(pip, check=False, capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"the emulator fakesnow cannot be installed: {done.stderr[-200:]}")
            installed.write_text(wanted)
    return python


def schema_in(url: str) -> str:
    """The schema that a URL names, with its database."""
    return str(sa.make_url(url).database).replace("/", ".")


@dataclass(frozen=True)
class SnowflakeEmulator:
    home: Path

    @property
    def port(self) -> int:
        return int((self.home / "port").read_text())

    def url(self, database: str) -> str:
        place = f"127.0.0.1:{self.port}/{database}"
        return f"snowflake://etl:snow@{place}?account=emulator&protocol=http"

    def start(self) -> None:
        make_home(self.home, None)
        python = str(emulator_python())
        port = free_port()
        log = self.home / "log"
        command = [python, "-P", str(EMULATOR), str(self.home), str(port)]
        run_detached(command, log=log, cwd=self.home)
        give_up_at = time.monotonic() + LONGEST_START
        while not answers(port):
            if time.monotonic() > give_up_at:
                raise ServerFailedError(f"fakesnow did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        (self.home / "port").write_text(str(port))

    def restart(self) -> None:
        raise NotImplementedError("what it holds is in its memory")

    def stop(self) -> None:
        pid = int((self.home / "snowflake.pid").read_text())
        kill_server(pid, self.home, signal.SIGKILL)
        shutil.rmtree(self.home, ignore_errors=True)

    def create_database(self, template: str | None = None) -> str:
        name = f"t{uuid.uuid4().hex}"
        self._execute(f"CREATE DATABASE {name}", f"CREATE SCHEMA {name}.etl")
        if template:
            copied = {"source": schema_in(template), "target": f"{name}.etl"}
            httpx.post(f"http://127.0.0.1:{self.port}/copy", params=copied).raise_for_status()
        return self.url(f"{name}/etl")

    def drop_database(self, url: str) -> None:
        self._execute(f"DROP SCHEMA {schema_in(url)}")  # it knows no DROP DATABASE

    def _execute(self, *statements: str) -> None:
        from snowflake import connector

        os.environ.setdefault("SNOWFLAKE_DISABLE_PLATFORM_DETECTION", "true")
        with (
            connector.connect(
                user="etl", password="snow", account="emulator", host="127.0.0.1", port=self.port,
                protocol="http", enable_server_session_keep_alive_auto_detection=False,
                session_parameters={"CLIENT_TELEMETRY_ENABLED": False},
            ) as connection,
            connection.cursor() as cursor,
        ):  # fmt: skip
            for statement in statements:
                cursor.execute(statement)
