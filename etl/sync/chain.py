"""One of the chains of pages that read a listing side by side: what it reads, and whom it meets."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from etl.domain.chains import (
    ChainStart,
    LinkSample,
    Overlap,
    compare_with_start,
    has_read_enough,
    keys_of,
)
from etl.domain.counters import Counters
from etl.sync import prefetch
from etl.sync.prefetch import Batch
from etl.sync.steps import StoredChain
from etl.twilio.paging import FetchedPage


class Chain(msgspec.Struct, eq=False):
    """Where it began, how far it has got, and whom it met. Its own thread writes, others read."""

    number: int
    link: str | None
    """Where it begins or goes on; None for the first page."""
    begin: int
    """Rows that lay before it when the listing was last read."""
    rows: int = 0
    """Rows that it has read, before an interruption too."""
    stored: ChainStart | None = None
    """Where an interrupted reading began it; None when this one does."""
    counters: Counters = msgspec.field(default_factory=Counters)
    first_rows: Sequence[bytes] = ()
    """Rows of its first page, if this reading has read it."""
    first_keys: Sequence[str] = ()
    opened: threading.Event = msgspec.field(default_factory=threading.Event)
    """Set when it is known how it began and that its link is good, or when it is not."""
    sample: LinkSample = msgspec.field(default_factory=LinkSample)
    pages: set[int] = msgspec.field(default_factory=set)
    saw_a_page_again: bool = False
    met: "Chain | None" = None
    met_after: int = 0
    """Rows that it read before the other one begins."""
    last_link: str | None = None
    """Where the last page that has rows began."""
    last_rows: Sequence[bytes] = ()
    asked_at: float = 0.0
    """When its last page was asked for."""
    ended_at: float = 0.0
    dropped: bool = False
    """It does not count; nobody waits for what it reads."""
    _largest_page: int = 0

    @classmethod
    def resume(cls, chain: StoredChain) -> "Chain":
        """Return a chain that goes on where an interrupted reading stopped."""
        start = chain.start
        return cls(chain.number, start.link, start.rows_before, chain.rows_read, start)

    @property
    def start(self) -> ChainStart | None:
        """Where it began; None for the first one."""
        if self.number == 0 or self.link is None:
            return None
        return self.stored or ChainStart(self.begin, self.link, self.first_keys)

    def read(
        self, pages: Iterator[FetchedPage], ahead: Callable[[int], Iterator["Chain"]]
    ) -> Iterator[FetchedPage]:
        """Yield its pages to the end of the listing, or to where it meets a chain that is ahead.

        What is equal to the first page of the chain that it meets is left to that one. `ahead`
        returns the chains that may be met within so many rows more, the nearest first.
        """
        approach: _Approach | None = None
        for fetched in self._note_pages(pages):
            if approach is None:
                approach = self._find_start(fetched, ahead)
            else:
                approach.add(fetched)
            overlap = approach.judge(self._largest_page) if approach else Overlap.NONE
            if approach is None:
                yield self._own(fetched)
            elif overlap is Overlap.MEETS:
                self.met, self.met_after = approach.target, approach.rows_before
                yield from approach.pages_before()
                return
            elif overlap is Overlap.NONE:
                yield from map(self._own, approach.pages)
                approach = None
        if approach is not None:
            yield from map(self._own, approach.pages)

    def read_on(self, pages: Iterator[FetchedPage]) -> Iterator[FetchedPage]:
        """Yield what there is from its last page on, without the rows that this page had before."""
        known = frozenset(self.last_rows)
        for fetched in pages:
            self._count(fetched)
            if rows := [row for row in fetched.page.rows if row not in known]:
                self.rows += len(rows)
                yield fetched._replace(page=fetched.page._replace(rows=rows))

    def may_meet(self, other: "Chain", rows: int) -> bool:
        """Return whether it may meet another chain once it has read so many rows more."""
        return has_read_enough(self.rows + rows, other.begin - self.begin)

    def _note_pages(self, pages: Iterator[FetchedPage]) -> Iterator[FetchedPage]:
        link, asked_at = self.link, time.monotonic()
        for fetched in pages:
            rows = fetched.page.rows
            self._count(fetched)
            self.asked_at = asked_at
            self._largest_page = max(self._largest_page, len(rows))
            if not self.opened.is_set():
                self._open(rows)
            elif link is not None:  # the first one is left out: remembered again it would grow old
                self.sample.add(self.rows, link)
            if rows:
                self.last_link, self.last_rows = link, rows
            yield fetched
            self.rows += len(rows)
            link, asked_at = fetched.next_link, time.monotonic()

    def _open(self, rows: list[bytes]) -> None:
        if self.stored is None:
            self.first_rows, self.first_keys = rows, keys_of(rows)
        else:
            self.first_keys = self.stored.keys
        self.opened.set()

    def _count(self, fetched: FetchedPage) -> None:
        self.counters.pages += 1
        self.counters.fetched += len(fetched.page.rows)

    def _own(self, fetched: FetchedPage) -> FetchedPage:
        rows = fetched.page.rows
        if rows:
            self.pages.add(hash((len(rows), rows[0], rows[-1])))
        self.saw_a_page_again |= fetched.repeated
        return fetched

    def _find_start(
        self, fetched: FetchedPage, ahead: Callable[[int], Iterator["Chain"]]
    ) -> "_Approach | None":
        keys: list[str] = []
        for other in ahead(len(fetched.page.rows)):
            keys = keys or keys_of(fetched.page.rows)
            if other.first_keys and (first := other.first_keys[0]) in keys:
                index = keys.index(first)
                if self.may_meet(other, index):
                    return _Approach(other, self.rows + index, index, [fetched], keys[index:])
        return None


class _Approach(msgspec.Struct):
    """Pages in which another chain's first row was found."""

    target: Chain
    rows_before: int
    """Rows that the chain had read before that row."""
    index: int
    """Where that row is in the first of the pages."""
    pages: list[FetchedPage]
    rest: list[str]
    """From that row on."""

    def add(self, fetched: FetchedPage) -> None:
        """One page more."""
        self.pages.append(fetched)
        self.rest += keys_of(fetched.page.rows)

    def judge(self, largest_page: int) -> Overlap:
        """Return whether it is where the other chain began: half a page has to be equal."""
        fewest = (max(largest_page, len(self.target.first_keys)) + 1) // 2
        return compare_with_start(self.rest, self.target.first_keys, fewest)

    def pages_before(self) -> Iterator[FetchedPage]:
        """Yield the pages without the rows that the other chain has as they are.

        Nothing goes on behind them: whoever resumes this chain has to come to this place again.
        """
        theirs = frozenset(self.target.first_rows)
        index = self.index
        for fetched in self.pages:
            rows = fetched.page.rows
            own = rows[:index] + [row for row in rows[index:] if row not in theirs]
            yield fetched._replace(page=fetched.page._replace(rows=own), next_link=None)
            index = 0


class Pile:
    """Pages of a chain, until they are worth a batch."""

    def __init__(self, chain: Chain, chains: int) -> None:
        """Of so many `chains` each holds less than one alone, and hands on less often.

        A batch is a transaction, and memory and warehouse are the same for one chain and for many.
        """
        self._chain = chain
        share = max(0.2, min(1, 2 / chains))
        self._most_rows = prefetch.BATCH_ROWS * share
        self._most_bytes = prefetch.BATCH_BYTES * share
        self._longest_seconds = prefetch.BATCH_SECONDS * max(1, chains // 4)
        self._pages: list[FetchedPage] = []
        self._rows = self._bytes = 0
        self._first_at = 0.0

    def add(self, fetched: FetchedPage) -> None:
        """One page more."""
        if not self._pages:
            self._first_at = time.monotonic()
        self._pages.append(fetched)
        self._rows += len(fetched.page.rows)
        self._bytes += sum(map(len, fetched.page.rows))

    def __bool__(self) -> bool:
        """Return whether there is any page."""
        return bool(self._pages)

    @property
    def is_due(self) -> bool:
        """Return whether it is to be handed on."""
        return (
            self._rows >= self._most_rows
            or self._bytes >= self._most_bytes
            or len(self._pages) >= prefetch.BATCH_PAGES
            or time.monotonic() - self._first_at >= self._longest_seconds
        )

    def take(self) -> Batch:
        """Return what is there as a batch, and begin anew."""
        pages, self._pages, self._rows, self._bytes = self._pages, [], 0, 0
        rows = [row for fetched in pages for row in fetched.page.rows]
        chain = self._chain
        return Batch(rows, len(pages), pages[-1].next_link, chain.number, chain.start)
