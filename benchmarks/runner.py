"""Runs the cases: rounds in turn, contestants interleaved, every result checked."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import CHANGED_RUN, COMMANDS, GROWN, GROWN_COMMANDS, VARIANTS, Case
from benchmarks.contestants import CONTESTANTS, Contestant, Job, ask_ours
from benchmarks.grown import grow
from benchmarks.postgres import PostgresServer
from benchmarks.process import Usage, run
from benchmarks.samples import Sample
from benchmarks.serving import PageServer, start_pages
from benchmarks.stores import Marks, Store, open_store
from benchmarks.world import BASE


@dataclass(frozen=True)
class Entry:
    """A contestant with its database and folder of this round."""

    contestant: Contestant
    store: Store
    job: Job
    problem: str | None  # why it cannot run


@dataclass(frozen=True)
class Moment:
    """Which run this is."""

    case: Case
    phase: str
    round: int


@dataclass(frozen=True)
class Bench:
    """What all cases share."""

    postgres: PostgresServer
    work: Path
    rounds: int
    tell: Callable[[str], None]

    def measure(self, case: Case, names: Sequence[str]) -> Iterator[Sample]:
        """All rounds of a case."""
        variants = (BASE, *(VARIANTS[phase] for phase in case.phases if phase in VARIANTS))
        with start_pages(case.world, variants) as server:
            for number in range(1, min(self.rounds, case.most_rounds) + 1):
                yield from self._measure_round(case, names, server, number)

    def _measure_round(
        self, case: Case, names: Sequence[str], server: PageServer, number: int
    ) -> Iterator[Sample]:
        turn = (number - 1) % len(names)
        with ExitStack() as stack:
            entries = [
                self._enter(stack, case, name, server) for name in (*names[turn:], *names[:turn])
            ]
            for phase in case.phases:
                server.switch(VARIANTS.get(phase, BASE))
                if phase == GROWN:
                    self.tell(f"{case.name}: growing the warehouse takes minutes")
                    for entry in entries:
                        grow(entry.store.url, 50_000 // case.world.rows_per_service)
                for entry in entries:
                    sample = self._measure_one(Moment(case, phase, number), entry)
                    self.tell(describe(sample))
                    yield sample

    def _enter(self, stack: ExitStack, case: Case, name: str, server: PageServer) -> Entry:
        folder = Path(tempfile.mkdtemp(prefix=f"{case.name}-{name}-", dir=self.work))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        store = stack.enter_context(open_store(case.store, self.postgres, folder))
        world = case.world
        job = Job(
            server.base_url,
            world.service_sids,
            world.page_size,
            case.concurrency,
            case.chains,
            store.url,
            folder,
        )
        contestant = CONTESTANTS[name]
        try:
            contestant.setup(job)
        except OSError as error:
            return Entry(contestant, store, job, str(error))
        return Entry(contestant, store, job, None)

    def _measure_one(self, moment: Moment, entry: Entry) -> Sample:
        if entry.problem:
            return make_sample(moment, entry, Usage(), Marks(), entry.problem)
        entry.store.settle()
        before = entry.store.mark()
        log = self.work / "logs" / f"{moment.case.name}-{entry.contestant.name}.log"
        asked = (COMMANDS | GROWN_COMMANDS).get(moment.phase)
        commands = ask_ours(entry.job, asked) if asked else entry.contestant.commands(entry.job)
        usage = run(commands, log)
        change = entry.store.mark().since(before)
        return make_sample(moment, entry, usage, change, find_problem(moment, entry, usage))


def make_sample(
    moment: Moment, entry: Entry, usage: Usage, change: Marks, problem: str | None
) -> Sample:
    return Sample(
        case=moment.case.name,
        phase=moment.phase,
        round=moment.round,
        contestant=entry.contestant.name,
        rows=moment.case.world.rows,
        wall=usage.wall,
        user=usage.user,
        system=usage.system,
        peak_bytes=usage.peak_bytes,
        wal_bytes=change.wal,
        written=change.written,
        problem=problem,
    )


def find_problem(moment: Moment, entry: Entry, usage: Usage) -> str | None:
    """None when the run ended well and the right rows are there."""
    if usage.exit_code:
        return f"exit code {usage.exit_code}"
    if moment.phase in (GROWN, *COMMANDS, *GROWN_COMMANDS):
        return None
    world, table = moment.case.world, entry.contestant.table
    if table is None:
        right = usage.output.strip() == str(world.rows)
        return None if right else f"read {usage.output.strip()!r}, not {world.rows} rows"
    try:
        tally = entry.store.tally(table)
    except Exception as error:  # noqa: BLE001 - whatever a driver raises: the table is not as it should be
        return f"{table} cannot be counted: {error}".splitlines()[0]
    expected = (world.rows, world.rows, world.changed_rows if moment.phase == CHANGED_RUN else 0)
    found = (tally.rows, tally.distinct, tally.changed)
    return None if found == expected else f"rows, distinct, changed are {found}, not {expected}"


def describe(sample: Sample) -> str:
    line = (
        f"{sample.case:10} round {sample.round} {sample.phase:20} {sample.contestant:12} "
        f"{sample.wall:7.2f} s {sample.rate:9,.0f} rows/s {sample.cpu:7.2f} CPU s "
        f"{sample.peak_bytes / 1e6:5.0f} MB {sample.rows_written:9,} written"
    )
    return f"{line}  WRONG: {sample.problem}" if sample.problem else line
