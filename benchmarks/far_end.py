"""A model of runs too large to try: `python -m benchmarks.far_end` (docs/scaling.md).

Discrete events: each chain asks for a page, waits for the network, waits for its process's CPU,
and asks for the next. A service ends with its transactions at the warehouse. Accounts are spread
over processes as `--shard` with `--run-group` spreads them, by the program's own code.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from etl.domain.shard import Shard, Spread

ROWS_A_PAGE = 100
_ROWS_WORTH_A_CHAIN = 2_000
LATENCY = 0.150
"""Seconds from asking for a page to having it."""
TITLE = "300 accounts, 100,000 services, 100 million rows, 150 ms a page: what the model says"
PICTURE = Path(__file__).parents[1] / "docs" / "scaling.svg"


@dataclass(frozen=True)
class Costs:
    """Seconds, as measured by the cases `page-100` and `many-small` on one core."""

    start: float = 0.45
    page: float = 0.000_6
    """CPU for a page of a repeat."""
    service: float = 0.0044
    """CPU for what a service costs besides its pages."""
    transaction: float = 0.000_7
    """The warehouse's own, on one of its cores."""
    transactions: int = 3
    """A service's, besides one for each further batch."""
    rows_a_batch: int = 2_500
    warehouse_cores: int = 8


@dataclass(frozen=True)
class Account:
    """One account, with the rows of each of its services."""

    name: str
    services: Sequence[int]
    concurrency: int
    chains: int = 1
    """Chains that read one listing side by side."""


@dataclass
class Figures:
    """What came of a run."""

    seconds: float = 0.0
    requests: int = 0
    transactions: int = 0
    most_in_flight: int = 0
    waited: float = 0.0
    """Seconds that requests were in flight, all together."""

    @property
    def in_flight(self) -> float:
        """Requests in flight on average."""
        return self.waited / self.seconds

    @property
    def transactions_a_second(self) -> float:
        """How many transactions the warehouse sees a second, on average."""
        return self.transactions / self.seconds


@dataclass
class _Server:
    """Serves one after the other, by as many hands as it has."""

    hands: int = 1
    _free_at: list[float] = field(default_factory=list)

    def serve(self, now: float, seconds: float) -> float:
        """Return when work that comes now is done."""
        if len(self._free_at) < self.hands:
            self._free_at.append(0.0)
            self._free_at.sort()
        done = max(now, self._free_at[0]) + seconds
        heapq.heapreplace(self._free_at, done)
        return done


class Model:
    """One run of all accounts by some processes."""

    def __init__(self, costs: Costs, latency: float, processes: int) -> None:
        self._costs = costs
        self._latency = latency
        self._processes = [_Server() for _ in range(processes)]
        self._warehouse = _Server(costs.warehouse_cores)
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._in_flight = 0
        self.figures = Figures()

    def run(self, accounts: Sequence[Account]) -> Figures:
        """Return the figures of a run over these accounts."""
        for account in accounts:
            self._plan(account)
        while self._events:
            now, _, act = heapq.heappop(self._events)
            self.figures.seconds = now
            act(now)
        return self.figures

    def _plan(self, account: Account) -> None:
        count = len(self._processes)
        spread = Spread(account.name, account.concurrency, account.concurrency)
        sizes = {f"{number}": rows for number, rows in enumerate(account.services)}
        places = spread.assign(count, {sid: 1 + rows // ROWS_A_PAGE for sid, rows in sizes.items()})
        for index in range(count):
            shard = Shard(index, count)
            if share := spread.share(shard):
                mine = [rows for sid, rows in sizes.items() if spread.takes(shard, sid, places)]
                longest_first = iter(sorted(_cut(mine, account.chains), reverse=True))
                for _ in range(min(share, len(mine) * account.chains)):
                    self._at(self._costs.start, self._next_service(index, longest_first))

    def _next_service(self, process: int, services: Iterator[int]) -> Callable[[float], None]:
        def begin(now: float) -> None:
            if (rows := next(services, None)) is not None:
                self._ask(now, process, rows, rows, services)

        return begin

    def _ask(self, now: float, process: int, left: int, rows: int, services: Iterator[int]) -> None:
        self._in_flight += 1
        self.figures.requests += 1
        self.figures.waited += self._latency
        self.figures.most_in_flight = max(self.figures.most_in_flight, self._in_flight)

        def answered(now: float) -> None:
            self._in_flight -= 1
            done = self._processes[process].serve(now, self._costs.page)
            rest = left - ROWS_A_PAGE
            if rest > 0:
                self._at(done, lambda now: self._ask(now, process, rest, rows, services))
            else:
                self._publish(done, process, rows, services)

        self._at(now + self._latency, answered)

    def _publish(self, now: float, process: int, rows: int, services: Iterator[int]) -> None:
        costs = self._costs
        number = costs.transactions + rows // costs.rows_a_batch
        self.figures.transactions += number
        worked = self._processes[process].serve(now, costs.service)
        done = self._warehouse.serve(worked, number * costs.transaction)
        self._at(done, self._next_service(process, services))

    def _at(self, when: float, act: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), act))


def _cut(services: Sequence[int], chains: int) -> Iterator[int]:
    """Yield what each chain reads; each counts as a service of its own, which costs a bit more."""
    for rows in services:
        parts = min(chains, max(1, rows // _ROWS_WORTH_A_CHAIN))
        yield from [rows // parts] * parts


def make_accounts(
    concurrency: int,
    chains: int = 1,
    accounts: int = 300,
    services: int = 100_000,
    rows: int = 100_000_000,
    seed: int = 1,
) -> list[Account]:
    """Return accounts of very different sizes, with services of very different sizes."""
    drawn = random.Random(seed)
    shares = [drawn.paretovariate(1.2) for _ in range(accounts)]
    numbers = [max(1, round(services * share / sum(shares))) for share in shares]
    sizes = [[min(drawn.paretovariate(1.1), 20_000) for _ in range(many)] for many in numbers]
    scale = rows / sum(map(sum, sizes))
    return [
        Account(f"account {index}", [round(size * scale) for size in some], concurrency, chains)
        for index, some in enumerate(sizes)
    ]


class Result(NamedTuple):
    """A run of the model."""

    concurrency: int
    chains: int
    processes: int
    figures: Figures

    @property
    def what(self) -> str:
        """Return what was run."""
        return f"concurrency {self.concurrency}, chains {self.chains}, processes {self.processes}"

    def __str__(self) -> str:
        """Return what came of it, in words."""
        figures = self.figures
        return (
            f"{figures.seconds / 60:,.0f} min, {figures.in_flight:,.0f} requests in flight "
            f"(most {figures.most_in_flight:,}), {figures.transactions_a_second:,.0f} transactions/s"
        )


def draw(results: Sequence[Result]) -> str:
    """Return the picture of the runs, as SVG."""
    longest = max(result.figures.seconds for result in results)
    height = 50 + 34 * len(results)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 {height}" font-size="13">',
        "<style>text {font-family: sans-serif}</style>",
        f'<rect width="900" height="{height}" fill="#fff"/>',
        f'<text x="16" y="26" font-weight="bold">{TITLE}</text>',
    ]
    for index, result in enumerate(results):
        top, width = 44 + 34 * index, 210 * result.figures.seconds / longest
        lines += [
            f'<text x="16" y="{top + 17}">{result.what}</text>',
            f'<rect x="270" y="{top}" width="{width:.1f}" height="24" fill="#2a6f97"/>',
            f'<text x="{278 + width:.1f}" y="{top + 17}">{result}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    """Print the figures, and the model's answer to a run that was tried."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.far_end", description=__doc__)
    arguments.add_argument("--publish", action="store_true", help=f"write {PICTURE.name}")
    publish = arguments.parse_args().publish
    small = Model(Costs(), LATENCY, 1).run([Account("one", [5_000] * 8, 8)])
    print(f"8 services of 50 pages, 150 ms, concurrency 8: {small.seconds:.2f} s (see `latency`)")
    results = []
    for concurrency, chains in ((4, 1), (25, 1), (25, 16)):
        accounts = make_accounts(concurrency, chains)
        for processes in (1, 8, 64):
            figures = Model(Costs(), LATENCY, processes).run(accounts)
            results.append(Result(concurrency, chains, processes, figures))
            print(f"{results[-1].what}: {results[-1]}")
    if publish:
        PICTURE.write_text(draw(results), encoding="utf-8")


if __name__ == "__main__":
    main()
