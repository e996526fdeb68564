"""Who is measured: how each is started, where its rows end up, what it is made of."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.process import Command
from benchmarks.serving import ROOT
from benchmarks.venvs import PeerVenv, read_versions
from benchmarks.world import ACCOUNT_SID

PYTHON = Path(sys.executable)
OURS = PYTHON.parent / "bindings-etl"
OUR_PACKAGES = ("bindings-etl", "httpx", "httpcore", "msgspec", "psycopg", "sqlalchemy")
DLT, TWILIO, SINGER = PeerVenv("dlt"), PeerVenv("twilio"), PeerVenv("singer")


@dataclass(frozen=True)
class Job:
    """What a contestant is asked to do: these services, into this database, with this folder of its own."""

    base_url: str
    services: list[str]
    page_size: int
    concurrency: int
    chains: int
    database_url: str
    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return {
            "BENCH_BASE_URL": self.base_url,
            "BENCH_SERVICES": ",".join(self.services),
            "BENCH_PAGE_SIZE": str(self.page_size),
            "BENCH_DATABASE_URL": self.database_url,
            "BENCH_WORK_DIR": str(self.folder),
        }


@dataclass(frozen=True)
class Contestant:
    """One way to do the job. ``table`` is where the rows can be counted; None: it prints how many it read."""

    name: str
    label: str
    commands: Callable[[Job], list[Command]]
    table: str | None
    packages: tuple[str, ...]
    venv: PeerVenv | None = None
    setup: Callable[[Job], None] = lambda _: None

    def prepare(self) -> None:
        """Raises OSError when it cannot take part."""
        if self.venv:
            self.venv.prepare()
        elif self.name == "ours":
            call_ours("--version")

    def versions(self) -> dict[str, str]:
        return (
            self.venv.versions(self.packages) if self.venv else read_versions(PYTHON, self.packages)
        )


def run_floor(name: str) -> Callable[[Job], list[Command]]:
    return lambda job: [Command([PYTHON, "-m", f"benchmarks.floors.{name}"], ROOT, job.env)]


def write_our_config(job: Job) -> Path:
    """JSON is YAML."""
    account = {
        "name": "bench",
        "account_sid": ACCOUNT_SID,
        "api_key": "SK" + "0" * 32,
        "api_secret": "secret",
        "base_url": job.base_url,
        "services": job.services,
        "page_size": job.page_size,
        "concurrency": job.concurrency,
        "chains_per_service": job.chains,
    }
    path = job.folder / "config.yaml"
    path.write_text(
        json.dumps({"accounts": [account], "warehouse": {"url": job.database_url}}, indent=2)
    )
    return path


def call_ours(*arguments: str) -> None:
    done = subprocess.run([OURS, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        last_line = done.stderr.strip().rpartition("\n")[2]
        raise OSError(f"bindings-etl {arguments[-1]} ended with {done.returncode}: {last_line}")


def migrate_ours(job: Job) -> None:
    call_ours("--config", str(write_our_config(job)), "migrate")


def run_ours(job: Job) -> list[Command]:
    return [Command([OURS, "sync", "--config", job.folder / "config.yaml"], job.folder)]


def ask_ours(job: Job, arguments: Sequence[str]) -> list[Command]:
    return [Command([OURS, "--config", job.folder / "config.yaml", *arguments], job.folder)]


def run_dlt(job: Job) -> list[Command]:
    quiet = {"RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "ERROR"}
    return [
        Command([DLT.executable("python"), DLT.script("pipeline.py")], job.folder, job.env | quiet)
    ]


def run_sdk(job: Job) -> list[Command]:
    return [Command([TWILIO.executable("python"), TWILIO.script("load.py")], job.folder, job.env)]


def run_singer(job: Job) -> list[Command]:
    tap = {"base_url": job.base_url, "services": job.services, "page_size": job.page_size}
    target = {
        "sqlalchemy_url": job.database_url.replace("postgresql:", "postgresql+psycopg:"),
        "default_target_schema": "bench",
        "load_method": "upsert",
        "use_copy": True,
        "activate_version": False,
        "add_record_metadata": False,
    }
    for name, config in (("tap", tap), ("target", target)):
        (job.folder / f"{name}.json").write_text(json.dumps(config))
    quiet = {"SINGER_SDK_LOG_LEVEL": "WARNING", "TAP_BINDINGS_LOGLEVEL": "WARNING"}
    return [
        Command(
            [SINGER.executable("python"), SINGER.script("tap.py"), "--config", "tap.json"],
            job.folder,
            quiet,
        ),
        Command(
            [SINGER.executable("target-postgres"), "--config", "target.json"], job.folder, quiet
        ),
    ]


CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant(
            "floor-fetch", "floor: fetch only", run_floor("fetch"), None, ("httpx", "msgspec")
        ),
        Contestant(
            "floor-load",
            "floor: fetch + load",
            run_floor("load"),
            "bindings",
            ("httpx", "msgspec", "psycopg"),
        ),
        Contestant(
            "ours", "bindings-etl", run_ours, "active_bindings", OUR_PACKAGES, setup=migrate_ours
        ),
        Contestant(
            "sdk",
            "twilio SDK + SQLAlchemy",
            run_sdk,
            "bindings",
            ("twilio", "sqlalchemy", "psycopg"),
            TWILIO,
        ),
        Contestant("dlt", "dlt", run_dlt, "bench.bindings", ("dlt", "psycopg2-binary"), DLT),
        Contestant(
            "singer",
            "Singer tap + target-postgres",
            run_singer,
            "bench.bindings",
            ("singer-sdk", "meltanolabs-target-postgres", "psycopg"),
            SINGER,
        ),
    )
}
PEERS = ("sdk", "dlt", "singer")
