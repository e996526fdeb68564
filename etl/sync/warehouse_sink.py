"""A scan's way into the warehouse: each batch staged in a transaction, all published in one.

A crash at any instant leaves the published tables whole: what is staged is either resumed by the
next run or thrown away.
"""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from datetime import datetime
from typing import ClassVar, TypeVar

import sqlalchemy as sa
import structlog
from msgspec.structs import replace

from etl import errors
from etl.domain.binding import HashedRow, Reject
from etl.domain.chains import ChainStart, PageLink
from etl.domain.counters import Counters
from etl.domain.guard import Sample, draw_sample
from etl.domain.normalize import Normalizer
from etl.domain.rejection import Rejections
from etl.domain.scope import Scope
from etl.domain.status import ScanStatus
from etl.sync.compare import compare
from etl.sync.context import Context
from etl.sync.drift import DriftWatch
from etl.sync.prefetch import Batch
from etl.sync.session import ScanSession
from etl.sync.steps import Absences, DeleteDecision, Kept, Opened, Reading, StoredChain
from etl.sync.stored_chains import encode_keys, find_chains
from etl.warehouse import absences, leases, ledger, page_links, quarantine, services, staging
from etl.warehouse.ledger import Ending, Progress, Published
from etl.warehouse.publishing import (
    Changes,
    Publication,
    Publishing,
    publish_deletes,
    publish_staged,
)
from etl.warehouse.tables import STAGE, scan_absent, scan_staged

T = TypeVar("T")

log = structlog.get_logger()

# After these, resuming at the stored link would meet the same again.
_NOT_RESUMABLE = (
    errors.MalformedPage,
    errors.ForeignLink,
    errors.RepeatedLink,
    errors.NotTheApi,
    errors.RequestRefused,
    errors.RowsRejected,
)


class WarehouseSink:
    """See `Sink`."""

    writes: ClassVar[bool] = True

    def __init__(self, context: Context, normalizer: Normalizer, scope: Scope) -> None:
        assert context.holder is not None  # noqa: S101 - a dry run uses `PreviewSink`
        self._context = context
        self._warehouse = context.warehouse
        self._engine = context.warehouse.engine
        self._session = ScanSession(context.warehouse, context.holder, scope, context.privacy)
        self._normalizer = normalizer
        self._scope = scope
        self._identities = normalizer.stored_identities(scope)
        self._drift = DriftWatch(self._engine, scope, context.holder.run_id, normalizer.drift)
        self._progress = Progress(0, "", 0, 0)
        self._pages = 0
        """Read so far, by all chains; so it numbers the batches in the order in which they came."""
        self._linked = {0}
        self._apart: dict[int, Progress] = {}
        """What was read by chains that are not linked with the first one, each in its own stage."""
        self._is_first_load = False
        self._known: Set[str] = frozenset()
        """Source hashes of what the service held when this was opened."""
        self._is_resumed = False
        """Whether another process has staged some of it: then nobody here knows what there is."""
        self._may_have_staged = False
        self._absent = 0
        self._log = log.bind(run_id=context.holder.run_id, **scope.named)

    # open

    def open(self, most_chains: int) -> Opened:
        chains = self._session.open(
            lambda conn, now: self._resume_or_begin(conn, now, several=most_chains > 1)
        )
        first, stored = self._progress, [self._progress, *self._apart.values()]
        self._pages = max(one.pages for one in stored)
        fetched = sum(one.fetched for one in stored)
        return Opened(first.next_link or None, fetched, first.rows_before, first.rows_read, chains)

    def _resume_or_begin(
        self, conn: sa.Connection, now: datetime, *, several: bool
    ) -> list[StoredChain]:
        service = self._scope.chat_service_sid
        self._known = staging.find_source_hashes(conn, self._engine, service)
        self._is_first_load = not (self._known or staging.holds_any(conn, service))
        stored, chains = self._find_progress(conn, now, several=several)
        self._is_resumed = self._may_have_staged = stored is not None
        # What is stored keeps the age of its last batch, so that a link that always fails grows too
        # old to be tried.
        self._progress = stored or self._save_first_progress(conn, now)
        going_on = [self._progress.stage_id, *self._stages_apart()]
        staging.discard(conn, ledger.same_scope_stages(conn, self._scope, besides=going_on))
        return chains

    def _find_progress(
        self, conn: sa.Connection, now: datetime, *, several: bool
    ) -> tuple[Progress | None, list[StoredChain]]:
        self._apart = {}
        if self._context.request.fresh or self._scope.identities:
            return None, []
        seconds = self._context.settings.run.resume_within_seconds
        horizon = ledger.resume_horizon(now, seconds)
        for one in ledger.find_progress(conn, self._scope, self._normalizer.digest, horizon):
            apart = ledger.find_apart(conn, one.stage_id, horizon) if several else {}
            chains = find_chains(one, apart)
            self._tell_of_damaged(len(apart) - len(chains))
            if one.next_link or chains:
                self._apart = {chain.number: apart[chain.number] for chain in chains}
                return one, chains
        return None, []

    def _tell_of_damaged(self, chains: int) -> None:
        if chains:
            reason = "what is stored of how they began was damaged"
            self._log.warning("chains.dropped", dropped=chains, reason=reason)

    def _save_first_progress(self, conn: sa.Connection, now: datetime) -> Progress:
        progress = Progress(self._session.scan_id, "", 0, 0)
        ledger.insert_progress(conn, self._scope, self._normalizer.digest, progress, now)
        return progress

    def find_links(self, page_size: int) -> Sequence[PageLink]:
        if self._scope.identities:
            return ()
        return self._warehouse.read(lambda conn: page_links.find(conn, self._scope, page_size))

    def start_over(self) -> None:
        def forget(conn: sa.Connection) -> Progress:
            now = self._session.renew(conn)
            # The new one too: it is there when only the answer to this commit was lost.
            known = (self._progress.stage_id, self._session.scan_id, *self._stages_apart())
            staging.discard(conn, known)
            return self._save_first_progress(conn, now)

        self._progress = self._warehouse.transact(forget)
        self._pages, self._linked, self._apart = 0, {0}, {}

    # chains side by side

    def link(self, chains: Sequence[int], start: ChainStart) -> None:
        apart = [self._apart[chain] for chain in chains if chain in self._apart]
        last = self._apart.get(chains[-1])
        progress = replace(
            self._progress,
            next_link=(last and last.next_link) or start.link,
            pages=self._pages,
            fetched=self._progress.fetched + sum(one.fetched for one in apart),
            rows_before=start.rows_before,
            rows_read=last.rows_read if last else 0,
        )
        tries = itertools.count()

        def take_over(conn: sa.Connection) -> None:
            now = self._session.renew(conn)
            ledger.require_progress(conn, progress.stage_id)
            if next(tries) and not any(ledger.is_there(conn, one.stage_id) for one in apart):
                return  # the commit went through, and only the answer to it was lost
            for one in apart:
                ledger.require_progress(conn, one.stage_id)
            staging.move(conn, [one.stage_id for one in apart], into=progress.stage_id)
            ledger.move_progress(conn, progress, now)

        self._warehouse.transact(take_over)
        self._progress = progress
        self._linked.update(chains)
        self._apart = {chain: one for chain, one in self._apart.items() if chain not in chains}

    def drop(self, chain: int) -> None:
        if chain in self._apart:
            stage_id = self._apart.pop(chain).stage_id

            def throw_away(conn: sa.Connection) -> None:
                self._session.renew(conn)  # whoever has taken the lease goes on with this chain
                staging.discard(conn, [stage_id])

            self._warehouse.transact(throw_away)

    def _apart_of(self, chain: int, start: ChainStart | None) -> Progress:
        """Return how far a chain has got that is not linked yet."""
        assert start is not None  # noqa: S101 - only the first chain has none, and it is linked
        stage_id = ledger.stage_apart(self._progress.stage_id, chain)
        keys = encode_keys(start.keys)
        return self._apart.get(chain) or Progress(
            stage_id, "", 0, 0, rows_before=start.rows_before, first_page=keys
        )

    def _stages_apart(self) -> list[int]:
        return [progress.stage_id for progress in self._apart.values()]

    # keep

    def keep(self, batch: Batch) -> Kept:
        hashed, unreadable = self._normalizer.hash_rows(batch.rows)
        is_linked = batch.chain in self._linked
        before = self._progress if is_linked else self._apart_of(batch.chain, batch.start)
        progress = replace(
            before, pages=self._pages + batch.pages, fetched=before.fetched + len(batch.rows)
        )
        # The last batch does not move the link: should the process die before it publishes, these
        # pages are read again. Links by identities name people, and what they list is short: never
        # stored, and read from the start.
        if batch.next_link is not None and not self._scope.identities:
            rows_read = before.rows_read + len(batch.rows)
            progress = replace(progress, next_link=batch.next_link, rows_read=rows_read)
        seen = self._warehouse.transact(
            lambda conn: self._keep(conn, hashed.values(), unreadable, progress)
        )
        self._pages = progress.pages
        if is_linked:
            self._progress = progress
        else:
            self._apart[batch.chain] = progress
        self._drift.tell()
        self._log.debug("batch.committed", pages=batch.pages, rows=len(batch.rows))
        return Kept(len(unreadable), seen, next(reversed(hashed), None))

    def _keep(
        self,
        conn: sa.Connection,
        hashed: Collection[HashedRow],
        unreadable: Sequence[Reject],
        progress: Progress,
    ) -> Rejections:
        # The lease comes first: a stage that is gone may have been published by whoever took it.
        now = self._session.renew(conn)
        is_linked = progress.stage_id == self._progress.stage_id
        stored: int | None = ledger.require_progress(conn, self._progress.stage_id)
        if progress.stage_id in self._stages_apart():
            stored = ledger.require_progress(conn, progress.stage_id)
        elif not is_linked:
            stored = ledger.find_pages(conn, progress.stage_id)
        if stored is not None and stored >= progress.pages:
            return Rejections()  # the commit went through, and only the answer to it was lost
        seen = self._stage(conn, hashed, unreadable, progress, now)
        if is_linked:
            ledger.move_progress(conn, progress, now)
        else:
            ledger.save_progress(conn, self._scope, self._normalizer.digest, progress, now)
        return seen

    def _stage(
        self,
        conn: sa.Connection,
        hashed: Collection[HashedRow],
        unreadable: Sequence[Reject],
        progress: Progress,
        now: datetime,
    ) -> Rejections:
        found = compare(
            conn,
            self._engine,
            self._normalizer,
            hashed,
            self._scope,
            first_load=self._is_first_load,
            known=self._known,
        )
        sids = [one.sid for one in hashed]
        if found.skipped:  # what a dated scan did not ask for does not count as seen
            sids = [sid for sid in sids if sid not in found.skipped]
        self._may_have_staged |= bool(found.changed or found.stale)
        stage_id, number = progress.stage_id, progress.pages
        staging.stage_batch(
            conn, self._engine, stage_id, number, sids, [*found.changed, *found.stale]
        )
        rejects = [*unreadable, *found.rejects]
        quarantine.record(conn, self._session.holder.run_id, self._scope, rejects, now)
        self._drift.record(conn, found.rows_by_form, now)
        return Rejections().plus(
            len(hashed) - len(found.rejects), [one.reason for one in rejects], found.rejected_active
        )

    # what was not seen

    def count_expected(self) -> int:
        return self._warehouse.read(
            lambda conn: staging.count_in_scope(conn, self._scope, self._identities)
        )

    def list_absent(self, *, proven: bool, parts: int) -> Absences:
        def work(conn: sa.Connection) -> Absences:
            self._session.renew(conn)
            return self._list_absent(conn, proven, parts)

        return self._warehouse.transact(work)

    def _list_absent(self, conn: sa.Connection, proven: bool, parts: int) -> Absences:
        absent = 0
        if proven:
            absent = absences.list_absent(
                conn, self._engine, self._scope, self._identities, self._progress.stage_id
            )
        self._absent = absent
        if not absent and (parts == 1 or self._is_first_load):
            return Absences()  # nobody will ask how many are active
        return Absences(absent, staging.count_active(conn, self._scope.chat_service_sid))

    def sample_absent(self, limit: int) -> Sample:
        def draw(conn: sa.Connection) -> Sample:
            """Another part may have published since the list was made."""
            self._session.renew(conn)
            stage_id = self._progress.stage_id
            absences.drop_outdated(conn, self._scope, self._identities, stage_id)
            return draw_sample(absences.iterate(conn, stage_id), limit)

        return self._warehouse.transact(draw)

    # publish

    def publish(self, reading: Reading, decision: DeleteDecision, counters: Counters) -> Published:
        return self._transact_once_only(
            lambda conn, now: self._publish(conn, reading, decision, counters, now)
        )

    def publish_if_none_absent(
        self, reading: Reading, decision: DeleteDecision, counters: Counters, *, proven: bool
    ) -> Published | Absences:
        def work(conn: sa.Connection, now: datetime) -> Published | Absences:
            missed = self._list_absent(conn, proven, parts=1)
            if missed.absent:
                return missed
            return self._publish(conn, reading, decision, counters, now)

        return self._transact_once_only(work)

    def _transact_once_only(self, work: Callable[[sa.Connection, datetime], T]) -> T | Published:
        """Do what may publish, unless it is done already and only the answer was lost."""
        tries = itertools.count()

        def publish(conn: sa.Connection) -> T | Published:
            if next(tries) and (done := ledger.find_publication(conn, self._session.scan_id)):
                return done
            leases.lock_service(conn, self._engine, self._scope.chat_service_sid)
            now = self._session.confirm(conn)
            ledger.require_progress(conn, self._progress.stage_id)
            return work(conn, now)

        done = self._warehouse.transact(publish)
        self._drift.tell()
        return done

    def _publish(
        self,
        conn: sa.Connection,
        reading: Reading,
        decision: DeleteDecision,
        counters: Counters,
        now: datetime,
    ) -> Published:
        rejected = self._take_back(conn, decision, now)
        changes, fields = self._publish_stage(conn, reading, decision, now)
        counted = replace(counters, **changes, rejected=counters.rejected + rejected)
        published = Published(counted, fields)
        self._discard_stages(conn)
        if reading.links is not None and not self._scope.identities:
            page_links.replace(conn, self._scope, self._session.scan_id, reading.links)
        self._session.finish(conn, _ending(reading, decision, published), now)
        self._record_reading(conn, reading, decision, changes, now)
        return published

    def _record_reading(
        self,
        conn: sa.Connection,
        reading: Reading,
        decision: DeleteDecision,
        changes: Mapping[str, int],
        now: datetime,
    ) -> None:
        held = self._absent - len(decision.alive) if decision.refused else 0
        changed = {name for name, number in changes.items() if number} - {"unchanged"}
        loads_only = self._is_first_load and changed == {"inserted"}
        services.record_reading(
            conn,
            services.Reading(self._scope, now, reading.complete, held),
            changed=bool(changed),
            loaded=changes["inserted"] if loads_only else None,
        )
        self._drift.measure(conn, changed=bool(changed))

    def _take_back(self, conn: sa.Connection, decision: DeleteDecision, now: datetime) -> int:
        """Publish the living as the API returned them, and leave the unknown for the next run."""
        if not decision.alive and not decision.unknown:
            return 0
        alive, _ = self._normalizer.hash_rows(list(decision.alive))
        absences.drop(conn, self._progress.stage_id, [*alive, *decision.unknown])
        after_all = replace(self._progress, pages=self._pages + 1)
        seen = self._stage(conn, alive.values(), [], after_all, now)
        self._log.info("absences.taken_back", alive=len(alive), unknown=len(decision.unknown))
        return seen.rejected

    def _publish_stage(
        self, conn: sa.Connection, reading: Reading, decision: DeleteDecision, now: datetime
    ) -> tuple[dict[str, int], Mapping[str, int]]:
        run_id, stage_id = self._session.holder.run_id, self._progress.stage_id
        order = Publication(run_id, stage_id, self._scope, self._identities, now)
        seen, repeated = staging.count_seen(conn, self._engine, stage_id)
        if repeated:
            staging.drop_superseded(conn, self._engine, stage_id)
        changes, fields = Publishing(Changes(), {})
        if self._may_have_staged:
            changes, fields = publish_staged(
                conn, self._engine, order, first_load=self._is_first_load
            )
        mode = self._context.settings.deletes.mode
        deleted = publish_deletes(conn, order, mode) if decision.deletes and mode != "ignore" else 0
        rejected = quarantine.resolve(
            conn, self._engine, run_id, self._scope, stage_id, now, complete=reading.complete
        )
        unchanged = max(0, seen - sum(changes) - rejected)
        return {**changes._asdict(), "deleted": deleted, "unchanged": unchanged}, fields

    def _discard_stages(self, conn: sa.Connection) -> None:
        """Discard this stage, and older ones of interrupted scans of the same service."""
        stage_id = self._progress.stage_id
        outdated = ledger.overlapping_stages(conn, self._scope, besides=stage_id)
        if outdated:
            self._log.warning("scan.outdated", stages=len(outdated))
            staging.discard(conn, outdated)
        used = {
            scan_staged: self._may_have_staged,
            scan_absent: self._absent or self._is_resumed,
        }
        staging.discard(conn, [stage_id], [table for table in STAGE if used.get(table, True)])

    # when it does not go well

    def abandon(self, ending: Ending, cause: Exception) -> None:
        if self._session.is_open:
            stages = [one.stage_id for one in self._apart.values() if not one.next_link]
            if isinstance(cause, _NOT_RESUMABLE):
                stages = [self._progress.stage_id, *self._stages_apart()]
            once = isinstance(cause, errors.WarehouseUnreachable)
            self._session.abandon(ending, discarding=stages, once=once)
        elif ending.status == ScanStatus.LOCKED:
            self._session.note_unopened(ending)

    def close(self) -> None:
        """Do nothing: everything is in the warehouse."""


def _ending(reading: Reading, decision: DeleteDecision, published: Published) -> Ending:
    return Ending(
        status=ScanStatus.REFUSED if decision.refused else ScanStatus.PUBLISHED,
        error=decision.refused or decision.note,
        complete=reading.complete,
        resumed=reading.resumed,
        **published._asdict(),
    )
