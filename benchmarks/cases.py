"""What is measured: worlds, who takes part, and which runs follow each other in one database."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.world import CHANGED, EXPIRED, World

FIRST, REPEAT, CHANGED_RUN = "first load", "repeat, no change", "repeat, 1 % changed"
GROWN = "repeat, grown"
EXPIRED_RUN = "repeat, links expired"
VARIANTS = {CHANGED_RUN: CHANGED, EXPIRED_RUN: EXPIRED}
"""What is served in a phase, where it is not the base."""
COMMANDS = {
    "status": ("status", "--json"),
    "report": ("report", "--out", "report.html"),
    "purge": ("purge", "--deleted-before", "30d", "--dry-run"),
    "erase": ("erase", "--identity", "user-0000002@example.com"),
}
"""What is asked of a small warehouse and of a grown one."""
GROWN_COMMANDS = {f"{name}, grown": arguments for name, arguments in COMMANDS.items()} | {
    "erase, grown": ("erase", "--identity", "user-0000003@example.com")
}
EVERYONE = ("floor-fetch", "floor-load", "ours", "sdk", "dlt", "singer")


@dataclass(frozen=True)
class Case:
    """One world, read by some contestants in a row of phases."""

    name: str
    title: str
    world: World
    contestants: tuple[str, ...]
    phases: tuple[str, ...]
    store: str = "postgres"
    concurrency: int = 4
    chains: int = 1
    most_rounds: int = 99


CASES = {
    case.name: case
    for case in (
        Case("page-100", "100 rows a page", World(), EVERYONE, (FIRST, REPEAT, CHANGED_RUN)),
        Case(
            "page-1000",
            "1000 rows a page",
            World(page_size=1000),
            EVERYONE,
            (FIRST, REPEAT, CHANGED_RUN),
        ),
        Case("grow-10k", "10 k rows", World(rows_per_service=2_500), ("ours",), (FIRST, REPEAT)),
        Case("grow-100k", "100 k rows", World(), ("ours",), (FIRST, REPEAT)),
        Case(
            "grow-1m",
            "1 M rows",
            World(rows_per_service=250_000),
            ("floor-fetch", "ours"),
            (FIRST, REPEAT),
        ),
        Case(
            "empty",
            "one service of one page",
            World(services=1, rows_per_service=100),
            ("ours",),
            (FIRST, REPEAT),
            store="sqlite",
        ),
        Case(
            "latency",
            "150 ms a page, 8 services of 50 pages",
            World(services=8, rows_per_service=5_000, latency_ms=150),
            ("floor-fetch", "ours"),
            (FIRST, REPEAT),
            concurrency=8,
        ),
        Case(
            "chains",
            "150 ms a page, one service of 400 pages, 8 chains",
            World(services=1, rows_per_service=40_000, latency_ms=150),
            ("ours",),
            (FIRST, REPEAT, EXPIRED_RUN),
            concurrency=8,
            chains=8,
            most_rounds=2,
        ),
        Case(
            "many-small",
            "1,000 services of 10 rows",
            World(services=1_000, rows_per_service=10),
            ("floor-fetch", "ours"),
            (FIRST, REPEAT),
        ),
        Case(
            "sqlite",
            "into SQLite",
            World(),
            ("ours",),
            (FIRST, REPEAT, CHANGED_RUN),
            store="sqlite",
        ),
        Case(
            "mariadb",
            "into MariaDB",
            World(),
            ("floor-fetch", "ours", "sdk"),
            (FIRST, REPEAT, CHANGED_RUN),
            store="mariadb",
        ),
        Case(
            "duckdb",
            "into DuckDB",
            World(),
            ("ours",),
            (FIRST, REPEAT, CHANGED_RUN),
            store="duckdb",
        ),
        Case(
            "ducklake",
            "into a DuckLake, catalog in a file",
            World(),
            ("ours",),
            (FIRST, REPEAT, CHANGED_RUN),
            store="ducklake",
        ),
        Case(
            "ducklake-postgres",
            "into a DuckLake, catalog in PostgreSQL",
            World(),
            ("ours",),
            (FIRST, REPEAT, CHANGED_RUN),
            store="ducklake-postgres",
        ),
        Case(
            "grown",
            "a service of 50 k among 1 M bindings, 5 M past images, 1 M scans",
            World(services=1, rows_per_service=50_000),
            ("ours",),
            (FIRST, REPEAT, *COMMANDS, GROWN, *GROWN_COMMANDS),
            most_rounds=1,
        ),
    )
}


def shrink(case: Case) -> Case:
    """A tenth of the rows: for a look at whether everything works, not for figures."""
    return replace(
        case, world=replace(case.world, rows_per_service=case.world.rows_per_service // 10)
    )
