"""What each step of a scan hands to the next one: frozen values, in the order of the steps."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from etl.domain.chains import ChainStart, PageLink
from etl.domain.rejection import Rejections


class StoredChain(NamedTuple):
    """How far a chain of an interrupted scan had got that was not linked with the first one."""

    number: int
    start: ChainStart
    """How it began, with the link where it goes on."""
    rows_read: int
    """Rows that it had read before that."""


class Opened(NamedTuple):
    """Where a scan begins."""

    link: str | None = None
    """Where an interrupted scan stopped; None for the first page."""
    fetched: int = 0
    """Rows that it had read, by all chains."""
    rows_before: int = 0
    """Rows that lay before its last linked chain when the listing was last read."""
    rows_read: int = 0
    """Rows that this chain had read before `link`."""
    apart: Sequence[StoredChain] = ()
    """Its other chains, in the order of the listing."""

    @property
    def resumed(self) -> bool:
        """Return whether it goes on where an interrupted scan stopped."""
        return self.link is not None or bool(self.apart)


class Kept(NamedTuple):
    """What came of a batch."""

    unreadable: int = 0
    """Rows whose SID cannot be read."""
    rejections: Rejections = Rejections()
    last_sid: str | None = None

    def merged(self, later: "Kept") -> "Kept":
        """Return what came of these batches together."""
        return Kept(
            self.unreadable + later.unreadable,
            self.rejections.merged(later.rejections),
            later.last_sid or self.last_sid,
        )


class Reading(msgspec.Struct, frozen=True):
    """What is known once the last page is read."""

    complete: bool
    """From the first page to the last in one go, and no page came twice."""
    resumed: bool
    unreadable: int
    rejections: Rejections
    last_sid: str | None
    """A binding that this run has just listed."""
    links: Sequence[PageLink] | None = None
    """Where the next reading can cut the listing; None where nothing is to be remembered."""


class Absences(NamedTuple):
    """Bindings that a scan did not see and may delete, and what they are measured against."""

    absent: int = 0
    active: int = 0
    """Active rows of the whole service, whatever part of it was read."""


class DeleteDecision(msgspec.Struct, frozen=True):
    """What is to be done about the absent bindings of a scan."""

    deletes: bool = False
    """Those that the scan has listed go, save what is alive or unknown."""
    refused: str | None = None
    note: str | None = None
    """Why absent bindings stay, though nothing was refused."""
    alive: tuple[bytes, ...] = ()
    """Raw rows that the listing missed and the API returned when asked."""
    unknown: tuple[str, ...] = ()
    """SIDs that the API said nothing of; they are left for the next run."""

    def __repr__(self) -> str:
        """Return how many rows there are, and no row: they name people."""
        return f"{type(self).__name__}(deletes={self.deletes}, alive={len(self.alive)} rows)"
