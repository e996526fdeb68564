"""The scans of a run as they come up, for whoever looks at it from outside while it goes on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from etl.domain.counters import Counters, sum_up
from etl.domain.status import ScanStatus
from etl.errors import WarehouseUnreachable
from etl.stopping import Stop
from etl.sync.context import Request
from etl.sync.outcome import RunOutcome, ScanOutcome


class Board:
    """What is known of a run while it goes on: for the progress bar, and for its outcome."""

    def __init__(self) -> None:
        self.run_id: int | None = None
        self._started_at = datetime.now(UTC)
        self._discoveries: list[Counters] = []
        self._scans: list[ScanOutcome] = []
        self.sizes: Mapping[tuple[str, str], int] = {}
        """Rows that scopes had when they were last read completely, by service and label."""

    def add(self, outcome: ScanOutcome) -> ScanOutcome:
        """A scan is planned."""
        outcome.expected = self.sizes.get(
            (outcome.scope.chat_service_sid, outcome.scope.undated.label)
        )
        self._scans.append(outcome)
        return outcome

    @property
    def scans(self) -> Sequence[ScanOutcome]:
        """All of them, in the order in which they came up."""
        return tuple(self._scans)

    @property
    def has_lost_the_warehouse(self) -> bool:
        """Whether a scan has given it up, after all its tries."""
        return any(isinstance(scan.error, WarehouseUnreachable) for scan in self._scans)

    def add_discovery(self) -> Counters:
        """The services of an account are asked for; return where to count that."""
        self._discoveries.append(Counters())
        return self._discoveries[-1]

    @property
    def totals(self) -> Counters:
        """All scans together, and what came before them."""
        return sum_up([*self._discoveries, *(scan.counters for scan in self._scans)])

    def outcome(self, request: Request, stop: Stop) -> RunOutcome:
        """What has come of the run. What a stop has left behind is told as interrupted."""
        left_behind = (
            stop.interruption("it did not come to an end in time after the run was stopped")
            if stop.requested
            else None
        )
        return RunOutcome(
            run_id=self.run_id,
            mode=request.mode,
            started_at=self._started_at,
            finished_at=datetime.now(UTC),
            dry_run=request.dry_run,
            run_group=request.run_group,
            scans=[
                scan
                if scan.ended
                else replace(scan, status=ScanStatus.INTERRUPTED, error=left_behind)
                for scan in self._scans
            ],
            discovery=sum_up(self._discoveries),
            stopped=stop.requested,
            stopped_exit_code=stop.exit_code,
        )
