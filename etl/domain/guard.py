"""May the absent bindings of a scan be deleted? (docs/promises.md §3)"""

import random
from collections.abc import Iterable, Mapping
from enum import Enum

import msgspec


class Guard(msgspec.Struct, frozen=True):
    """The limits beyond which a scan's deletes are refused."""

    max_fraction: float
    min_rows: int

    def refuses(self, absent: int, active: int) -> bool:
        """Return whether both limits are exceeded: the share of active rows, and the number."""
        # Divided, not multiplied: 29 / 100 is the same number as 0.29, but 0.29 * 100 is less than
        # 29.
        return absent > self.min_rows and absent / max(active, 1) > self.max_fraction


class Absence(Enum):
    """What the API answered when asked for one absent binding by its SID."""

    GONE = "gone"
    WORDLESS = "answered 404 with an empty body"
    ALIVE = "alive"
    UNKNOWN = "unknown"


class Verdict(msgspec.Struct, frozen=True):
    """What follows from the answers: which absent SIDs stay, and whether any may go."""

    keep: frozenset[str]
    deletes_allowed: bool
    refused: bool = False


class Sample(msgspec.Struct, frozen=True):
    """Absent SIDs to ask for, and how many absent ones they stand for."""

    sids: tuple[str, ...]
    size: int

    @property
    def is_part(self) -> bool:
        """Whether it leaves absent SIDs out."""
        return len(self.sids) < self.size


def draw_sample(absent: Iterable[str], limit: int) -> Sample:
    """Return all absent SIDs, or a uniform random sample of `limit` when there are more.

    Holds no more than that in memory.
    """
    drawn: list[str] = []
    size = 0
    for size, sid in enumerate(absent, start=1):
        if size <= limit:
            drawn.append(sid)
        elif (place := random.randrange(size)) < limit:  # noqa: S311 - a fair draw, not a secret
            drawn[place] = sid
    return Sample(tuple(drawn), size)


def weigh(answers: Mapping[str, Absence], *, trusted: bool) -> dict[str, Absence]:
    """Return the answers, each wordless 404 as gone if `trusted`, else as unknown."""
    meaning = Absence.GONE if trusted else Absence.UNKNOWN
    return {
        sid: meaning if absence is Absence.WORDLESS else absence for sid, absence in answers.items()
    }


def judge(answers: Mapping[str, Absence], *, sampled: bool) -> Verdict:
    """Decide from the answers for all absent SIDs, or (`sampled`) for a random part of them.

    One living binding in a sample means that the listing missed rows: all deletes are refused. An
    unanswered one in a sample leaves all for the next run, since a sample proves nothing then;
    otherwise it only keeps itself.
    """
    keep = frozenset(sid for sid, absence in answers.items() if absence is not Absence.GONE)
    alive = any(absence is Absence.ALIVE for absence in answers.values())
    if not sampled:
        return Verdict(keep, deletes_allowed=True)
    return Verdict(keep, deletes_allowed=not keep, refused=alive)
