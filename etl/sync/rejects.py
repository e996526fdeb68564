"""The quarantine tried again: what the API has of each open reject today, by today's rules.

open ─► ask (no transaction: the API, by SID) ─► publish (one transaction per service), like a scan
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
import structlog

from etl import errors
from etl.config import Settings
from etl.domain.binding import Reject
from etl.domain.counters import Counters
from etl.domain.guard import Absence
from etl.domain.normalize import Normalizer, split
from etl.domain.scope import Scope
from etl.stopping import Stop
from etl.sync.context import Context, Request, rules_for
from etl.sync.outcome import RunOutcome, ScanOutcome, sentence
from etl.sync.run import finish_run, start_run
from etl.twilio.client import Client
from etl.twilio.conversations import look_up_binding
from etl.warehouse import leases, ledger, migration, quarantine, services, staging
from etl.warehouse.connection import open_warehouse
from etl.warehouse.ledger import Ending
from etl.warehouse.publishing import Publication, publish_staged
from etl.warehouse.quarantine import Line
from etl.warehouse.services import Reading
from etl.warehouse.staging import Stored

log = structlog.get_logger()

MODE = "retry"

# So many bindings are asked for between two renewals of the lease.
_ASKED_AT_ONCE = 200

# Nothing was listed here whose answer could show what a 404 without a word is worth.
_UNANSWERED = (Absence.UNKNOWN, Absence.WORDLESS)

_Answers = Mapping[str, tuple[Absence, bytes]]


@dataclass(frozen=True)
class Verdict:
    """What became of one open reject."""

    id: int
    sid: str | None
    result: Literal["loaded", "gone", "rejected", "unanswered"]
    reason: str | None = None


@dataclass
class Retried(ScanOutcome):
    """What came of the open rejects of one service."""

    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def unanswered(self) -> bool:
        """Whether the API said nothing of some."""
        return any(verdict.result == "unanswered" for verdict in self.verdicts)

    def as_json(self) -> dict[str, Any]:
        """The contract's object of one service, and each of its rejects."""
        return {**super().as_json(), "rejects": [asdict(verdict) for verdict in self.verdicts]}


def retry(
    settings: Settings, services: Sequence[str], stop: Stop
) -> tuple[RunOutcome, list[Retried]]:
    """Try the open rejects of these services, or of all, again.

    Raises:
        WarehouseError: the warehouse cannot be reached or is not at the newest revision; nothing was done.
    """
    warehouse = open_warehouse(settings.warehouse, settings.retry, stop, settings.run.lease_seconds)
    started_at = datetime.now(UTC)
    try:
        warehouse.read(migration.require_head)
        lines = warehouse.read(lambda conn: quarantine.read_open(conn, services))
        places = dict.fromkeys(Scope(line.account, line.chat_service_sid) for line in lines)
        request = Request(MODE)
        holder = start_run(settings, request, warehouse) if places else None
        context = Context(settings, request, warehouse, stop, holder)
        retried = [_retry_place(context, scope) for scope in places]
        outcome = RunOutcome(
            run_id=holder.run_id if holder else None,
            mode=MODE,
            started_at=started_at,
            finished_at=datetime.now(UTC),
            dry_run=False,
            scans=retried,
            stopped=stop.requested,
            stopped_exit_code=stop.exit_code,
        )
        finish_run(warehouse, outcome)
    finally:
        warehouse.close()
    return outcome, retried


def _retry_place(context: Context, scope: Scope) -> Retried:
    retried = Retried(scope)
    account = next(
        (account for account in context.settings.accounts if account.name == scope.account), None
    )
    if account is None:
        retried.status = "failed"
        retried.error = errors.ConfigurationError(
            f"the account {scope.account} is not configured any more; discard its rejects"
        )
        return retried
    client = Client(account, context.settings.retry, context.stop)
    try:
        _Retrial(context, client, retried).execute()
    finally:
        client.close()
    return retried


class _Published(NamedTuple):
    counters: Counters
    verdicts: list[Verdict]


class _Retrial:
    """The open rejects of one service."""

    def __init__(self, context: Context, client: Client, retried: Retried) -> None:
        assert context.holder is not None  # noqa: S101 - a retry always holds leases
        self._warehouse = context.warehouse
        self._engine = context.warehouse.engine
        self._holder = context.holder.for_scan()
        self._client = client
        self._stop = context.stop
        self._retried = retried
        self._scope = retried.scope
        self._normalizer = Normalizer(rules_for(context.settings, client, retried.scope))
        self._scan_id = 0
        self._log = log.bind(
            run_id=self._holder.run_id,
            account=self._scope.account,
            chat_service_sid=self._scope.chat_service_sid,
        )

    def execute(self) -> None:
        """Do it all; what came of it is in the outcome, also after an error."""
        try:
            self._stop.check()
            lines = self._warehouse.transact(self._open)
        except errors.EtlError as error:
            self._note(error)
            return
        try:
            sids = {line.id: line.sid or self._read_sid(line.payload) for line in lines}
            answers = self._ask_for([sid for sid in dict.fromkeys(sids.values()) if sid])
            self._publish(lines, sids, answers)
        except Exception as error:  # noqa: BLE001 - the one boundary: whatever befalls a service stays with that service
            self._note(error)
            self._end_badly()

    def _open(self, conn: sa.Connection) -> list[Line]:
        lapsed = leases.acquire(conn, self._engine, self._holder, self._scope)
        now = self._engine.now(conn)
        ledger.close_abandoned(
            conn,
            [one.run_id for one in lapsed if one.run_id != self._holder.run_id],
            self._scope,
            now,
        )
        self._scan_id = ledger.start_scan(conn, self._holder.run_id, self._scope, now)
        lines = quarantine.read_open(conn, [self._scope.chat_service_sid])
        return [line for line in lines if line.account == self._scope.account]

    def _read_sid(self, payload: str) -> str | None:
        """The SID that today's program reads where an earlier one could not."""
        keys, _ = self._normalizer.keys([payload.encode()])
        return next(iter(keys), None)

    def _ask_for(self, sids: Sequence[str]) -> _Answers:
        answers: dict[str, tuple[Absence, bytes]] = {}
        for some in _portions(sids):
            answers.update(self._ask_at_once(some))
            self._warehouse.transact(
                lambda conn: leases.renew(conn, self._engine, self._holder, self._scope)
            )
        if answers and all(absence in _UNANSWERED for absence, _ in answers.values()):
            raise errors.SourceError(
                f"the API answered for none of {len(answers)} rejects; run `bindings-etl check` to see why"
            )
        return answers

    def _ask_at_once(self, sids: Sequence[str]) -> _Answers:
        pool = ThreadPoolExecutor(self._client.account.concurrency, "retry")
        try:
            asked = [
                pool.submit(look_up_binding, self._client, self._scope, sid, self._retried.counters)
                for sid in sids
            ]
            while wait(asked, timeout=0.25).not_done:
                self._stop.check()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return {sid: answer.result() for sid, answer in zip(sids, asked, strict=True)}

    def _publish(
        self, lines: Sequence[Line], sids: Mapping[int, str | None], answers: _Answers
    ) -> None:
        published = self._warehouse.transact(
            lambda conn: self._publish_in(conn, lines, sids, answers)
        )
        retried = self._retried
        retried.status, retried.counters, retried.verdicts = (
            "published",
            published.counters,
            published.verdicts,
        )
        self._log.info("rejects.retried", **vars(published.counters))

    def _publish_in(
        self,
        conn: sa.Connection,
        lines: Sequence[Line],
        sids: Mapping[int, str | None],
        answers: _Answers,
    ) -> _Published:
        leases.enter_gate(conn, self._engine, self._scope.chat_service_sid)
        leases.renew(conn, self._engine, self._holder, self._scope)
        now = self._engine.now(conn)
        alive = [row for absence, row in answers.values() if absence is Absence.ALIVE]
        rejects = [
            reject
            for batch, some in enumerate(_portions(alive))
            for reject in self._stage(conn, batch, some, now)
        ]
        changes = publish_staged(
            conn,
            self._engine,
            Publication(self._holder.run_id, self._scan_id, self._scope, (), now),
        )
        # What an interrupted scan has staged of this service is older than what is published here.
        outdated = ledger.overlapping_stages(conn, self._scope) if any(changes) else []
        staging.discard(conn, [self._scan_id, *outdated])
        verdicts = _judge(lines, sids, answers, {reject.sid: reject.reason for reject in rejects})
        quarantine.close(conn, _to_be_closed(lines, verdicts), now)
        counted = replace(
            self._retried.counters,
            fetched=len(alive),
            unchanged=len(alive) - len(rejects) - sum(changes),
            rejected=sum(verdict.result == "rejected" for verdict in verdicts),
            **changes._asdict(),
        )
        ledger.finish_scan(
            conn,
            self._scan_id,
            Ending("published", counted, error=_note_on_unanswered(verdicts)),
            now,
        )
        services.record_reading(conn, Reading(self._scope, now), changed=any(changes))
        leases.release(conn, self._holder, self._scope)
        return _Published(counted, verdicts)

    def _stage(
        self, conn: sa.Connection, batch: int, raws: Sequence[bytes], now: datetime
    ) -> list[Reject]:
        keys, _ = self._normalizer.keys(list(raws))
        fitting, too_long = staging.split_by_room(conn, keys.values())
        stored = staging.find_differing(conn, self._engine, fitting)
        rows, rejects = split(self._normalizer.shape(key) for key in fitting if key.sid in stored)
        rejects += too_long
        changed = [row for row in rows if stored[row.sid] != Stored(row.content_hash, active=True)]
        staging.stage_batch(conn, self._engine, self._scan_id, batch, list(keys), changed)
        quarantine.record(conn, self._holder.run_id, self._scope, rejects, now)
        return rejects

    # when it does not go well

    def _end_badly(self) -> None:
        try:
            self._warehouse.transact(self._write_bad_end)
        except errors.EtlError as error:
            self._log.warning("ledger.unwritten", reason=sentence(error))

    def _write_bad_end(self, conn: sa.Connection) -> None:
        ending = Ending(
            self._retried.status, self._retried.counters, error=sentence(self._retried.error)
        )
        ledger.finish_scan(conn, self._scan_id, ending, self._engine.now(conn))
        leases.release(conn, self._holder, self._scope)

    def _note(self, error: Exception) -> None:
        self._retried.error = error
        self._retried.status = _status_of(error)
        self._log.error("rejects.unretried", error=type(error).__name__, message=sentence(error))
        self._log.debug("rejects.traceback", exc_info=error)


def _status_of(error: Exception) -> str:
    if isinstance(error, errors.Interrupted):
        return "interrupted"
    return "locked" if isinstance(error, errors.LeaseHeld | errors.LeaseLost) else "failed"


def _judge(
    lines: Iterable[Line],
    sids: Mapping[int, str | None],
    answers: _Answers,
    reasons: Mapping[str | None, str],
) -> list[Verdict]:
    return [_judge_line(line, sids[line.id], answers, reasons) for line in lines]


def _judge_line(
    line: Line, sid: str | None, answers: _Answers, reasons: Mapping[str | None, str]
) -> Verdict:
    if sid is None:
        return Verdict(line.id, None, "rejected", line.reason)
    absence, _ = answers[sid]
    if absence is Absence.GONE:
        return Verdict(line.id, sid, "gone")
    if absence in _UNANSWERED:
        return Verdict(line.id, sid, "unanswered", line.reason)
    return (
        Verdict(line.id, sid, "rejected", reasons[sid])
        if sid in reasons
        else Verdict(line.id, sid, "loaded")
    )


def _to_be_closed(lines: Iterable[Line], verdicts: Iterable[Verdict]) -> list[int]:
    """Lines of bindings that are loaded or gone; and those that go on as a line of their SID, now that it can be read."""
    return [
        line.id
        for line, verdict in zip(lines, verdicts, strict=True)
        if verdict.result in ("loaded", "gone")
        or (verdict.result == "rejected" and line.sid != verdict.sid)
    ]


def _note_on_unanswered(verdicts: Sequence[Verdict]) -> str | None:
    number = sum(verdict.result == "unanswered" for verdict in verdicts)
    return (
        f"the API gave no answer for {number} of {len(verdicts)} rejects; they stay open"
        if number
        else None
    )


def _portions(many: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(many), _ASKED_AT_ONCE):
        yield many[start : start + _ASKED_AT_ONCE]
