"""A scenario: the simulator on a real socket, a configuration file, the program's command line, a real warehouse."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml

from etl.cli.app import run
from etl.simulator import Simulator, World
from etl.simulator.world import Service
from etl.warehouse.engines import locate
from tests.acceptance.interceptor import Interceptor
from tests.servers.engines import connected
from tests.servers.keys import repeated_keys

# What is stored when must not hang on how fast a machine reads: a batch is full by its pages alone.
PROGRAM = (
    "from etl.sync import prefetch; prefetch.BATCH_SECONDS = {}; "
    "from etl.__main__ import main; main()"
)
CONTENT = (
    "sid", "account", "account_sid", "chat_service_sid", "credential_sid", "binding_type", "identity", "endpoint",
    "message_types", "date_created", "date_updated", "url", "extra",
)  # fmt: skip
LEGACY = {
    "added_to_channel": "added_to_conversation",
    "removed_from_channel": "removed_from_conversation",
}


@dataclass(frozen=True)
class Result:
    """What one command line did, seen from outside."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        document: dict[str, Any] = json.loads(self.out)
        return document

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        """The entries of `services` with `--json`, by SID."""
        return {entry["chat_service_sid"]: entry for entry in self.json["services"]}

    @property
    def totals(self) -> dict[str, int]:
        """The totals of a run with `--json`."""
        totals: dict[str, int] = self.json["totals"]
        return totals


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Until a condition holds; a program that never gets there must fail the scenario and not hold it up."""
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at, "what was waited for did not come about"
        time.sleep(0.01)


def changes(result: Result) -> dict[str, int]:
    """The counters of a run that tell what it wrote, without those that are 0."""
    names = ("inserted", "updated", "deleted", "restored", "rejected")
    return {name: result.totals[name] for name in names if result.totals[name]}


class Scenario:
    """One world, one warehouse, one configuration; commands run against them."""

    def __init__(
        self, folder: Path, simulator: Simulator, warehouse_url: str, interceptor: Interceptor
    ) -> None:
        self.folder = folder
        self.simulator = simulator
        self.interceptor = interceptor
        self.batch_seconds = 3600  # of a process that is started
        self.world: World = simulator.worlds[0]
        self.warehouse_url = warehouse_url
        self.config_path = folder / "config.yaml"
        self.account: dict[str, Any] = {
            "name": "main",
            "account_sid": self.world.account_sid,
            "api_key": self.world.api_key,
            "api_secret": self.world.api_secret,
            "base_url": simulator.base_url,
            "services": "all",
        }
        self.settings: dict[str, Any] = {
            "accounts": [self.account],
            "warehouse": {"url": warehouse_url},
            # Waits between tries are short, so that a scenario of a fault takes no time; an answer may take long on a busy machine.
            "retry": {
                "attempts": 6,
                "timeout_seconds": 30,
                "max_wait_seconds": 0.05,
                "max_total_seconds": 120,
            },
        }

    @property
    def services(self) -> list[Service]:
        """The world's services, in the order in which they were added."""
        return list(self.world.services.values())

    def write_config(self) -> Path:
        """The settings of the moment as a file."""
        self.config_path.write_text(
            yaml.dump(self.settings, Dumper=yaml.CSafeDumper, allow_unicode=True)
        )
        return self.config_path

    def run(self, *arguments: str, expect: int | None = 0) -> Result:
        """One command line in this process. `expect=None` takes any exit code."""
        self.write_config()
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([*arguments, "--config", str(self.config_path)])
        result = Result(code, out.getvalue(), err.getvalue())
        assert expect is None or code == expect, f"exit code {code}\n{result.out}\n{result.err}"
        return result

    def start(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        """One command line in a process of its own, for scenarios that kill it."""
        self.write_config()
        program = PROGRAM.format(self.batch_seconds)
        return subprocess.Popen(
            [sys.executable, "-c", program, *arguments, "--config", str(self.config_path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    def migrate(self) -> "Scenario":
        """Bring the warehouse to the newest revision."""
        self.run("migrate")
        return self

    def sync(self, *arguments: str, expect: int | None = 0) -> Result:
        """`sync --json`."""
        return self.run("sync", "--json", *arguments, expect=expect)

    def backfill(self, *arguments: str, expect: int | None = 0) -> Result:
        """`backfill --json`."""
        return self.run("backfill", "--json", *arguments, expect=expect)

    def wait_for(self, process: "subprocess.Popen[str]", *, expect: int | None = 0) -> Result:
        """The end of a process that `start` began."""
        out, err = process.communicate(timeout=120)
        assert expect is None or process.returncode == expect, (
            f"exit code {process.returncode}\n{out}\n{err}"
        )
        return Result(process.returncode, out, err)

    def expire_leases(self) -> None:
        """As if `lease_seconds` had passed since a killed process last gave a sign of life."""
        self.execute("UPDATE sync_leases SET expires_at = '2001-01-01 00:00:00.000000'")
        self.execute(
            "UPDATE sync_runs SET started_at = '2001-01-01 00:00:00.000000' WHERE status = 'running'"
        )

    def image(self) -> dict[str, list[dict[str, Any]]]:
        """Every row of every table."""
        tables = (
            "bindings", "binding_versions", "sync_runs", "sync_scans", "rejected_bindings", "sync_leases",
            "scan_progress", "scan_seen", "scan_staged", "scan_absent",
        )  # fmt: skip
        return {table: self.query(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables}

    def query(self, sql: str, **parameters: object) -> list[dict[str, Any]]:
        """Rows of the warehouse, read past the program."""
        rows: list[dict[str, Any]] = self.on_warehouse(
            lambda conn: [dict(row) for row in conn.execute(sa.text(sql), parameters).mappings()]
        )
        return rows

    def execute(self, sql: str, **parameters: object) -> None:
        """Change the warehouse past the program."""

        def work(conn: sa.Connection) -> None:
            conn.execute(sa.text(sql), parameters)
            conn.commit()

        self.on_warehouse(work)

    def on_warehouse(self, work: Callable[[sa.Connection], Any]) -> Any:
        """Something done over a connection of our own."""
        with connected(self.warehouse_url) as conn:
            return work(conn)

    def stored(self, where: str = "deleted_at IS NULL") -> dict[str, dict[str, Any]]:
        """Content of `bindings` by SID, in one form on every engine."""
        rows = self.query(f"SELECT {', '.join(CONTENT)} FROM bindings WHERE {where}")
        return {row["sid"]: {name: plain(name, row[name]) for name in CONTENT} for row in rows}

    def expected(self, service_sids: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """What the warehouse has to hold, told from the world alone by code that the program does not share."""
        chosen = self.world.services if service_sids is None else service_sids
        return {
            sid: expected_row(binding)
            for service in chosen
            for sid, binding in self.world.services[service].bindings.items()
        }

    def assert_equal_to_world(self) -> None:
        """The active rows are exactly the world's bindings, column by column, and no lease or stage is left."""
        assert self.stored() == self.expected()
        assert self.query("SELECT * FROM sync_leases") == []
        if not locate(self.warehouse_url)[0].enforces_keys:
            assert self.on_warehouse(repeated_keys) == {}
        for table in ("scan_seen", "scan_staged", "scan_absent", "scan_progress"):
            assert self.query(f"SELECT count(*) AS n FROM {table}") == [{"n": 0}], table


def expected_row(binding: Mapping[str, Any]) -> dict[str, Any]:
    """A binding of the world as `bindings` has to show it, in the words of docs/warehouse.md."""
    names = binding["message_types"]
    return {
        **{name: binding.get(name) for name in CONTENT},
        "account": "main",
        "binding_type": binding["binding_type"].lower(),
        "message_types": None
        if names is None
        else sorted({LEGACY.get(bare(name), bare(name)) for name in names}),
        "date_created": as_stored(binding["date_created"]),
        "date_updated": as_stored(binding["date_updated"]),
        "extra": {name: value for name, value in binding.items() if name not in CONTENT} or None,
    }


def bare(name: str) -> str:
    return name.strip().lower().replace("twilio.conversations.", "").replace("twilio.channel.", "")


def as_stored(text: str | None) -> str | None:
    if text is None:
        return None
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def plain(name: str, value: Any) -> Any:
    """A value of any engine in one form: times as text in UTC, JSON decoded."""
    if value is None:
        return None
    if name in ("message_types", "extra") and isinstance(value, str):
        return json.loads(value)
    if isinstance(value, datetime):
        return (value.astimezone(UTC) if value.tzinfo else value).strftime("%Y-%m-%d %H:%M:%S.%f")
    return value
