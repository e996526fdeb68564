"""One listing read by several chains of pages side by side (docs/chains.md).

    first page ─► … ─► meets the second chain
                       remembered link ─► … ─► meets the third
                                               remembered link ─► … ─► the end of the listing

Each chain has a thread, which hands on what it reads in batches. The thread that takes them decides
what counts: a chain that is linked, page by page and meeting by meeting, with the first page.
"""

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Self

import structlog
from msgspec.structs import replace

from etl import errors
from etl.domain.chains import MOST_LINKS, ChainStart, Cut, PageLink, spread
from etl.domain.counters import sum_up
from etl.sync.chain import Chain, Pile
from etl.sync.outcome import sentence
from etl.sync.prefetch import Batch
from etl.sync.sink import Sink
from etl.sync.source import Source
from etl.sync.steps import Kept, Opened, Reading
from etl.telemetry.tracing import Trace
from etl.twilio.paging import FetchedPage

log = structlog.get_logger()

_LOOK_FOR_STOP_SECONDS = 0.25


class ChainBroken(errors.PageTokenRefused):
    """A chain that began at a remembered link does not get to its end."""


class Linked(NamedTuple):
    """What these chains have read, and read from now on, counts."""

    chains: Sequence[int]
    """In the order of the listing."""
    start: ChainStart
    """Where the last of them began."""


class Dropped(NamedTuple):
    """What this chain has read does not count."""

    chain: int


class _Ended(NamedTuple):
    chain: Chain
    error: Exception | None


def read_side_by_side(
    opened: Opened, cut: Cut, source: Source, sink: Sink, trace: Trace
) -> Reading:
    """Read a listing to its end into `sink`, from where it was opened and where it is cut.

    Raises:
        PageTokenRefused: one of the links is no longer good; one chain has to read it all.
        SourceError: it cannot be read to its end.
        WarehouseError: a batch cannot be kept.
        Interrupted: the run is to stop.
    """
    kept: defaultdict[int, Kept] = defaultdict(Kept)
    with SideBySide(source, trace, cut, opened) as chains:
        for event in chains.events():
            if isinstance(event, Linked):
                sink.link(*event)
            elif isinstance(event, Dropped):
                sink.drop(event.chain)
            else:
                with trace.child("batch", pages=event.pages, rows=len(event.rows)):
                    kept[event.chain] = kept[event.chain].merged(sink.keep(event))
    found = Kept()
    for chain in chains.linked:
        found = found.merged(kept[chain])
    source.counters.rejected += found.rejections.rejected
    complete = chains.is_complete
    return Reading(complete, opened.resumed, *found, links=chains.links() if complete else None)


class SideBySide:
    """Reads one listing by several chains; it is entered, then its events are taken."""

    def __init__(self, source: Source, trace: Trace, cut: Cut, opened: Opened) -> None:
        """Chains begin where they were opened, and where it is cut."""
        self._source = source
        self._trace = trace
        self._cut = cut
        self._counted_before = replace(source.counters)
        first = Chain(0, opened.link, opened.rows_before, opened.rows_read)
        resumed = [Chain.resume(one) for one in opened.apart]
        taken = {one.number for one in resumed}
        self._numbers = (one for one in range(1, MOST_LINKS + 1) if one not in taken)
        begun = [Chain(next(self._numbers), one.link, one.rows_before) for one in cut.starts]
        self._chains = [first, *resumed, *begun]
        self._side_by_side = max(len(self._chains), source.most_chains if resumed else 1)
        self._linked = [first]
        self._ended: set[Chain] = set()
        self._is_resumed = opened.resumed
        self._lost_the_end = False
        self._dropped: list[str] = []
        self._abandoned = False
        self._log = log.bind(**source.scope.named)
        self._events: queue.Queue[Batch | _Ended] = queue.Queue(max(1, self._side_by_side // 2))

    def __enter__(self) -> Self:
        for chain in self._chains:
            self._start(chain)
        for _ in range(self._side_by_side - len(self._chains)):
            self._fill_free_place()
        return self

    def __exit__(self, *_: object) -> None:
        self._abandoned = True
        self._sum_up()

    @property
    def linked(self) -> list[int]:
        """The chains that count, in the order of the listing."""
        return [chain.number for chain in self._linked]

    @property
    def is_complete(self) -> bool:
        """Return whether it was read from the first page to the last, and no page came twice."""
        pages = [chain.pages for chain in self._linked]
        again = sum(map(len, pages)) > len(set().union(*pages))
        again |= any(chain.saw_a_page_again for chain in self._linked)
        return not (again or self._is_resumed or self._lost_the_end)

    def links(self) -> list[PageLink]:
        """Return where the next reading can cut the listing, once this one is at its end."""
        page_size = self._source.client.account.page_size
        found, before = [], 0
        for chain in self._linked:
            rows = chain.rows if chain.met is None else chain.met_after
            found += [
                PageLink(before + inside, page_size, link) for inside, link in chain.sample.links
            ]
            before += rows
        return spread(found, before)

    def events(self) -> Iterator[Batch | Linked | Dropped]:
        """Yield what is read in the order in which it comes, and which of it counts.

        Raises:
            ChainBroken: one chain has to read it all.
            SourceError: the listing cannot be read to its end.
            Interrupted: the run is to stop.
        """
        while self._linked[-1] not in self._ended:
            event = self._take()
            yield from self._hand_on(event) if isinstance(event, Batch) else self._note_end(event)
        yield from self._drop(set(self._chains) - set(self._linked), "it was never met")
        self._tell_of_dropped()
        yield from self._read_the_end_again()

    # In the thread that takes the events.

    def _take(self) -> Batch | _Ended:
        while True:
            try:
                event = self._events.get(timeout=_LOOK_FOR_STOP_SECONDS)
            except queue.Empty:
                self._source.stop.check()
            else:
                self._sum_up()
                return event

    def _hand_on(self, batch: Batch) -> Iterator[Batch]:
        if not any(one.dropped and one.number == batch.chain for one in self._chains):
            yield batch

    def _note_end(self, event: _Ended) -> Iterator[Linked | Dropped]:
        chain, error = event
        self._ended.add(chain)
        if chain.dropped:
            return
        is_later = chain is not self._chains[0]
        if is_later and not chain.first_keys and _is_to_drop(chain, error):
            yield from self._drop([chain], sentence(error) if error else "it has no rows")
        elif error is None:
            yield from self._follow_meetings()
            self._fill_free_place()
        elif is_later and _is_of_the_link(error):
            raise ChainBroken(f"a chain from a remembered link broke off: {error}") from error
        else:
            raise error

    def _follow_meetings(self) -> Iterator[Linked | Dropped]:
        known, last = len(self._linked), self._linked[-1]
        while last in self._ended and last.met is not None:
            passed = [one for one in self._chains if last.begin < one.begin < last.met.begin]
            yield from self._drop(passed, "it was never met")
            last = last.met
            self._linked.append(last)
        if last.start is not None and len(self._linked) > known:
            yield Linked(self.linked[known:], last.start)

    def _fill_free_place(self) -> None:
        """Cut the longest part that is left in two; not where links turned out to be no good."""
        running = [one for one in self._chains if not (one.dropped or one in self._ended)]
        if self._dropped or not running:
            return
        longest = max(running, key=lambda one: self._end_of(one) - one.begin - one.rows)
        start = self._cut.take_middle(longest.begin + longest.rows, self._end_of(longest))
        if start is not None and (number := next(self._numbers, None)) is not None:
            chain = Chain(number, start.link, start.rows_before)
            self._chains.append(chain)
            self._start(chain)

    def _end_of(self, chain: Chain) -> int:
        """Return where the next chain begins."""
        ahead = [one.begin for one in self._chains if one.begin > chain.begin and not one.dropped]
        return min(ahead, default=self._cut.end)

    def _drop(self, chains: Iterable[Chain], reason: str) -> Iterator[Dropped]:
        for chain in chains:
            if not chain.dropped:
                chain.dropped = True
                self._dropped.append(reason)
                yield Dropped(chain.number)

    def _tell_of_dropped(self) -> None:
        if self._dropped:
            dropped, chains = len(self._dropped), len(self._chains)
            reason = self._dropped[0]
            self._log.warning("chains.dropped", dropped=dropped, chains=chains, reason=reason)

    def _read_the_end_again(self) -> Iterator[Batch]:
        """Read what came to the end of the listing while other chains had not read it yet.

        One chain reads the end last, and so comes upon rows that move there.
        """
        last = self._linked[-1]
        is_late = any(chain.ended_at > last.asked_at for chain in self._linked[:-1])
        if not is_late or last.last_link is None:
            return
        self._ended.remove(last)
        self._run(last, last.read_on(self._source_of(last).follow(last.last_link, self._trace)))
        while last not in self._ended:
            event = self._take()
            if isinstance(event, Batch):
                yield from self._hand_on(event)
            elif event.chain is last:
                self._ended.add(last)
                self._note_loss(event.error)

    def _note_loss(self, error: Exception | None) -> None:
        """A link that is no longer good leaves open what is behind it; anything else matters."""
        if error is not None and not _is_of_the_link(error):
            raise error
        self._lost_the_end = error is not None

    def _sum_up(self) -> None:
        """Chains count apart: two threads that add to one figure at once may lose a count."""
        counted = sum_up([self._counted_before, *(chain.counters for chain in self._chains)])
        counted.rejected = self._source.counters.rejected
        self._source.counters.assign(counted)

    # In the threads of the chains.

    def _source_of(self, chain: Chain) -> Source:
        return replace(self._source, counters=chain.counters)

    def _ahead_of(self, chain: Chain, rows: int) -> Iterator[Chain]:
        """Yield what the chain may meet within so many rows, once it is known how that begins."""
        ahead = [one for one in self._chains if one.begin > chain.begin]
        for other in sorted(ahead, key=lambda one: one.begin):
            if not chain.may_meet(other, rows):
                return
            while not other.opened.wait(_LOOK_FOR_STOP_SECONDS):
                self._source.stop.check()
                if self._is_needless(chain) or other.dropped:
                    break
            if not other.dropped:
                yield other

    def _is_needless(self, chain: Chain) -> bool:
        return self._abandoned or chain.dropped

    def _start(self, chain: Chain) -> None:
        pages = self._source_of(chain).follow(chain.link, self._trace)
        self._run(chain, chain.read(pages, partial(self._ahead_of, chain)))

    def _run(self, chain: Chain, pages: Iterator[FetchedPage]) -> None:
        def work() -> None:
            error = self._hand_over(chain, pages)
            chain.ended_at = time.monotonic()
            chain.opened.set()
            self._put(_Ended(chain, error))

        # A daemon: a socket that never answers must not keep a stopped process alive.
        threading.Thread(target=work, name=f"chain-{chain.number}", daemon=True).start()

    def _hand_over(self, chain: Chain, pages: Iterator[FetchedPage]) -> Exception | None:
        """Put all pages into batches; return what went wrong."""
        pile, error = Pile(chain, self._side_by_side), None
        try:
            for fetched in pages:
                if self._is_needless(chain):
                    return None
                pile.add(fetched)
                if pile.is_due:
                    self._put(pile.take())
        except Exception as caught:  # noqa: BLE001 - carried over to whoever takes the events
            error = caught
        if pile:
            self._put(pile.take())
        return error

    def _put(self, event: Batch | _Ended) -> None:
        while not self._abandoned:
            try:
                return self._events.put(event, timeout=_LOOK_FOR_STOP_SECONDS)
            except queue.Full:
                continue
        return None


def _is_to_drop(chain: Chain, error: Exception | None) -> bool:
    """Return whether a chain that got no page is given up.

    One that was stored is kept for later, unless it is the link that is no good.
    """
    if chain.stored is not None:
        return error is None or _is_of_the_link(error)
    return isinstance(error, errors.SourceError | None)


def _is_of_the_link(error: Exception) -> bool:
    """Return whether another link might do, and not the same one later."""
    passes = isinstance(error, errors.CredentialsRefused | errors.PermissionMissing)
    return isinstance(error, errors.SourceError) and not (error.transient or passes)
