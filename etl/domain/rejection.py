"""When so much is rejected for one reason that the scan itself is wrong (docs/promises.md §4)."""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from etl.errors import RowsRejected

# So many bad rows of one kind may well be bad rows.
_FEW = 10


class Rejections(msgspec.Struct, frozen=True):
    """What became of the rows of a scan so far."""

    taken: int = 0
    reasons: Mapping[str, int] = msgspec.field(default_factory=dict)
    """How many were rejected, by reason."""
    active: Mapping[str, int] = msgspec.field(default_factory=dict)
    """How many of those are active in the warehouse."""

    def plus(self, taken: int, reasons: Iterable[str], active: Iterable[str]) -> "Rejections":
        """Return the sum with one batch: rows taken, and the reasons of its rejects."""
        return Rejections(
            self.taken + taken,
            Counter(self.reasons) + Counter(reasons),
            Counter(self.active) + Counter(active),
        )

    def merged(self, other: "Rejections") -> "Rejections":
        """Return both together."""
        return Rejections(
            self.taken + other.taken,
            Counter(self.reasons) + Counter(other.reasons),
            Counter(self.active) + Counter(other.active),
        )

    @property
    def rejected(self) -> int:
        """Return how many rows were rejected."""
        return sum(self.reasons.values())

    @property
    def may_be_one_fault(self) -> bool:
        """Whether it is worth asking how many bindings are active."""
        return any(number > _FEW for number in self.reasons.values())


def common_reason(seen: Rejections, active: int, *, whole: bool) -> str | None:
    """Return the one reason why all rows of many, or most of what is active, were rejected.

    `whole` says that no other rows were read before, by a run that was interrupted.
    """
    for reason, number in seen.reasons.items():
        if number > _FEW and whole and not seen.taken:
            return reason
        if seen.active.get(reason, 0) > _FEW and seen.active[reason] > active / 2:
            return reason
    return None


def refuse_common_reason(seen: Rejections, active: int, *, whole: bool) -> None:
    """Raise `RowsRejected` when there is a `common_reason`.

    Raises:
        RowsRejected: with the reason, once.
    """
    reason = common_reason(seen, active, whole=whole)
    if reason is not None:
        read = seen.taken + seen.rejected
        raise RowsRejected(
            f"{seen.reasons[reason]} of {read} rows were rejected for one reason: {reason}; "
            "nothing was published: correct the configuration if that is what is wrong "
            "(`bindings-etl check` compares the account), or look at `bindings-etl rejects list`"
        )
