"""A Galera cluster beside a single MariaDB: `python -m benchmarks.galera` (docs/engines/galera.md).

Everything is on this machine, data in memory: three nodes do three times the work on its cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving import start_pages
from benchmarks.world import ACCOUNT_SID, BASE, CHANGED, World
from etl import config
from etl.domain.scope import Scope
from etl.stopping import Stop
from etl.warehouse import leases
from etl.warehouse.connection import open_warehouse
from etl.warehouse.leases import Holder
from tests.servers.folder import join_run, make_run_folder, start_reaper
from tests.servers.galera import GaleraCluster
from tests.servers.mariadb import MariaDBServer
from tests.servers.reaper import sweep
from tests.servers.templates import migrate

SCOPE = Scope("main", "IS" + "0" * 32)
RENEWALS = 500


@dataclass(frozen=True)
class Place:
    """A way to a warehouse; each process has a URL of its own."""

    title: str
    make: Callable[[], Sequence[str]]


def seconds_a_renewal(url: str) -> float:
    """Median of small transactions as a run has many: three statements and a commit."""
    holder, taken = Holder("bench", 1, "host", 120), []
    settings = config.Warehouse.model_validate({"url": url})
    with closing(open_warehouse(settings, config.Retry(), Stop())) as warehouse:
        engine = warehouse.engine
        warehouse.transact(lambda conn: leases.acquire(conn, engine, holder, SCOPE))
        for _ in range(RENEWALS):
            began = time.perf_counter()
            warehouse.transact(lambda conn: leases.renew(conn, engine, holder, SCOPE))
            taken.append(time.perf_counter() - began)
        warehouse.transact(lambda conn: leases.release(conn, holder, SCOPE))
    return statistics.median(taken)


def seconds_of_sync(folder: Path, base_url: str, urls: Sequence[str]) -> float:
    """Of one process for each URL, each a shard, until the last one ends."""
    began = time.perf_counter()
    processes = []
    for shard, url in enumerate(urls):
        file = folder / f"shard-{shard}.yaml"
        account = {"name": "main", "account_sid": ACCOUNT_SID, "base_url": base_url}
        account |= {"api_key": "SK" + "0" * 32, "api_secret": "s", "services": "all"}
        file.write_text(json.dumps({"accounts": [account], "warehouse": {"url": url}}))
        command = [sys.executable, "-m", "etl", "sync", "--config", str(file)]
        command += ["--shard", f"{shard}/{len(urls)}"] if len(urls) > 1 else []
        processes.append(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        )
    for process in processes:
        _, told = process.communicate()
        if process.returncode:
            raise SystemExit(told.decode())
    return time.perf_counter() - began


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=100_000)
    arguments.add_argument("--rounds", type=int, default=3)
    asked = arguments.parse_args()
    world = World(rows_per_service=asked.rows // World.services)
    folder = make_run_folder()
    with join_run(folder):
        try:
            start_reaper(folder)
            compare(world, folder, asked.rounds)
        finally:
            sweep(folder)


def compare(world: World, folder: Path, rounds: int) -> None:
    """Print the median of each figure."""
    single, cluster = MariaDBServer(folder / "single"), GaleraCluster(folder / "galera")
    single.start()
    cluster.start()

    def through(*nodes: int) -> Sequence[str]:
        url = cluster.create_database()
        return [cluster.through(url, node) for node in nodes]

    places = [
        Place("one server", lambda: [single.create_database()]),
        Place("one node of three", lambda: through(0)),
        Place("two shards, a node each", lambda: through(0, 1)),
    ]
    figures: dict[str, list[tuple[float, ...]]] = {place.title: [] for place in places}
    with start_pages(world, (BASE, CHANGED)) as pages:
        for _ in range(rounds):
            for place in places:
                urls = place.make()
                migrate(urls[0])
                pages.switch(BASE)
                taken = [seconds_of_sync(folder, pages.base_url, urls) for _ in range(2)]
                pages.switch(CHANGED)
                taken.append(seconds_of_sync(folder, pages.base_url, urls))
                figures[place.title].append((*taken, seconds_a_renewal(urls[0])))
    print(f"{world.rows:,} rows, median of {rounds}: first load, repeat, 1 % changed; a renewal")
    for title, lines in figures.items():
        first, repeat, changed, renewal = map(statistics.median, zip(*lines, strict=True))
        print(f"{title:25}{first:7.2f} s{repeat:7.2f} s{changed:7.2f} s{renewal * 1000:8.2f} ms")


if __name__ == "__main__":
    main()
