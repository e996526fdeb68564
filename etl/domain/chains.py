"""Where a listing can be cut into chains of pages, and how one chain meets another.

The argument why they prove as much as one chain is in docs/chains.md.
"""

import hashlib
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from enum import Enum, auto
from typing import NamedTuple

from etl.domain.wire import decode_sids

MOST_LINKS = 63
"""With its first page, a listing can be cut into 64 parts."""

_MOST_SAMPLED = 512
_FEWEST_PAGES = 2


class PageLink(NamedTuple):
    """Where a page of a complete reading began."""

    rows_before: int
    """Rows that were listed before it."""
    page_size: int
    """Rows a page that were asked for."""
    link: str


class LinkSample:
    """Links of a chain's pages, evenly spread, however many pages there are."""

    def __init__(self) -> None:
        self.links: list[tuple[int, str]] = []
        """How many rows of the chain lay before a page, and its link."""
        self._pages = 0
        self._step = 1

    def add(self, rows_before: int, link: str) -> None:
        """Note a page, or pass over it."""
        if self._pages % self._step == 0:
            self.links.append((rows_before, link))
        self._pages += 1
        if len(self.links) > _MOST_SAMPLED:
            self.links = self.links[::2]
            self._step *= 2


def spread(links: Iterable[PageLink], rows: int) -> list[PageLink]:
    """Return those of a listing of so many rows that cut it into up to 64 equal parts."""
    targets = [rows * part / (MOST_LINKS + 1) for part in range(1, MOST_LINKS + 1)]
    return _nearest([one for one in links if 0 < one.rows_before < rows], targets)


class Cut:
    """Where the chains of one reading start, and where more of them may."""

    def __init__(self, links: Iterable[PageLink], chains: int, begin: int = 0) -> None:
        """The first chain starts after `begin` rows; all together are `chains`, or fewer.

        Parts that are hardly longer than the pages by which chains meet are not worth one.
        """
        ahead = sorted(one for one in links if one.rows_before > begin)
        self.end = begin
        """How many rows there were last time, as far as links tell."""
        if ahead:
            last = ahead[-1].rows_before
            self.end = last + (last - begin) // len(ahead)
        targets = [begin + (self.end - begin) * part / chains for part in range(1, chains)]
        self.starts: list[PageLink] = []
        before = begin
        for one in _nearest(ahead, targets):
            if _is_between(one, before, self.end):
                self.starts.append(one)
                before = one.rows_before
        self._spare = [one for one in ahead if one not in self.starts]

    def take_middle(self, begin: int, end: int) -> PageLink | None:
        """Return, only once, the link that cuts a part best in two, if one does."""
        inside = [one for one in self._spare if _is_between(one, begin, end)]
        middle = _nearest(inside, [(begin + end) / 2])
        self._spare = [one for one in self._spare if one not in middle]
        return middle[0] if middle else None


def _is_between(link: PageLink, begin: int, end: int) -> bool:
    least = _FEWEST_PAGES * link.page_size
    return link.rows_before - begin >= least and end - link.rows_before >= least


def _nearest(links: Iterable[PageLink], targets: Sequence[float]) -> list[PageLink]:
    """Return the link nearest to each position, each link once, by position."""
    ordered = sorted(links)
    found: dict[int, PageLink] = {}
    for target in targets:
        index = bisect_left(ordered, target, key=lambda one: one.rows_before)
        around = ordered[max(0, index - 1) : index + 1]
        if around:
            nearest = min(around, key=lambda one: abs(one.rows_before - target))
            found.setdefault(nearest.rows_before, nearest)
    return sorted(found.values())


_is_sid = re.compile(r"BS[0-9a-fA-F]{32}").fullmatch


def keys_of(rows: list[bytes]) -> list[str]:
    """Return what tells each row from others: its SID, or a hash of it all where that is none."""
    return [
        sid if sid is not None and _is_sid(sid) else hashlib.sha256(raw).hexdigest()
        for sid, raw in zip(decode_sids(rows), rows, strict=True)
    ]


class ChainStart(NamedTuple):
    """Where a chain begins."""

    rows_before: int
    """Rows that lay before it when the listing was last read."""
    link: str
    keys: Sequence[str]
    """Of the rows of its first page, by `keys_of`; there the chain before it ends."""


class Overlap(Enum):
    """What the rows at hand say about a meeting."""

    NONE = auto()
    SHORT = auto()
    """Too few of them: one page more will tell."""
    MEETS = auto()


def compare_with_start(rest: Sequence[str], start: Sequence[str], fewest: int) -> Overlap:
    """Return whether a chain has come to where another one began.

    `rest` is what it read last, `start` the first page of the other one. They meet where both
    are equal, row by row and in the same order, over at least `fewest` rows.
    """
    common = min(len(rest), len(start))
    if rest[:common] != start[:common] or len(start) < fewest:
        return Overlap.NONE
    return Overlap.MEETS if common >= fewest else Overlap.SHORT


def has_read_enough(rows: int, between: int) -> bool:
    """Return whether a chain may meet another one after so many rows.

    Where `between` rows lay last time, a meeting before half of them is none: a server that
    ignores links answers each of them alike.
    """
    return 2 * rows >= between
