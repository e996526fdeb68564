"""What this project has set itself, and whether the figures reach it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.cases import CASES, CHANGED_RUN, EXPIRED_RUN, FIRST, GROWN, REPEAT
from benchmarks.samples import Samples

MAIN = "page-100"
LATENCY = CASES["latency"]
CHAINS = CASES["chains"]


@dataclass(frozen=True)
class Target:
    """One line: a goal and what was measured; None where it was not."""

    title: str
    goal: float
    at_least: bool
    unit: str
    value: float | None

    @property
    def reached(self) -> bool | None:
        if self.value is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    @property
    def verdict(self) -> str:
        return {None: "not measured", True: "reached", False: "NOT reached"}[self.reached]

    def goal_text(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.goal:g}{self.unit}"

    def value_text(self) -> str:
        return "-" if self.value is None else f"{self.value:.2f}{self.unit}"


def judge(samples: Samples, startup: Sequence[float]) -> list[Target]:
    return [
        *_judge_speed(samples),
        *_judge_latency(samples),
        *_judge_chains(samples),
        *_judge_memory(samples),
        *_judge_growth(samples),
        *_judge_grown(samples),
        *_judge_engines(samples),
        Target(
            "a `sync` that finds nothing to do (one page, SQLite), CPU",
            0.3,
            False,
            " s",
            samples.median("empty", REPEAT, "ours", lambda s: s.cpu),
        ),
        Target(
            "`bindings-etl --version`, CPU", 0.25, False, " s", median(startup) if startup else None
        ),
    ]


def _judge_speed(samples: Samples) -> list[Target]:
    def against(phase: str, other: str) -> float | None:
        return samples.ratio((MAIN, phase, "ours"), (MAIN, phase, other))

    one_percent = samples.ratio((MAIN, CHANGED_RUN, "ours"), (MAIN, REPEAT, "ours"))
    return [
        Target(
            "first load of 100 k rows, rows/s against the load floor",
            0.85,
            True,
            " x",
            against(FIRST, "floor-load"),
        ),
        Target(
            "the same by pages of 1,000",
            0.75,
            True,
            " x",
            samples.ratio(("page-1000", FIRST, "ours"), ("page-1000", FIRST, "floor-load")),
        ),
        Target("first load, against dlt", 5, True, " x", against(FIRST, "dlt")),
        Target(
            "first load, against twilio SDK + SQLAlchemy", 3.3, True, " x", against(FIRST, "sdk")
        ),
        Target("first load, WAL against the load floor", 1.1, False, " x", _judge_wal(samples)),
        Target(
            "repeat without change, against the fetch floor",
            0.88,
            True,
            " x",
            against(REPEAT, "floor-fetch"),
        ),
        Target(
            "the same with 1 M rows",
            0.95,
            True,
            " x",
            samples.ratio(("grow-1m", REPEAT, "ours"), ("grow-1m", REPEAT, "floor-fetch")),
        ),
        Target("repeat without change, against dlt", 9, True, " x", against(REPEAT, "dlt")),
        Target(
            "repeat without change, against twilio SDK + SQLAlchemy",
            5.5,
            True,
            " x",
            against(REPEAT, "sdk"),
        ),
        Target(
            "repeat with 1 % changed, against repeat without change", 0.85, True, " x", one_percent
        ),
    ]


def _judge_wal(samples: Samples) -> float | None:
    ours, floor = (
        samples.median(MAIN, FIRST, name, lambda s: s.wal_bytes) for name in ("ours", "floor-load")
    )
    return ours / floor if ours and floor else None


def _judge_engines(samples: Samples) -> list[Target]:
    def against(engine: str, other: str, phase: str) -> float | None:
        return samples.ratio((engine, phase, "ours"), (other, phase, "ours"))

    peak = max(
        (sample.peak_bytes / 1e6 for sample in samples.all if sample.case == "duckdb"), default=None
    )
    return [
        Target(
            "MariaDB, first load against PostgreSQL's",
            0.6,
            True,
            " x",
            against("mariadb", MAIN, FIRST),
        ),
        Target(
            "DuckDB, first load against SQLite's", 1, True, " x", against("duckdb", "sqlite", FIRST)
        ),
        Target(
            "DuckDB, repeat against SQLite's", 0.9, True, " x", against("duckdb", "sqlite", REPEAT)
        ),
        Target("DuckDB, peak memory at 100 k rows", 250, False, " MB", peak),
    ]


def _judge_latency(samples: Samples) -> list[Target]:
    world = LATENCY.world
    per_row = world.latency_ms / 1000 / world.page_size / world.services
    overhead = samples.median(
        LATENCY.name, FIRST, "ours", lambda sample: sample.wall / (sample.rows * per_row)
    )
    title = f"{LATENCY.title}: time against nothing but waiting ({world.rows * per_row:g} s)"
    return [Target(title, 1.08, False, " x", overhead)]


def _judge_chains(samples: Samples) -> list[Target]:
    world = CHAINS.world
    per_row = world.latency_ms / 1000 / world.page_size

    def overhead(phase: str, chains: int) -> float | None:
        return samples.median(
            CHAINS.name,
            phase,
            "ours",
            lambda sample: sample.wall / (sample.rows * per_row / chains),
        )

    waiting = world.rows * per_row
    return [
        Target(
            f"{CHAINS.title}: time against nothing but waiting ({waiting / CHAINS.chains:g} s)",
            1.25,
            False,
            " x",
            overhead(REPEAT, CHAINS.chains),
        ),
        Target(
            f"the same with links that expired, against one chain's waiting ({waiting:g} s)",
            1.1,
            False,
            " x",
            overhead(EXPIRED_RUN, 1),
        ),
    ]


def _judge_memory(samples: Samples) -> list[Target]:
    def peak(case: str) -> float | None:
        phases = (
            samples.median(case, phase, "ours", lambda s: s.peak_bytes / 1e6)
            for phase in (FIRST, REPEAT)
        )
        return max((found for found in phases if found), default=None)

    small, large = peak(MAIN) or peak("grow-100k"), peak("grow-1m")
    return [
        Target("peak memory at 100 k rows", 120, False, " MB", small),
        Target(
            "peak memory at 1 M rows, against 100 k",
            1.05,
            False,
            " x",
            large / small if large and small else None,
        ),
    ]


def _judge_growth(samples: Samples) -> list[Target]:
    return [
        Target(
            f"{phase}: rows/s at 1 M rows against 100 k",
            0.85,
            True,
            " x",
            samples.ratio(("grow-1m", phase, "ours"), ("grow-100k", phase, "ours")),
        )
        for phase in (FIRST, REPEAT)
    ]


# Seconds that a command may take longer in a grown warehouse than in a small one.
_LONGER = {"status": 0.2, "report": 5, "purge": 3, "erase": 0.5}


def _judge_grown(samples: Samples) -> list[Target]:
    def longer(command: str) -> float | None:
        phases = (f"{command}, grown", command)
        grown, small = (samples.median("grown", one, "ours", lambda s: s.wall) for one in phases)
        return None if grown is None or small is None else grown - small

    return [
        Target(
            "repeat of 50 k rows among 1 M, against the same in a warehouse of its own",
            0.85,
            True,
            " x",
            samples.ratio(("grown", GROWN, "ours"), ("grown", REPEAT, "ours")),
        ),
        *(
            Target(
                f"`{name}` in a grown warehouse, longer than in a small one by",
                goal,
                False,
                " s",
                longer(name),
            )
            for name, goal in _LONGER.items()
        ),
    ]
