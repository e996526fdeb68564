"""Where a scan's rows go: into the warehouse, or into the numbers of a dry run.

A sink compares each batch and keeps what publishing will need: `WarehouseSink` in the stage of its
scan, `PreviewSink` in a scratch file. It opens the transactions; the order of its verbs is that of
`scan.py`.
"""

from collections.abc import Sequence
from typing import ClassVar, Protocol

from etl.domain.chains import ChainStart, PageLink
from etl.domain.counters import Counters
from etl.domain.guard import Sample
from etl.sync.prefetch import Batch
from etl.sync.steps import Absences, DeleteDecision, Kept, Opened, Reading
from etl.warehouse.ledger import Ending, Published


class Sink(Protocol):
    """One scan's way into the warehouse. Used by one thread at a time."""

    writes: ClassVar[bool]
    """Whether publishing changes the warehouse."""

    def open(self, most_chains: int) -> Opened:
        """Begin the scan; return where an interrupted one of the same scope can be resumed.

        Where it is read by one chain, no other chain is.

        Raises:
            LeaseHeld: a live run works on an overlapping scope.
        """

    def find_links(self, page_size: int) -> Sequence[PageLink]:
        """Return where the last complete reading of this listing says that it can be cut."""

    def start_over(self) -> None:
        """Discard what was staged before: its link is no longer good."""

    def keep(self, batch: Batch) -> Kept:
        """Compare a batch with the warehouse, and stage what publishing will need."""

    def link(self, chains: Sequence[int], start: ChainStart) -> None:
        """Count what these chains read as read: they are linked with the first one.

        What comes of a chain before that is kept apart. `start` is where the last of them began.
        """

    def drop(self, chain: int) -> None:
        """Forget what this chain has read."""

    def count_expected(self) -> int:
        """Return how many active bindings a complete reading has to see."""

    def list_absent(self, *, proven: bool, parts: int) -> Absences:
        """Write down which bindings were not seen, if the reading proves something by that.

        `parts` tells of how many the service consists that this run reads.
        """

    def sample_absent(self, limit: int) -> Sample:
        """Draw up to `limit` of those that still stand on the list."""

    def publish_if_none_absent(
        self, reading: Reading, decision: DeleteDecision, counters: Counters, *, proven: bool
    ) -> Published | Absences:
        """Write down what was not seen; where that is nothing, publish in the same transaction."""

    def publish(self, reading: Reading, decision: DeleteDecision, counters: Counters) -> Published:
        """Make what was kept the current truth, in one transaction; return all counters."""

    def abandon(self, ending: Ending, cause: Exception) -> None:
        """End a scan that does not publish; unless its cause forbids it, it can be resumed."""

    def close(self) -> None:
        """Release what only this process needed."""
