"""``python -m benchmarks.soak``: hundreds of syncs of a changing world amid faults, kills and crashes.

After each sync the warehouse is compared with the simulator's world, which stands still meanwhile;
every few syncs one is left in peace, and then both have to be equal. What is counted as wrong has to be 0.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import sqlalchemy as sa
import yaml

from etl.simulator import Fault, Simulator, World
from tests.acceptance.interceptor import Interceptor, Request
from tests.acceptance.scenario import CONTENT, expected_row, plain
from tests.servers.folder import join_run, make_run_folder, start_reaper
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer

ENGINES = ("postgresql", "mariadb", "sqlite")
SIZES = (1_400, 500, 150)
PEACE_EVERY = 5
LEASE_SECONDS = 5
PASSWORD = "soak-Pa55word"
MEMORY_SAMPLE = 10

# Faults that end, or spoil, an answer; the rows that do come are true.
HONEST = (
    "throttle", "throttle-retry-after", "error-500", "error-500-html", "error-502", "error-503",
    "error-504-html", "empty-503", "timeout-408", "odd-401", "odd-404", "forbidden", "unauthorized",
    "redirect", "html-200", "loop", "foreign-host", "foreign-path", "empty-next", "relative-link",
    "no-list", "no-meta", "cut-body", "reset", "bad-gzip", "meta-first", "trailing-empty-page",
)  # fmt: skip
# Faults by which a listing lies about what there is: nothing may be deleted for them.
LYING = ("missing-next", "empty-service", "hidden-row", "token-empty", "empty-page", "duplicate-rows")  # fmt: skip


class Row(NamedTuple):
    """A row of `bindings`: its content, and whether it is active."""

    content: Mapping[str, Any]
    active: bool


Image = dict[str, Row]


@dataclass
class Result:
    """What came of all syncs on one engine."""

    engine: str
    syncs: int = 0
    exit_codes: Counter[int] = field(default_factory=Counter)
    accidents: Counter[str] = field(default_factory=Counter)
    faults: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    memory_mb: list[float] = field(default_factory=list)
    seconds: float = 0

    def describe(self) -> str:
        """Return the printed block."""
        first = median(self.memory_mb[:MEMORY_SAMPLE])
        last = median(self.memory_mb[-MEMORY_SAMPLE:])
        codes = ", ".join(f"{code}: {n}" for code, n in sorted(self.exit_codes.items()))
        accidents = ", ".join(f"{n} {name}" for name, n in sorted(self.accidents.items()))
        lines = [
            f"{self.engine}: {self.syncs} syncs in {self.seconds:,.0f} s",
            f"  exit codes            {codes}",
            f"  accidents             {accidents or 'none'}; {self.faults:,} answers of the API spoilt",
            *(f"  {name:<21} {self.wrong[name]}" for name in WRONGS),
            f"  peak memory           {first:.1f} MB at first, {last:.1f} MB at last (medians of {MEMORY_SAMPLE})",
        ]
        return "\n".join(lines)


WRONGS = (
    "losses", "unequal at peace", "wrong deletes", "half publications", "leases left", "staging left", "told secrets", "odd exit codes",
)  # fmt: skip
KNOWN_CODES = {0, 3, 4, 5, 6, 7, -9}


class Warehouse:
    """The database of one engine, read past the program, and what can befall it."""

    def __init__(self, url: str, crash: Callable[[], None] | None) -> None:
        self.url = url
        self.crash = crash
        """The server's processes are killed and it comes back; None where there is no server."""
        self._engine = sa.create_engine(url, poolclass=sa.NullPool)

    def query(self, sql: str) -> list[Mapping[str, Any]]:
        with self._engine.connect() as conn:
            return [dict(row) for row in conn.execute(sa.text(sql)).mappings()]

    def image(self) -> Image:
        """Return every row of `bindings`, deleted ones too."""
        rows = self.query(f"SELECT {', '.join(CONTENT)}, deleted_at FROM bindings")
        return {
            row["sid"]: Row(
                {name: plain(name, row[name]) for name in CONTENT}, row["deleted_at"] is None
            )
            for row in rows
        }

    def count(self, *tables: str) -> int:
        return sum(self.query(f"SELECT count(*) AS n FROM {table}")[0]["n"] for table in tables)

    def count_leases_of_newest_run(self) -> int:
        """Count what a run that is over still holds; what a killed one held lapses, and is taken over later."""
        newest = "SELECT max(id) FROM sync_runs"
        found = self.query(f"SELECT count(*) AS n FROM sync_leases WHERE run_id = ({newest})")
        return int(found[0]["n"])

    def resumed_services(self) -> set[str]:
        """Return the services whose scan went on where an earlier one had stopped, in the newest run."""
        newest = "SELECT max(id) FROM sync_runs"
        sql = f"SELECT chat_service_sid FROM sync_scans WHERE resumed AND run_id = ({newest})"
        return {row["chat_service_sid"] for row in self.query(sql)}

    def cut_connections(self) -> None:
        """End every session but our own, as an administrator or a firewall does."""
        with self._engine.connect() as conn:
            if conn.dialect.name == "postgresql":
                conn.execute(
                    sa.text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )
                return
            sessions = conn.execute(
                sa.text(
                    "SELECT id FROM information_schema.processlist "
                    "WHERE db = database() AND id <> connection_id()"
                )
            ).scalars()
            for session in sessions.all():
                with suppress(sa.exc.OperationalError):  # it ended by itself meanwhile
                    conn.execute(sa.text(f"KILL {session}"))


class Soak:
    """One engine's world, warehouse and syncs."""

    def __init__(self, name: str, warehouse: Warehouse, folder: Path, seed: int) -> None:
        self._rng = random.Random(f"{seed}:{name}")
        self._world = World(seed=seed)
        self._services = [self._world.add_service(bindings=size) for size in SIZES]
        self._simulator = Simulator(self._world)
        self._interceptor = Interceptor(self._simulator.app)
        self._simulator.app = self._interceptor  # type: ignore[assignment]
        self._warehouse = warehouse
        self._folder = folder
        self._secrets = {self._world.api_secret, self._world.auth_token, PASSWORD}
        self._people: set[str] = set()
        self._past: dict[str, set[int]] = {}
        """By SID, each content that the world has had."""
        self._result = Result(name)
        self._striker = threading.Lock()
        self._ended = False

    def run(self, syncs: int) -> Result:
        """Return what came of so many syncs, and of the peaceful ones between them."""
        began = time.monotonic()
        with self._simulator.serve() as url:
            self._write_configuration(url)
            self._command("migrate")
            self._sync_in_peace()
            with suppress(KeyboardInterrupt):  # who stops it sees what came of it so far
                for number in range(1, syncs + 1):
                    self._sync_amid_accidents()
                    if number % PEACE_EVERY == 0 or number == syncs:
                        self._sync_in_peace()
                    _progress(f"{self._result.engine}: {number} of {syncs}")
        self._result.seconds = time.monotonic() - began
        return self._result

    def _sync_amid_accidents(self) -> None:
        self._change_world()
        before = self._warehouse.image()
        faults = self._choose_faults()
        accident = self._choose_accident()
        self._simulator.faults.clear()
        for fault in faults:
            self._simulator.faults.add(fault)
        self._sync(accident)
        self._result.faults += sum(fault.struck for fault in faults)
        self._simulator.faults.clear()
        honest = all(fault.name in HONEST for fault in faults)
        resumed = self._warehouse.resumed_services()
        self._judge(before, self._warehouse.image(), honest, resumed)
        if accident is None:
            self._add("leases left", self._warehouse.count_leases_of_newest_run())

    def _sync_in_peace(self) -> None:
        """Whatever happened before, a sync that nobody disturbs makes both equal and leaves nothing behind."""
        told, code = self._sync(None, "--fresh", "--allow-mass-delete")
        if code:
            sys.stderr.write(f"\npeaceful sync ended with {code}:\n{told}\n")
        self._add("odd exit codes", code != 0)
        world = self._expected()
        active = {sid: row.content for sid, row in self._warehouse.image().items() if row.active}
        different = [
            sid for sid in world.keys() | active.keys() if world.get(sid) != active.get(sid)
        ]
        self._add("unequal at peace", len(different))
        self._add("leases left", self._warehouse.count("sync_leases"))
        stages = ("scan_progress", "scan_seen", "scan_staged", "scan_absent")
        self._add("staging left", self._warehouse.count(*stages))

    def _judge(self, before: Image, after: Image, honest: bool, resumed: Collection[str]) -> None:
        """Each row is as it was or as the world had it; none that lives was deleted; a service changed as a whole.

        A scan that was gone on with publishes what it had read before, of the world as it was then.
        """
        world = self._expected()
        for service in self._services:
            mine = [sid for sid in service.sids() if sid in world]
            changed = [sid for sid in mine if before.get(sid) != Row(world[sid], active=True)]
            arrived = [sid for sid in changed if after.get(sid) == Row(world[sid], active=True)]
            half = honest and service.sid not in resumed and 0 < len(arrived) < len(changed)
            self._add("half publications", half)
        for sid, was in before.items():
            now = after.get(sid)
            if was.active and sid in world and (now is None or not now.active):
                self._add("wrong deletes", 1)
            elif now is None or (
                now.content != was.content and _key(now.content) not in self._past.get(sid, ())
            ):
                self._add("losses", 1)

    def _add(self, name: str, number: int) -> None:
        self._result.wrong[name] += number

    def _change_world(self) -> None:
        for service, size in zip(self._services, SIZES, strict=True):
            service.touch(self._rng.randint(0, size // 10))
            service.delete(self._rng.randint(0, size // 12))
            service.bring_back(self._rng.randint(0, size // 30))
            service.grow(self._rng.randint(0, max(0, size + size // 12 - len(service))))

    def _choose_faults(self) -> list[Fault]:
        kinds = self._rng.choice(((), HONEST, HONEST, LYING, HONEST + LYING))
        number = self._rng.randint(1, 3) if kinds else 0
        return [
            Fault(
                self._rng.choice(kinds),
                every=self._rng.choice((1, 3, 7)),
                times=self._rng.choice((1, 2, 8, None)),
                service=self._rng.choice((None, *(one.sid for one in self._services))),
                on=self._rng.choice(("bindings", "bindings", "bindings", "binding", "services")),
            )
            for _ in range(number)
        ]

    def _choose_accident(self) -> str | None:
        kinds = [None, None, "killed process"]
        if self._warehouse.crash is not None:
            kinds += ["cut connections", "crash of the database"]
        return self._rng.choice(kinds)

    def _sync(self, accident: str | None, *options: str) -> tuple[str, int]:
        """Return what a sync told, and its exit code."""
        self._wait_for_leases()
        process = self._start("sync", "--json", *options)
        with self._striking(process, accident), _watching_memory(process) as peaks_mb:
            out, err = _read(process)
        code = process.wait()
        self._result.syncs += 1
        self._result.exit_codes[code] += 1
        self._add("odd exit codes", code not in KNOWN_CODES)
        if code == 0 and accident is None:
            self._result.memory_mb.append(max(peaks_mb))
        told = out + err
        self._add("told secrets", self._count_told(told))
        with (self._folder / "log").open("a", encoding="utf-8") as log:
            log.write(f"--- {accident}, exit code {code}\n{told}\n")
        return told, code

    @contextmanager
    def _striking(self, process: subprocess.Popen[str], accident: str | None) -> Iterator[None]:
        """An accident strikes at some request, or a little later, if the process still runs then."""
        if accident is None:
            yield
            return
        left, delay = self._rng.randint(1, 40), self._rng.choice((0, 0, 0.05, 0.3))
        reached = threading.Event()

        def watch(_request: Request) -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                reached.set()

        def strike() -> None:
            while not reached.wait(0.05):
                if self._ended:
                    return
            time.sleep(delay)
            with self._striker:
                if not self._ended:
                    self._result.accidents[accident] += 1
                    self._befall(process, accident)

        self._ended = False
        self._interceptor.watch = watch
        thread = threading.Thread(target=strike)
        thread.start()
        yield
        with self._striker:  # an accident that has begun is waited for
            self._ended = True
        thread.join()
        self._interceptor.watch = None

    def _befall(self, process: subprocess.Popen[str], accident: str) -> None:
        if accident == "killed process":
            process.kill()
        elif accident == "cut connections":
            self._warehouse.cut_connections()
        elif self._warehouse.crash is not None:
            self._warehouse.crash()

    def _wait_for_leases(self) -> None:
        """The lease of a killed process frees itself; a sync before that would do nothing."""
        limit = time.monotonic() + LEASE_SECONDS + 1
        while time.monotonic() < limit and self._warehouse.count("sync_leases"):
            time.sleep(0.2)

    def _expected(self) -> dict[str, Mapping[str, Any]]:
        world: dict[str, Mapping[str, Any]] = {
            sid: expected_row(binding)
            for service in self._services
            for sid, binding in service.bindings.items()
        }
        for sid, row in world.items():
            self._people |= {row[name] for name in ("identity", "endpoint") if row[name]}
            self._past.setdefault(sid, set()).add(_key(row))
        return world

    def _count_told(self, told: str) -> int:
        return sum(one in told for one in self._secrets | self._people)

    def _write_configuration(self, url: str) -> None:
        account = {
            "name": "main",
            "account_sid": self._world.account_sid,
            "api_key": self._world.api_key,
            "api_secret": self._world.api_secret,
            "base_url": url,
            "concurrency": 3,
        }
        settings = {
            "accounts": [account],
            "warehouse": {"url": self._warehouse.url},
            "retry": {
                "attempts": 4,
                "timeout_seconds": 5,
                "max_wait_seconds": 0.2,
                "max_total_seconds": 30,
            },
            # Of a sample a few living ones may not be part, where the listing hides them: here each is asked for.
            "deletes": {"confirm_limit": 10_000},
            "run": {"lease_seconds": LEASE_SECONDS},
        }
        (self._folder / "config.yaml").write_text(yaml.safe_dump(settings))

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "etl", *arguments, "--config", self._folder / "config.yaml"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _command(self, *arguments: str) -> None:
        process = self._start(*arguments)
        out, err = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{arguments} ended with {process.returncode}:\n{out}{err}")


def _key(content: Mapping[str, Any]) -> int:
    """Return a number that tells contents apart."""
    return hash(json.dumps(content, sort_keys=True, default=str))


def _read(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Return what a process writes until it ends."""
    assert process.stdout is not None
    assert process.stderr is not None
    with ThreadPoolExecutor(1) as pool:
        err = pool.submit(process.stderr.read)
        return process.stdout.read(), err.result()


@contextmanager
def _watching_memory(process: subprocess.Popen[str]) -> Iterator[list[float]]:
    """Give the peak memory of a process in MB, looked at until it ends.

    What the system tells of an ended process counts in what its parent had when it started it.
    """
    peaks_mb, over = [0.0], threading.Event()
    status = Path(f"/proc/{process.pid}/status")

    def look() -> None:
        while not over.wait(0.02):
            with suppress(OSError):
                found = re.search(r"VmHWM:\s+(\d+)", status.read_text())
                peaks_mb.append(int(found[1]) / 1024 if found else 0.0)

    thread = threading.Thread(target=look)
    thread.start()
    yield peaks_mb
    over.set()
    thread.join()


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text}\x1b[K")
        sys.stderr.flush()


@contextmanager
def opened(engine: str, folder: Path) -> Iterator[Warehouse]:
    """An empty database of an engine, on a server of its own that ends with us."""
    if engine == "sqlite":
        yield Warehouse(f"sqlite:///{folder / 'bindings.db'}", None)
        return
    home = make_run_folder()
    with join_run(home):
        start_reaper(home)
        if engine == "mariadb":
            mariadb = MariaDBServer(home / "server")
            mariadb.start()
            yield Warehouse(mariadb.create_database(), mariadb.restart)
            mariadb.stop()
            return
        postgres = PostgresServer(18, home / "server")
        postgres.start()
        url = sa.make_url(postgres.create_database()).set(password=PASSWORD)
        plain_url = url.render_as_string(hide_password=False)
        yield Warehouse(plain_url, lambda: postgres.restart("immediate"))
        postgres.stop()


def main() -> int:
    """Print what came of it; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--syncs", type=int, default=200, help="on each engine (default: 200)")
    parser.add_argument("--engines", default=",".join(ENGINES), help=f"of {','.join(ENGINES)}")
    parser.add_argument("--seed", type=int, default=1, help="another one, other accidents")
    chosen = parser.parse_args()
    wrong = 0
    for engine in chosen.engines.split(","):
        folder = Path(tempfile.mkdtemp(prefix=f"bindings-etl-soak-{engine}-"))
        with opened(engine, folder) as warehouse:
            result = Soak(engine, warehouse, folder, chosen.seed).run(chosen.syncs)
        print(f"{result.describe()}\n  log                   {folder / 'log'}\n", flush=True)
        wrong += result.wrong.total()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
