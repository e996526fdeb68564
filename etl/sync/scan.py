"""One scan: a listing of one scope, from its first page to what is published.

    opened   = sink.open()                         lease; where to resume
    reading  = read(source, sink, opened)          pages → batches → compared and kept
    absences = sink.list_absent(…)                 what was not seen; if nothing: published as well
    decision = decide_deletes(…)                   guard, the service's other parts, the API's word
    counted  = sink.publish(reading, decision, …)  one transaction, or numbers only

`sync`, `backfill` and a dry run are this same scan with another source or sink.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import structlog
from msgspec.structs import asdict, replace

from etl import errors
from etl.domain.chains import Cut
from etl.domain.normalize import Normalizer
from etl.domain.rejection import refuse_common_reason
from etl.domain.scope import Scope
from etl.domain.status import ScanStatus
from etl.sync import spans
from etl.sync.context import Context, rules_for, skips_unknown_type
from etl.sync.deletes import DeleteBarrier, DeletePolicy, decide_deletes, why_unproven
from etl.sync.lookups import BindingLookup
from etl.sync.outcome import ScanOutcome, sentence
from etl.sync.preview import PreviewSink
from etl.sync.side_by_side import read_side_by_side
from etl.sync.sink import Sink
from etl.sync.source import Source
from etl.sync.steps import Absences, DeleteDecision, Kept, Opened, Reading
from etl.sync.warehouse_sink import WarehouseSink
from etl.telemetry.tracing import OFF, Trace
from etl.twilio.client import Client
from etl.warehouse.ledger import Ending, Published

log = structlog.get_logger()


def read(source: Source, sink: Sink, opened: Opened, trace: Trace) -> Reading:
    """Read a listing to its end into `sink`, from where it was opened or, failing that, anew.

    Raises:
        SourceError: it cannot be read to its end.
        WarehouseError: a batch cannot be kept.
        Interrupted: the run is to stop.
    """
    cut = _find_cut(source, sink, opened)
    if opened.resumed or cut.starts:
        try:
            return _read_from(opened, cut, source, sink, trace)
        except errors.PageTokenRefused as error:
            log.warning("scan.restarted", **source.scope.named, reason=sentence(error))
            sink.start_over()
    return _read_from(Opened(), Cut([], 1), source, sink, trace)


def _find_cut(source: Source, sink: Sink, opened: Opened) -> Cut:
    page_size = source.client.account.page_size
    links = sink.find_links(page_size) if source.most_chains > 1 else ()
    # Stored chains are parts already: what they leave free is cut when they have begun.
    chains = 1 if opened.apart else source.most_chains
    return Cut(links, chains, begin=opened.rows_before + opened.rows_read)


def _read_from(opened: Opened, cut: Cut, source: Source, sink: Sink, trace: Trace) -> Reading:
    if source.most_chains > 1:
        return read_side_by_side(opened, cut, source, sink, trace)
    found = Kept()
    with source.prefetch(opened.link, trace) as pages:
        for batch in pages.batches():
            with trace.child("batch", pages=batch.pages, rows=len(batch.rows)):
                kept = sink.keep(batch)
            found = found.merged(kept)
            source.counters.rejected += kept.rejections.rejected
    complete = not (opened.resumed or pages.saw_a_page_again)
    return Reading(complete, opened.resumed, *found)


class Scan:
    """The steps of one scan, in two halves: all parts of a service are read before any deletes.

    What becomes of an error is decided here and nowhere else: it costs this scan and no other.
    """

    def __init__(
        self,
        context: Context,
        client: Client,
        scope: Scope,
        outcome: ScanOutcome,
        barrier: DeleteBarrier,
    ) -> None:
        self._context = context
        normalizer = Normalizer(rules_for(context.settings, client, scope))
        self._identities = normalizer.stored_identities(scope)
        sink_kind = PreviewSink if context.request.dry_run else WarehouseSink
        self._sink: Sink = sink_kind(context, normalizer, scope)
        self._source = Source(
            client, scope, outcome.counters, context.stop, skips_unknown_type(context, client)
        )
        self._policy = DeletePolicy(context.settings.deletes, context.request.allow_mass_delete)
        self._outcome = outcome
        self._barrier = barrier
        self._trace = OFF
        self._reading: Reading | None = None
        self._absences = Absences()
        self._log = log.bind(
            run_id=context.holder.run_id if context.holder else None, **scope.named
        )

    @property
    def misses_some(self) -> bool:
        """Return whether it did not see bindings that it may delete; known once it is read."""
        return bool(self._absences.absent)

    def read(self) -> None:
        """Read to the end, and find out what is absent; what came of an error is in the outcome."""
        self._trace = spans.begin_scan(self._context, self._source.scope)
        with self._failures_noted():
            self._source.stop.check()
            opened = self._sink.open(self._source.most_chains)
            self._note_opened(opened)
            reading = read(self._source, self._sink, opened, self._trace)
            self._outcome.resumed, self._outcome.complete = reading.resumed, reading.complete
            if reading.rejections.may_be_one_fault:
                expected = self._sink.count_expected()
                refuse_common_reason(reading.rejections, expected, whole=not reading.resumed)
            self._outcome.note = why_unproven(self._source.scope, self._identities, reading)
            self._reading = reading
            if self._barrier.parts > 1:
                parts = self._barrier.parts
                missed = self._sink.list_absent(proven=self._is_proven, parts=parts)
                self._note_absences(reading, missed)

    def finish(self) -> None:
        """Decide about deletes and publish; what came of an error is in the outcome."""
        with self._failures_noted():
            if self._reading is not None and not self._publish_if_none_absent(self._reading):
                self._publish(self._reading, self._decide(self._reading))
        self._sink.close()
        self._outcome.ended = True
        spans.end_scan(self._trace, self._outcome)

    def _note_opened(self, opened: Opened) -> None:
        outcome = self._outcome
        outcome.resumed = opened.resumed
        if outcome.expected is not None:
            outcome.expected = max(0, outcome.expected - opened.fetched)
        self._log.info("scan.started", resumed=outcome.resumed)

    @property
    def _is_proven(self) -> bool:
        """Return whether what was not seen is absent; known once it is read."""
        return self._outcome.note is None

    def _note_absences(self, reading: Reading, absences: Absences) -> None:
        self._absences = absences
        self._barrier.measure(absences, reading.last_sid)

    def _publish_if_none_absent(self, reading: Reading) -> bool:
        """Publish in the transaction that finds nothing absent, where the scan has all parts."""
        if self._barrier.parts > 1:
            return False
        decision, counters = self._decide(reading), self._outcome.counters
        with self._spanned():
            done = self._sink.publish_if_none_absent(
                reading, decision, counters, proven=self._is_proven
            )
        if isinstance(done, Absences):
            self._note_absences(reading, done)
            return False
        self._note_published(decision, done)
        return True

    def _decide(self, reading: Reading) -> DeleteDecision:
        source, barrier = self._source, self._barrier
        listed_sid = reading.last_sid or barrier.last_sid
        decision = decide_deletes(
            self._policy,
            self._absences.absent,
            barrier.total,
            BindingLookup(source.client, source.scope, source.counters, source.stop, listed_sid),
            lambda: self._sink.sample_absent(self._policy.rules.confirm_limit),
        )
        self._outcome.note = self._outcome.note or decision.note
        if decision.refused:
            self._log.warning("deletes.refused", reason=decision.refused)
        elif self._outcome.note:
            self._log.info("deletes.unproven", reason=self._outcome.note)
        return replace(decision, note=self._outcome.note)

    def _publish(self, reading: Reading, decision: DeleteDecision) -> None:
        with self._spanned():
            published = self._sink.publish(reading, decision, self._outcome.counters)
        self._note_published(decision, published)

    def _spanned(self) -> AbstractContextManager[Any]:
        return self._trace.child("publish") if self._sink.writes else nullcontext()

    def _note_published(self, decision: DeleteDecision, published: Published) -> None:
        outcome = self._outcome
        counted, outcome.changed_fields = published
        outcome.counters.assign(counted)
        outcome.status = ScanStatus.PUBLISHED if self._sink.writes else ScanStatus.PLANNED
        if decision.refused:
            outcome.status = ScanStatus.REFUSED
            outcome.error = errors.DeletesRefused(decision.refused)
        self._log.info(f"scan.{outcome.status}", complete=outcome.complete, **asdict(counted))

    @contextmanager
    def _failures_noted(self) -> Iterator[None]:
        """Turn an error in the block into a failed outcome of this scan."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            self._reading = None
            self._outcome.fail(error)
            self._tell_failure(error)
            self._sink.abandon(_ending(self._outcome), error)

    def _tell_failure(self, error: Exception) -> None:
        expected = self._outcome.status in (ScanStatus.INTERRUPTED, ScanStatus.SKIPPED)
        (self._log.info if expected else self._log.error)(
            f"scan.{self._outcome.status}",
            error=type(error).__name__,
            message=sentence(error),
            twilio_request_id=getattr(error, "request_id", None),
        )
        # Its traceback at level debug only: it may quote a row.
        self._log.debug("scan.traceback", exc_info=error)


def _ending(outcome: ScanOutcome) -> Ending:
    return Ending(
        status=outcome.status,
        counters=outcome.counters,
        error=sentence(outcome.error),
        complete=outcome.complete,
        resumed=outcome.resumed,
        twilio_request_id=getattr(outcome.error, "request_id", None),
    )
