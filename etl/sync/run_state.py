"""The scans of a run as they come up, for whoever looks at it from outside while it goes on."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from msgspec.structs import replace

from etl.domain.counters import Counters, sum_up
from etl.domain.status import ScanStatus
from etl.errors import WarehouseUnreachable
from etl.stopping import Stop
from etl.sync.context import Request
from etl.sync.outcome import RunOutcome, ScanOutcome


class RunState:
    """What is known of a run while it goes on: for the progress bar, and for its outcome."""

    def __init__(self) -> None:
        self.run_id: int | None = None
        self._started_at = datetime.now(UTC)
        self._discoveries: list[Counters] = []
        self._scans: list[ScanOutcome] = []
        self.sizes: Mapping[tuple[str, str], int] = {}
        """Rows that scopes had when they were last read completely, by service and label."""

    def add(self, outcome: ScanOutcome) -> ScanOutcome:
        """Add a scan and return it."""
        outcome.expected = self.sizes.get(
            (outcome.scope.chat_service_sid, outcome.scope.undated.label)
        )
        self._scans.append(outcome)
        return outcome

    @property
    def scans(self) -> Sequence[ScanOutcome]:
        """All scans, in the order in which they were added."""
        return tuple(self._scans)

    @property
    def has_lost_the_warehouse(self) -> bool:
        """Whether a scan has failed because the warehouse was unreachable after all retries."""
        return any(isinstance(scan.error, WarehouseUnreachable) for scan in self._scans)

    def add_discovery(self) -> Counters:
        """Return the counters for requests that list an account's services."""
        self._discoveries.append(Counters())
        return self._discoveries[-1]

    @property
    def totals(self) -> Counters:
        """Counters of all scans, and of listing services."""
        return sum_up([*self._discoveries, *(scan.counters for scan in self._scans)])

    def outcome(self, request: Request, stop: Stop) -> RunOutcome:
        """Return the run's outcome so far; scans that a stop left unfinished are interrupted."""
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
