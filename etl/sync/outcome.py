"""What came of a run, and what that means to the caller (docs/commands.md)."""

from collections.abc import Mapping, Sequence, Set
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import asdict

from etl import errors
from etl.domain.counters import Counters, sum_up
from etl.domain.scope import Scope
from etl.domain.status import DONE, RunStatus, ScanStatus


class ScanOutcome(msgspec.Struct):
    """What came of one scan."""

    scope: Scope
    status: ScanStatus = ScanStatus.INTERRUPTED
    complete: bool = False
    resumed: bool = False
    counters: Counters = msgspec.field(default_factory=Counters)
    error: Exception | None = None
    note: str | None = None
    """Why deletes were withheld, though nothing went wrong."""
    ended: bool = False
    expected: int | None = None
    """Rows to be read, by the last complete reading; None when there was none of late."""
    changed_fields: Mapping[str, int] = msgspec.field(default_factory=dict)
    """In how many of the updated rows each content column differed."""

    def fail(self, error: Exception) -> None:
        """Note what befell the scan."""
        self.error, self.status, self.complete = error, status_of(error), False

    def as_json(self) -> dict[str, Any]:
        """Return the object of one service for `--json`."""
        return {
            "account": self.scope.account,
            "chat_service_sid": self.scope.chat_service_sid or None,
            "scope": self.scope.label,
            "status": self.status,
            "complete": self.complete,
            "resumed": self.resumed,
            **asdict(self.counters),
            "changed_fields": dict(self.changed_fields),
            "error": describe(self.error),
            "note": self.note,
        }


class RunOutcome(msgspec.Struct, frozen=True):
    """What came of a run."""

    run_id: int | None
    mode: str
    started_at: datetime
    finished_at: datetime
    dry_run: bool
    scans: Sequence[ScanOutcome]
    stopped_exit_code: int | None = None
    stopped: bool = False
    discovery: Counters = msgspec.field(default_factory=Counters)
    """What it took to find out which services there are."""
    run_group: str | None = None

    @property
    def totals(self) -> Counters:
        """All scans together, and what came before them."""
        return sum_up([self.discovery, *(scan.counters for scan in self.scans)])

    @property
    def status(self) -> RunStatus:
        """The run's status in the ledger."""
        found = {scan.status for scan in self.scans}
        if self.stopped and (ScanStatus.INTERRUPTED in found or not found):
            return RunStatus.INTERRUPTED
        return status_of_scans(found)

    @property
    def exit_code(self) -> int:
        """Return the exit code (docs/commands.md); of several, the first of 4, 3, 5, 6."""
        found = {scan.status for scan in self.scans}
        if self.status == RunStatus.INTERRUPTED:
            return self.stopped_exit_code or 3
        if ScanStatus.FAILED in found:
            return self._exit_code_of_failure(found)
        if ScanStatus.REFUSED in found:
            return errors.DeletesRefused.exit_code
        return errors.LeaseHeld.exit_code if ScanStatus.LOCKED in found else 0

    def _exit_code_of_failure(self, found: set[ScanStatus]) -> int:
        if found & DONE:
            return 3
        causes = [scan.error for scan in self.scans if scan.status == ScanStatus.FAILED]
        if all(isinstance(cause, errors.WarehouseError) for cause in causes):
            return errors.WarehouseError.exit_code
        codes = {errors.exit_code_of(cause) for cause in causes if cause is not None}
        if errors.EtlError.exit_code in codes:
            return errors.EtlError.exit_code
        if any(isinstance(cause, errors.RowsRejected) for cause in causes):
            return errors.RowsRejected.exit_code  # they could be read
        return errors.SourceError.exit_code

    @property
    def error(self) -> str | None:
        """The first thing that went wrong, in a sentence."""
        wrong = [
            scan
            for scan in self.scans
            if scan.error is not None and scan.status != ScanStatus.SKIPPED
        ]
        if not wrong:
            return None
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        named = wrong[0].scope.chat_service_sid or wrong[0].scope.account
        return f"{named}: {describe_in_full(wrong[0].error)}{more}"

    def as_json(self) -> dict[str, Any]:
        """Return the object of the run for `--json`."""
        return {
            "run_id": self.run_id,
            "mode": self.mode,
            "status": self.status,
            "started_at": as_zulu(self.started_at),
            "finished_at": as_zulu(self.finished_at),
            "dry_run": self.dry_run,
            "run_group": self.run_group,
            "totals": asdict(self.totals),
            "services": [scan.as_json() for scan in self.scans],
        }


def status_of_scans(found: Set[str]) -> RunStatus:
    """Return what a run is that came to its end and whose scans ended so."""
    if ScanStatus.FAILED in found:
        return RunStatus.PARTIAL if found & DONE else RunStatus.FAILED
    if ScanStatus.REFUSED in found:
        return RunStatus.REFUSED
    if ScanStatus.LOCKED in found:
        return RunStatus.PARTIAL if found & DONE else RunStatus.LOCKED
    return RunStatus.SUCCEEDED


def status_of(error: Exception) -> ScanStatus:
    """Return what a scan is that ended with this error."""
    if isinstance(error, errors.Interrupted):
        return ScanStatus.INTERRUPTED
    if isinstance(error, errors.LeaseHeld | errors.LeaseLost):
        return ScanStatus.LOCKED
    if isinstance(error, errors.DeletesRefused):
        return ScanStatus.REFUSED
    return ScanStatus.SKIPPED if isinstance(error, errors.TypeUnknown) else ScanStatus.FAILED


def describe(error: Exception | None) -> dict[str, Any] | None:
    """Return an error as `--json` shows it."""
    if error is None:
        return None
    return {
        "type": type(error).__name__,
        "message": sentence(error),
        "twilio_code": getattr(error, "twilio_code", None),
        "request_id": getattr(error, "request_id", None),
    }


def describe_in_full(error: BaseException | None) -> str:
    """Return the error's message, and the request id that Twilio's support asks for."""
    request_id = getattr(error, "request_id", None)
    return f"{sentence(error)} (request {request_id})" if request_id else sentence(error)


def sentence(error: BaseException | None) -> str:
    """Return an error's message; of a foreign one only the class: its text may quote a row."""
    if isinstance(error, errors.EtlError):
        return str(error)
    return (
        f"a fault of bindings-etl itself ({type(error).__name__}); "
        "run with --log-level debug and report it"
    )


def count(number: int, noun: str, plural: str = "") -> str:
    """Return such as `1 row`, `2,500 rows`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def as_zulu(moment: datetime) -> str:
    """Return UTC as `2026-11-23T09:42:00.123Z`."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
