"""What a scan or a run has done, in numbers."""

from collections.abc import Iterable

import msgspec
from msgspec.structs import asdict


class Counters(msgspec.Struct):
    """The counters of a scan or a run; the names are those of the ledger's columns.

    Pages, requests, retries and fetched tell what this run has read. The others tell what it
    published, which for a resumed scan includes what the interrupted one had read.
    """

    pages: int = 0
    requests: int = 0
    retries: int = 0
    fetched: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    restored: int = 0
    rejected: int = 0

    def assign(self, other: "Counters") -> None:
        """Take the other's figures over."""
        for name, value in asdict(other).items():
            setattr(self, name, value)

    def add(self, other: "Counters") -> None:
        """Add the other's figures, counter by counter."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


def sum_up(counters: Iterable[Counters]) -> Counters:
    """Return the sum of all, counter by counter."""
    total = Counters()
    for one in counters:
        total.add(one)
    return total


COUNTER_NAMES = tuple(asdict(Counters()))
