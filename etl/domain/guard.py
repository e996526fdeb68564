"""May the absent bindings of a scan be deleted? (contract §5.3)"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class Guard:
    """The limits beyond which a scan's deletes are refused."""

    max_fraction: float
    min_rows: int

    def refuses(self, absent: int, active: int) -> bool:
        """Both limits exceeded: more than the share of what is active, and more than the number."""
        # Divided, not multiplied: 29 / 100 is the same number as 0.29, but 0.29 * 100 is less than 29.
        return absent > self.min_rows and absent / max(active, 1) > self.max_fraction


class Absence(Enum):
    """What the API answered when asked for one absent binding by its SID."""

    GONE = "gone"
    ALIVE = "alive"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Verdict:
    """What follows from the answers: which absent SIDs stay, and whether any may go."""

    keep: frozenset[str]
    deletes_allowed: bool
    refused: bool = False


def draw_sample(absent: Iterable[str], limit: int) -> list[str]:
    """All absent SIDs, or an even random sample of `limit` when there are more; holds no more than that in memory."""
    sample: list[str] = []
    for count, sid in enumerate(absent):
        if count < limit:
            sample.append(sid)
        elif (place := random.randrange(count + 1)) < limit:  # noqa: S311 - a fair draw, not a secret
            sample[place] = sid
    return sample


def judge(answers: dict[str, Absence], *, sampled: bool) -> Verdict:
    """Decide from the answers for all absent SIDs, or (`sampled`) for a random part of them.

    One living binding in a sample means that the listing missed rows: all deletes are refused. An unanswered one in a sample
    leaves all for the next run, since a sample proves nothing then; otherwise it only keeps itself.
    """
    keep = frozenset(sid for sid, absence in answers.items() if absence is not Absence.GONE)
    alive = any(absence is Absence.ALIVE for absence in answers.values())
    if not sampled:
        return Verdict(keep, deletes_allowed=True)
    return Verdict(keep, deletes_allowed=not keep, refused=alive)
