"""The quarantine tried again: what the API has of each open reject today, by today's rules.

open ─► ask (no transaction: the API, by SID) ─► publish (one transaction per service), like a scan
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import msgspec
import sqlalchemy as sa
import structlog
from msgspec.structs import asdict, replace

from etl import errors
from etl.config import Settings
from etl.domain.binding import Reject
from etl.domain.counters import Counters
from etl.domain.guard import Absence
from etl.domain.normalize import Normalizer
from etl.domain.scope import Scope
from etl.domain.status import ScanStatus
from etl.stopping import Stop
from etl.sync.compare import compare
from etl.sync.context import Context, Request, rules_for
from etl.sync.drift import DriftWatch
from etl.sync.lookups import BindingLookup
from etl.sync.outcome import RunOutcome, ScanOutcome, sentence
from etl.sync.run import begin_run, conclude_run
from etl.sync.session import ScanSession
from etl.twilio.client import Client
from etl.warehouse import leases, ledger, quarantine, staging
from etl.warehouse import services as service_table
from etl.warehouse.ledger import Ending
from etl.warehouse.opening import configured_warehouse
from etl.warehouse.portions import portions
from etl.warehouse.publishing import Publication, publish_staged
from etl.warehouse.quarantine import Line

log = structlog.get_logger()

MODE = "retry"

# So many bindings are asked for between two renewals of the lease.
_ASKED_AT_ONCE = 200

# Nothing was listed here whose answer could show what a 404 without a word is worth.
_UNANSWERED = (Absence.UNKNOWN, Absence.WORDLESS)


class RejectResult(msgspec.Struct, frozen=True):
    """What became of one open reject."""

    id: int
    sid: str | None
    result: Literal["loaded", "gone", "rejected", "unanswered"]
    reason: str | None = None


class Retried(ScanOutcome):
    """What came of the open rejects of one service."""

    results: list[RejectResult] = msgspec.field(default_factory=list)

    @property
    def unanswered(self) -> bool:
        """Whether some got no answer from the API."""
        return any(result.result == "unanswered" for result in self.results)

    def as_json(self) -> dict[str, Any]:
        """Return the object of one service for `--json`, and each of its rejects."""
        return {
            **super().as_json(),
            "rejects": [asdict(result) for result in self.results],
        }


def retry(
    settings: Settings, services: Sequence[str], stop: Stop
) -> tuple[RunOutcome, list[Retried]]:
    """Try the open rejects of these services, or of all, again.

    Raises:
        WarehouseError: the warehouse cannot be reached or is not at the newest revision; nothing
            was done.
    """
    started_at = datetime.now(UTC)
    with configured_warehouse(settings, stop) as warehouse:
        lines = warehouse.read(lambda conn: quarantine.read_open(conn, services))
        places = dict.fromkeys(Scope(line.account, line.chat_service_sid) for line in lines)
        request = Request(MODE)
        holder = begin_run(settings, request, warehouse) if places else None
        context = Context(settings, request, warehouse, stop, holder)
        retried = [_retry_place(context, scope) for scope in places]
        return conclude_run(context, started_at, retried), retried


def _retry_place(context: Context, scope: Scope) -> Retried:
    retried = Retried(scope)
    account = next(
        (account for account in context.settings.accounts if account.name == scope.account), None
    )
    if account is None:
        retried.fail(
            errors.ConfigurationError(
                f"the account {scope.account} is not configured any more; discard its rejects"
            )
        )
        return retried
    client = Client(account, context.settings.retry, context.stop)
    try:
        _RejectRetry(context, client, retried).execute()
    finally:
        client.close()
    return retried


class _Published(NamedTuple):
    counters: Counters
    results: list[RejectResult]
    changed_fields: Mapping[str, int]


class _RejectRetry:
    """The open rejects of one service."""

    def __init__(self, context: Context, client: Client, retried: Retried) -> None:
        assert context.holder is not None  # noqa: S101 - a retry always holds leases
        scope = retried.scope
        self._warehouse = context.warehouse
        self._engine = context.warehouse.engine
        self._session = ScanSession(context.warehouse, context.holder, scope, context.privacy)
        self._lookup = BindingLookup(client, scope, retried.counters, context.stop)
        self._retried = retried
        self._scope = scope
        self._normalizer = Normalizer(rules_for(context.settings, client, scope))
        run_id = context.holder.run_id
        self._drift = DriftWatch(self._engine, scope, run_id, self._normalizer.drift)
        self._log = log.bind(run_id=run_id, **scope.named)

    def execute(self) -> None:
        """Retry the rejects of one service; an error ends up in the outcome."""
        try:
            self._lookup.stop.check()
            lines = self._session.open(self._read_open)
            sids = {line.id: line.sid or self._read_sid(line.payload) for line in lines}
            answers, alive = self._ask_for([sid for sid in dict.fromkeys(sids.values()) if sid])
            published = self._warehouse.transact(
                lambda conn: self._publish(conn, lines, sids, answers, alive)
            )
        except Exception as error:  # noqa: BLE001 - one service that fails costs one service
            self._fail(error)
        else:
            self._drift.tell()
            self._retried.status = ScanStatus.PUBLISHED
            self._retried.counters, self._retried.results = published.counters, published.results
            self._retried.changed_fields = published.changed_fields
            self._log.info("rejects.retried", **asdict(published.counters))

    def _read_open(self, conn: sa.Connection, _now: datetime) -> list[Line]:
        lines = quarantine.read_open(conn, [self._scope.chat_service_sid])
        return [line for line in lines if line.account == self._scope.account]

    def _read_sid(self, payload: str) -> str | None:
        """Return the SID that today's program reads where an earlier one could not."""
        hashed, _ = self._normalizer.hash_rows([payload.encode()])
        return next(iter(hashed), None)

    def _ask_for(self, sids: Sequence[str]) -> tuple[dict[str, Absence], list[bytes]]:
        answers: dict[str, Absence] = {}
        alive: list[bytes] = []
        for some in portions(sids, _ASKED_AT_ONCE):
            answered, rows = self._lookup.ask_for(some)
            answers.update(answered)
            alive += rows
            self._warehouse.transact(self._session.renew)
        if answers and all(answer in _UNANSWERED for answer in answers.values()):
            raise errors.SourceError(
                f"the API answered for none of {len(answers)} rejects; "
                "run `bindings-etl check` to see why"
            )
        return answers, alive

    def _publish(
        self,
        conn: sa.Connection,
        lines: Sequence[Line],
        sids: Mapping[int, str | None],
        answers: Mapping[str, Absence],
        alive: Sequence[bytes],
    ) -> _Published:
        leases.lock_service(conn, self._engine, self._scope.chat_service_sid)
        now = self._session.renew(conn)
        rejects = self._stage(conn, alive, now)
        run_id, stage_id = self._session.holder.run_id, self._session.scan_id
        order = Publication(run_id, stage_id, self._scope, (), now)
        changes, fields = publish_staged(conn, self._engine, order)
        # What an interrupted scan has staged of this service is older than what is published here.
        outdated = ledger.overlapping_stages(conn, self._scope) if any(changes) else []
        staging.discard(conn, [stage_id, *outdated])
        results = _conclude(lines, sids, answers, {one.sid: one.reason for one in rejects})
        quarantine.close(conn, _to_be_closed(lines, results), now)
        counted = replace(
            self._retried.counters,
            fetched=len(alive),
            unchanged=len(alive) - len(rejects) - sum(changes),
            rejected=sum(result.result == "rejected" for result in results),
            **changes._asdict(),
        )
        published = _Published(counted, results, fields)
        self._close_scan(conn, published, now, changed=any(changes))
        return published

    def _close_scan(
        self, conn: sa.Connection, published: _Published, now: datetime, *, changed: bool
    ) -> None:
        """Write the scan's line, give its lease back, and update the figures of the service."""
        counted, results, fields = published
        note = _note_on_unanswered(results)
        ending = Ending(ScanStatus.PUBLISHED, counted, error=note, changed_fields=fields)
        self._session.finish(conn, ending, now)
        reading = service_table.Reading(self._scope, now)
        service_table.record_reading(conn, reading, changed=changed)
        self._drift.measure(conn, changed=changed)

    def _stage(self, conn: sa.Connection, alive: Sequence[bytes], now: datetime) -> list[Reject]:
        rejects: list[Reject] = []
        rows_by_form: Counter[str] = Counter()
        for batch, some in enumerate(portions(alive, _ASKED_AT_ONCE)):
            hashed, _ = self._normalizer.hash_rows(list(some))
            found = compare(conn, self._engine, self._normalizer, hashed.values(), self._scope)
            staging.stage_batch(
                conn, self._engine, self._session.scan_id, batch, list(hashed), found.changed
            )
            rejects += found.rejects
            rows_by_form.update(found.rows_by_form)
        self._drift.record(conn, rows_by_form, now)
        quarantine.record(conn, self._session.holder.run_id, self._scope, rejects, now)
        return rejects

    def _fail(self, error: Exception) -> None:
        self._retried.fail(error)
        self._log.error("rejects.unretried", error=type(error).__name__, message=sentence(error))
        self._log.debug("rejects.traceback", exc_info=error)
        if self._session.is_open:
            ending = Ending(self._retried.status, self._retried.counters, error=sentence(error))
            self._session.abandon(ending)


def _conclude(
    lines: Iterable[Line],
    sids: Mapping[int, str | None],
    answers: Mapping[str, Absence],
    reasons: Mapping[str | None, str],
) -> list[RejectResult]:
    return [_conclude_line(line, sids[line.id], answers, reasons) for line in lines]


def _conclude_line(
    line: Line,
    sid: str | None,
    answers: Mapping[str, Absence],
    reasons: Mapping[str | None, str],
) -> RejectResult:
    if sid is None:
        return RejectResult(line.id, None, "rejected", line.reason)
    absence = answers[sid]
    if absence is Absence.GONE:
        return RejectResult(line.id, sid, "gone")
    if absence in _UNANSWERED:
        return RejectResult(line.id, sid, "unanswered", line.reason)
    return (
        RejectResult(line.id, sid, "rejected", reasons[sid])
        if sid in reasons
        else RejectResult(line.id, sid, "loaded")
    )


def _to_be_closed(lines: Iterable[Line], results: Iterable[RejectResult]) -> list[int]:
    """Return rejects that are resolved, and those that a reject of the same SID replaces."""
    return [
        line.id
        for line, result in zip(lines, results, strict=True)
        if result.result in ("loaded", "gone")
        or (result.result == "rejected" and line.sid != result.sid)
    ]


def _note_on_unanswered(results: Sequence[RejectResult]) -> str | None:
    number = sum(result.result == "unanswered" for result in results)
    return (
        f"the API gave no answer for {number} of {len(results)} rejects; they stay open"
        if number
        else None
    )
