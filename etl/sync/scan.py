"""One scan: lease, pages into batches, absences decided about, everything published in one transaction.

    open ─► read (a transaction per batch) ─► decide about deletes (no transaction: asks the API) ─► publish (one transaction)

A crash at any instant leaves the published tables whole: what is staged is either found again by the next run or thrown away.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import NamedTuple

import sqlalchemy as sa
import structlog

from etl import errors
from etl.domain.binding import Key, Reject, Row
from etl.domain.counters import Counters
from etl.domain.guard import Sample, draw_sample
from etl.domain.normalize import Normalizer, split
from etl.domain.rejection import Rejections, refuse_common_reason
from etl.domain.scope import Scope
from etl.sync import spans
from etl.sync.absence import Census, DeleteDecision, Inquiry, decide_deletes, why_unproven
from etl.sync.chain import Batch, Chain
from etl.sync.context import Context, may_skip, rules_for
from etl.sync.listing import read_scope, resume_scope
from etl.sync.outcome import ScanOutcome, sentence
from etl.telemetry.tracing import OFF
from etl.twilio.client import Client
from etl.twilio.paging import Step
from etl.warehouse import absences, leases, ledger, quarantine, services, staging
from etl.warehouse.ledger import Ending, Progress
from etl.warehouse.publishing import Publication, publish_deletes, publish_staged
from etl.warehouse.services import Reading

log = structlog.get_logger()

# After these, going on at the stored link would meet the same again.
_NOT_RESUMABLE = (
    errors.MalformedPage,
    errors.ForeignLink,
    errors.RepeatedLink,
    errors.NotTheApi,
    errors.RequestRefused,
    errors.RowsRejected,
)


class _Rejected(NamedTuple):
    """What a batch put into quarantine."""

    rejects: list[Reject]
    active: list[str]
    """The reasons of those whose binding is active."""


class Scan:
    """One listing of one scope. Used by one thread."""

    def __init__(
        self, context: Context, client: Client, scope: Scope, outcome: ScanOutcome, census: Census
    ) -> None:
        assert context.holder is not None  # noqa: S101 - a dry run uses `Plan`
        self._context = context
        self._warehouse = context.warehouse
        self._engine = context.warehouse.engine
        self._holder = context.holder.for_scan()
        self._client = client
        self._scope = scope
        self._rules = rules_for(context.settings, client, scope)
        self._normalizer = Normalizer(self._rules)
        self._outcome = outcome
        self._counters = outcome.counters
        self._census = census
        self.absent = 0
        self._is_read = False
        self._scan_id = 0
        self._progress = Progress(0, "", 0, 0)
        self._unreadable = 0
        self._seen = Rejections()
        self._witness: str | None = None
        self._is_first_load = False
        self._rank = context.turns.join()
        self._trace = OFF
        self._log = log.bind(
            run_id=self._holder.run_id,
            account=scope.account,
            chat_service_sid=scope.chat_service_sid,
            scope=scope.label,
        )

    def read(self) -> None:
        """Read to the end, and find out what is absent; what came of an error is in the outcome."""
        self._trace = spans.begin_scan(self._context, self._scope)
        try:
            self._context.stop.check()
            self._warehouse.transact(self._open)
        except errors.EtlError as error:
            self._end_unopened(error)
            return
        try:
            self._read()
            self._refuse_common_reason()
            self._take_stock()
            self._is_read = True
        except Exception as error:  # noqa: BLE001 - the one boundary: whatever befalls a service stays with that service
            self._end_badly(error)

    def finish(self) -> None:
        """Decide about the absences and publish; what came of it is in the outcome, also after an error."""
        try:
            if self._is_read:
                self._publish(self._decide_deletes())
        except Exception as error:  # noqa: BLE001 - as above
            self._end_badly(error)
        finally:
            self._outcome.ended = True
            spans.end_scan(self._trace, self._outcome)

    # open

    def _open(self, conn: sa.Connection) -> None:
        lapsed = leases.acquire(conn, self._engine, self._holder, self._scope)
        now = self._engine.now(conn)
        ledger.close_abandoned(
            conn,
            [one.run_id for one in lapsed if one.run_id != self._holder.run_id],
            self._scope,
            now,
        )
        self._scan_id = ledger.start_scan(conn, self._holder.run_id, self._scope, now)
        self._is_first_load = not staging.holds_any(conn, self._scope.chat_service_sid)
        stored = self._find_progress(conn)
        self._outcome.resumed = stored is not None
        self._progress = stored or Progress(self._scan_id, "", 0, 0)
        staging.discard(
            conn, ledger.same_scope_stages(conn, self._scope, besides=self._progress.stage_id)
        )
        # What is stored keeps the age of its last batch, so that a link that always fails grows too old to be tried.
        if stored is None:
            ledger.save_progress(conn, self._scope, self._rules.digest().hex(), self._progress, now)
        elif self._outcome.expected is not None:
            self._outcome.expected = max(0, self._outcome.expected - stored.fetched)

    def _find_progress(self, conn: sa.Connection) -> Progress | None:
        if self._context.request.fresh:
            return None
        horizon = ledger.resume_horizon(
            self._engine.now(conn), self._context.settings.run.resume_within_seconds
        )
        return ledger.find_progress(conn, self._scope, self._rules.digest().hex(), horizon)

    # read

    def _read(self) -> None:
        self._log.info("scan.started", resumed=self._outcome.resumed)
        try:
            self._read_from(self._progress.next_link or None)
        except errors.PageTokenRefused as error:
            if not self._outcome.resumed:
                raise
            self._log.warning("scan.restarted", reason=sentence(error))
            self._warehouse.transact(self._start_over)
            self._read_from(None)

    def _read_from(self, link: str | None) -> None:
        with Chain(lambda: self._steps(link), self._counters, self._context.stop) as chain:
            for batch in chain.batches():
                with self._trace.child("batch", pages=batch.pages, rows=len(batch.rows)):
                    self._commit(batch)
        self._outcome.complete = not (self._outcome.resumed or chain.met_a_page_again)

    def _steps(self, link: str | None) -> Iterator[Step]:
        if link is not None:
            steps = resume_scope(self._client, self._scope, self._counters, link)
        else:
            steps = read_scope(
                self._client,
                self._scope,
                self._counters,
                may_skip=may_skip(self._context, self._client),
            )
        return self._trace.follow("page", steps, spans.of_page)

    def _start_over(self, conn: sa.Connection) -> None:
        leases.renew(conn, self._engine, self._holder, self._scope)
        staging.discard(conn, [self._progress.stage_id])
        self._outcome.resumed = False
        self._progress = Progress(self._scan_id, "", 0, 0)
        ledger.save_progress(
            conn, self._scope, self._rules.digest().hex(), self._progress, self._engine.now(conn)
        )

    def _commit(self, batch: Batch) -> None:
        keys, unreadable = self._normalizer.keys(batch.rows)
        progress = replace(
            self._progress,
            # The last batch does not move the link: should the process die before it publishes, these pages are read again.
            next_link=batch.next_link or self._progress.next_link,
            pages=self._progress.pages + batch.pages,
            fetched=self._progress.fetched + len(batch.rows),
        )
        with self._turn():
            rejects, active = self._transact_once(
                progress, lambda conn: self._stage(conn, keys.values(), unreadable, progress)
            )
        self._progress = progress
        self._unreadable += len(unreadable)
        self._witness = next(reversed(keys), self._witness)
        self._counters.rejected += len(unreadable) + len(rejects)
        reasons = [one.reason for one in (*unreadable, *rejects)]
        self._seen = self._seen.plus(len(keys) - len(rejects), reasons, active)
        self._log.debug(
            "batch.committed",
            pages=batch.pages,
            rows=len(batch.rows),
            rejected=len(unreadable) + len(rejects),
        )

    def _turn(self) -> AbstractContextManager[None]:
        """Where all rows are new, the program's own work is what takes time; elsewhere it waits for the warehouse's answers."""
        return self._context.turns.turn(self._rank) if self._is_first_load else nullcontext()

    def _transact_once(
        self, progress: Progress, work: Callable[[sa.Connection], _Rejected]
    ) -> _Rejected:
        """A batch whose commit went through while the answer to it was lost must not be put by twice."""

        def unless_done(conn: sa.Connection) -> _Rejected:
            # The lease comes first: a stage that is gone may have been published by whoever took it.
            leases.renew(conn, self._engine, self._holder, self._scope)
            done = ledger.require_progress(conn, progress.stage_id) >= progress.pages
            return _Rejected([], []) if done else work(conn)

        return self._warehouse.transact(unless_done)

    def _stage(
        self,
        conn: sa.Connection,
        keys: Collection[Key],
        unreadable: Sequence[Reject],
        progress: Progress,
    ) -> _Rejected:
        fitting, too_long = staging.split_by_room(conn, keys)
        rows, (rejects, active), passed_over = self._shape_differing(conn, fitting)
        sids = [key.sid for key in keys]
        if passed_over:  # what a dated scan did not ask for counts as not met
            sids = [sid for sid in sids if sid not in passed_over]
        staging.stage_batch(conn, self._engine, progress.stage_id, progress.pages, sids, rows)
        now = self._engine.now(conn)
        rejects += too_long
        quarantine.record(conn, self._holder.run_id, self._scope, [*unreadable, *rejects], now)
        ledger.move_progress(conn, progress, now)
        return _Rejected(rejects, active)

    def _shape_differing(
        self, conn: sa.Connection, keys: Collection[Key]
    ) -> tuple[list[Row], _Rejected, set[str]]:
        """Only rows whose bytes are not those of last time are looked into; then their content decides, and the dates asked for.

        Gives the rows to stage, the rejects, and the SIDs of rows that changed and were not asked for.
        """
        if not keys:
            return [], _Rejected([], []), set()
        # In a first load there is nothing to compare with, and asking costs as much as staging. Should a SID be stored all the same,
        # under another service, publishing finds it: it counts by what is stored then.
        stored = (
            staging.take_all_for_new(keys)
            if self._is_first_load
            else staging.find_differing(conn, self._engine, keys)
        )
        shaped, rejects = split(self._normalizer.shape(key) for key in keys if key.sid in stored)
        active = [one.reason for one in rejects if one.sid and stored[one.sid].active]
        changed = [
            row
            for row in shaped
            if not (stored[row.sid].active and stored[row.sid].content_hash == row.content_hash)
        ]
        passed_over = (
            {row.sid for row in changed if not self._scope.holds(row.date_updated)}
            if self._scope.dated
            else set()
        )
        return (
            [row for row in changed if row.sid not in passed_over] if passed_over else changed,
            _Rejected(rejects, active),
            passed_over,
        )

    # decide about deletes

    def _refuse_common_reason(self) -> None:
        if not self._seen.may_be_one_fault:
            return
        active = self._warehouse.read(
            lambda conn: staging.count_in_scope(conn, self._scope, self._stored_identities)
        )
        refuse_common_reason(self._seen, active, whole=not self._outcome.resumed)

    def _take_stock(self) -> None:
        self._outcome.kept = why_unproven(
            self._scope,
            self._stored_identities,
            resumed=self._outcome.resumed,
            complete=self._outcome.complete,
            unreadable=self._unreadable,
        )
        absent, active = self._warehouse.transact(self._list_absent)
        self._census.measure(absent, active, self._witness)
        self.absent = absent

    def _decide_deletes(self) -> DeleteDecision:
        decision = decide_deletes(
            Inquiry(
                self._client,
                self._scope,
                self._counters,
                self._context.stop,
                self._witness or self._census.witness,
            ),
            self._context.settings.deletes,
            self.absent,
            self._census,
            lambda: self._warehouse.transact(self._draw_absent),
            allow_mass_delete=self._context.request.allow_mass_delete,
        )
        self._outcome.kept = self._outcome.kept or decision.kept
        if decision.refused:
            self._log.warning("deletes.refused", reason=decision.refused)
        elif self._outcome.kept:
            self._log.info("deletes.unproven", reason=self._outcome.kept)
        if decision.alive or decision.unknown:
            self._take_back(decision)
        return decision

    @property
    def _stored_identities(self) -> list[str]:
        """The scope's identities as the warehouse holds them; none when privacy drops them, and then none can be absent."""
        treated = (
            self._rules.treat(self._rules.identity, identity) for identity in self._scope.identities
        )
        return [identity for identity in treated if identity is not None]

    def _list_absent(self, conn: sa.Connection) -> tuple[int, int]:
        leases.renew(conn, self._engine, self._holder, self._scope)
        absent = 0
        if self._outcome.kept is None:
            absent = absences.list_absent(
                conn, self._engine, self._scope, self._stored_identities, self._progress.stage_id
            )
        is_asked_for = absent or (self._census.parts > 1 and not self._is_first_load)
        return absent, staging.count_active(
            conn, self._scope.chat_service_sid
        ) if is_asked_for else 0

    def _draw_absent(self, conn: sa.Connection) -> Sample:
        """Asked about is what still stands: another part may have published since the list was made."""
        leases.renew(conn, self._engine, self._holder, self._scope)
        stage_id = self._progress.stage_id
        absences.drop_outdated(conn, self._scope, self._stored_identities, stage_id)
        listed = absences.iterate(conn, stage_id)
        return draw_sample(listed, self._context.settings.deletes.confirm_limit)

    def _take_back(self, decision: DeleteDecision) -> None:
        """What is alive is published as read; what is unknown stays as it is, for the next run."""
        alive, _ = self._normalizer.keys(list(decision.alive))
        progress = replace(self._progress, pages=self._progress.pages + 1)

        def take_back(conn: sa.Connection) -> _Rejected:
            absences.drop(conn, progress.stage_id, [*alive, *decision.unknown])
            return self._stage(conn, alive.values(), [], progress)

        rejects, _ = self._transact_once(progress, take_back)
        self._counters.rejected += len(rejects)
        self._log.info("absences.taken_back", alive=len(alive), unknown=len(decision.unknown))

    # publish

    def _publish(self, decision: DeleteDecision) -> None:
        self._outcome.status = "refused" if decision.refused else "published"
        self._outcome.error = errors.DeletesRefused(decision.refused) if decision.refused else None
        with self._trace.child("publish"):
            counted = self._warehouse.transact(lambda conn: self._publish_in(conn, decision))
        vars(self._counters).update(vars(counted))
        self._log.info(
            f"scan.{self._outcome.status}", complete=self._outcome.complete, **vars(counted)
        )

    def _publish_in(self, conn: sa.Connection, decision: DeleteDecision) -> Counters:
        if (counted := ledger.find_publication(conn, self._scan_id)) is not None:
            return counted
        leases.enter_gate(conn, self._engine, self._scope.chat_service_sid)
        leases.renew(conn, self._engine, self._holder, self._scope)
        now = self._engine.now(conn)
        stage_id = self._progress.stage_id
        ledger.require_progress(conn, stage_id)
        order = Publication(
            self._holder.run_id, stage_id, self._scope, self._stored_identities, now
        )
        met, repeated = staging.count_met(conn, self._engine, stage_id)
        if repeated:
            staging.drop_superseded(conn, self._engine, stage_id)
        changes = publish_staged(conn, self._engine, order)
        mode = self._context.settings.deletes.mode
        deleted = publish_deletes(conn, order, mode) if decision.deletes and mode != "ignore" else 0
        quarantine.resolve(
            conn,
            self._engine,
            self._holder.run_id,
            self._scope,
            stage_id,
            now,
            complete=self._outcome.complete,
        )
        rejected = quarantine.count_rejected(conn, self._engine, self._scope, stage_id)
        unchanged = max(0, met - sum(changes) - rejected)
        counted = replace(self._counters, **changes._asdict(), deleted=deleted, unchanged=unchanged)
        outdated = ledger.overlapping_stages(conn, self._scope, besides=stage_id)
        if outdated:
            self._log.warning("scan.outdated", stages=len(outdated))
        staging.discard(conn, [stage_id, *outdated])
        ledger.finish_scan(conn, self._scan_id, self._ending(counted), now)
        held = self.absent - len(decision.alive) if decision.refused else 0
        reading = Reading(self._scope, now, self._outcome.complete, held)
        services.record_reading(conn, reading, changed=any(changes) or deleted != 0)
        leases.release(conn, self._holder, self._scope)
        return counted

    def _ending(self, counters: Counters) -> Ending:
        outcome = self._outcome
        return Ending(
            status=outcome.status,
            counters=counters,
            error=sentence(outcome.error) if outcome.error else outcome.kept,
            complete=outcome.complete,
            resumed=outcome.resumed,
            twilio_request_id=getattr(outcome.error, "request_id", None),
        )

    # when it does not go well

    def _end_unopened(self, error: errors.EtlError) -> None:
        self._note(error)
        if isinstance(error, errors.LeaseHeld):
            self._try_to_write(self._write_unopened)

    def _write_unopened(self, conn: sa.Connection) -> None:
        now = self._engine.now(conn)
        scan_id = ledger.start_scan(conn, self._holder.run_id, self._scope, now)
        ledger.finish_scan(conn, scan_id, self._ending(self._counters), now)

    def _end_badly(self, error: Exception) -> None:
        self._outcome.complete = False
        self._note(error)
        self._try_to_write(
            lambda conn: self._write_bad_end(conn, resumable=not isinstance(error, _NOT_RESUMABLE)),
            once=isinstance(error, errors.WarehouseUnreachable),
        )

    def _write_bad_end(self, conn: sa.Connection, *, resumable: bool) -> None:
        leases.enter_gate(conn, self._engine, self._scope.chat_service_sid)
        if self._still_holds_lease(conn):  # else another run may be going on with this stage
            if not resumable:
                staging.discard(conn, [self._progress.stage_id])
            self._record_answers(conn)
            leases.release(conn, self._holder, self._scope)
        ledger.finish_scan(
            conn, self._scan_id, self._ending(self._counters), self._engine.now(conn)
        )

    def _record_answers(self, conn: sa.Connection) -> None:
        """A type that the server does not know is read with that; and what gave a page exists."""
        skipped = self._outcome.status == "skipped"
        if skipped or self._counters.pages:
            reading = Reading(self._scope, self._engine.now(conn), complete=skipped)
            services.record_reading(conn, reading, changed=False)

    def _still_holds_lease(self, conn: sa.Connection) -> bool:
        try:
            leases.renew(conn, self._engine, self._holder, self._scope)
        except errors.LeaseLost:
            return False
        return True

    def _try_to_write(self, work: Callable[[sa.Connection], None], *, once: bool = False) -> None:
        """The warehouse itself may be what failed; then the lease runs out and the next run tidies up."""
        try:
            self._warehouse.transact(work, once=once)
        except errors.EtlError as error:
            self._log.warning("ledger.unwritten", reason=sentence(error))

    def _note(self, error: Exception) -> None:
        self._outcome.error = error
        self._outcome.status = self._status_of(error)
        report = (
            self._log.info
            if self._outcome.status in ("interrupted", "skipped")
            else self._log.error
        )
        report(
            f"scan.{self._outcome.status}",
            error=type(error).__name__,
            message=sentence(error),
            twilio_request_id=getattr(error, "request_id", None),
        )
        self._log.debug("scan.traceback", exc_info=error)

    @staticmethod
    def _status_of(error: Exception) -> str:
        if isinstance(error, errors.Interrupted):
            return "interrupted"
        if isinstance(error, errors.LeaseHeld | errors.LeaseLost):
            return "locked"
        return "skipped" if isinstance(error, errors.TypeUnknown) else "failed"
