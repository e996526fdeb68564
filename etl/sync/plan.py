"""A dry run of one scope: reads and compares like a scan, and writes nothing at all.

What was met is kept in a scratch database that vanishes with the run, so that the warehouse is only read and memory stays flat.
"""

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import msgspec
import sqlalchemy as sa
import structlog

from etl import errors
from etl.domain.binding import Key
from etl.domain.counters import Counters
from etl.domain.guard import draw_sample
from etl.domain.normalize import Normalizer, split
from etl.domain.rejection import Rejections, refuse_common_reason
from etl.domain.scope import Scope
from etl.sync import spans
from etl.sync.absence import Census, Inquiry, decide_deletes, why_unproven
from etl.sync.chain import Batch, Chain
from etl.sync.context import Context, may_skip, rules_for
from etl.sync.listing import read_scope
from etl.sync.outcome import ScanOutcome, sentence
from etl.telemetry.tracing import OFF
from etl.twilio.client import Client
from etl.twilio.paging import Step
from etl.warehouse import staging
from etl.warehouse.publishing import count_taken_out

log = structlog.get_logger()


class Plan:
    """What a scan of this scope would insert, update and delete. Used by one thread."""

    def __init__(
        self, context: Context, client: Client, scope: Scope, outcome: ScanOutcome, census: Census
    ) -> None:
        self._context = context
        self._warehouse = context.warehouse
        self._client = client
        self._scope = scope
        self._rules = rules_for(context.settings, client, scope)
        self._normalizer = Normalizer(self._rules)
        self._outcome = outcome
        self._counters = outcome.counters
        self._census = census
        self.absent = 0
        self._is_read = False
        self._met: _Scratch
        self._unreadable = 0
        self._trace = OFF
        self._seen = Rejections()
        self._witness: str | None = None

    def read(self) -> None:
        """Read to the end, and find out what is absent; what came of an error is in the outcome."""
        self._met = _Scratch()
        self._trace = spans.begin_scan(self._context, self._scope)
        try:
            self._read()
            self._refuse_common_reason()
            self._take_stock()
            self._is_read = True
        except Exception as error:  # noqa: BLE001 - the one boundary: whatever befalls a service stays with that service
            self._end_badly(error)

    def finish(self) -> None:
        """Decide about the absences; what came of it is in the outcome, also after an error."""
        try:
            if self._is_read:
                self._decide_deletes()
        except Exception as error:  # noqa: BLE001 - as above
            self._end_badly(error)
        finally:
            self._met.close()
            self._outcome.ended = True
            spans.end_scan(self._trace, self._outcome)

    def _end_badly(self, error: Exception) -> None:
        self._outcome.complete = False
        self._outcome.error = error
        self._outcome.status = _status_of(error)
        # Its traceback at level debug only: it may quote a row.
        log.error(
            "plan.failed", chat_service_sid=self._scope.chat_service_sid, message=sentence(error)
        )
        log.debug("plan.traceback", exc_info=error)

    def _read(self) -> None:
        skipping = may_skip(self._context, self._client)

        def steps() -> Iterator[Step]:
            read = read_scope(self._client, self._scope, self._counters, may_skip=skipping)
            return self._trace.follow("page", read, spans.of_page)

        with Chain(steps, self._counters, self._context.stop) as chain:
            for batch in chain.batches():
                with self._trace.child("batch", pages=batch.pages, rows=len(batch.rows)):
                    self._compare(batch)
        self._outcome.complete = not chain.met_a_page_again

    def _compare(self, batch: Batch) -> None:
        keys, unreadable = self._normalizer.keys(batch.rows)
        first_met = self._met.add(keys)
        fresh = [keys[sid] for sid in first_met]
        self._unreadable += len(unreadable)
        self._witness = next(reversed(keys), self._witness)
        self._counters.rejected += len(unreadable)
        self._seen = self._seen.plus(0, [one.reason for one in unreadable], [])
        if fresh:
            self._warehouse.read(lambda conn: self._classify(conn, fresh))

    def _classify(self, conn: sa.Connection, keys: Collection[Key]) -> None:
        keys, too_long = staging.split_by_room(conn, keys)
        stored = staging.find_differing(conn, self._warehouse.engine, keys)
        rows, rejects = split(self._normalizer.shape(key) for key in keys if key.sid in stored)
        counted = Counters(rejected=len(rejects) + len(too_long), unchanged=len(keys) - len(stored))
        new = set()
        for row in rows:
            known = stored[row.sid]
            if known.active and known.content_hash == row.content_hash:
                counted.unchanged += 1
            elif not self._scope.holds(row.date_updated):
                continue
            elif known.content_hash is None:
                new.add(row.sid)
            elif known.active:
                counted.updated += 1
            else:
                counted.restored += 1
        returned = count_taken_out(
            conn, self._warehouse.engine, [key for key in keys if key.sid in new]
        )
        counted.inserted = len(new) - returned
        counted.restored += returned
        reasons = [one.reason for one in (*rejects, *too_long)]
        active = [one.reason for one in rejects if one.sid and stored[one.sid].active]
        self._seen = self._seen.plus(len(keys) - len(rejects), reasons, active)
        self._counters.add(counted)  # at the end: a lost connection lets all of this be done again

    @property
    def _stored_identities(self) -> list[str]:
        treated = (
            self._rules.treat(self._rules.identity, identity) for identity in self._scope.identities
        )
        return [identity for identity in treated if identity is not None]

    def _refuse_common_reason(self) -> None:
        if self._seen.may_be_one_fault:
            active = self._warehouse.read(
                lambda conn: staging.count_in_scope(conn, self._scope, self._stored_identities)
            )
            refuse_common_reason(self._seen, active, whole=True)

    def _take_stock(self) -> None:
        self._outcome.status = "published"
        self._outcome.kept = why_unproven(
            self._scope,
            self._stored_identities,
            resumed=False,
            complete=self._outcome.complete,
            unreadable=self._unreadable,
        )
        if self._outcome.kept is None:
            absent, active = self._warehouse.read(self._list_absent)
            self._census.measure(absent, active, self._witness)
            self.absent = absent

    def _decide_deletes(self) -> None:
        rules = self._context.settings.deletes
        decision = decide_deletes(
            Inquiry(
                self._client,
                self._scope,
                self._counters,
                self._context.stop,
                self._witness or self._census.witness,
            ),
            rules,
            self.absent,
            self._census,
            lambda: draw_sample(self._met.absent(), rules.confirm_limit),
            allow_mass_delete=self._context.request.allow_mass_delete,
        )
        self._outcome.kept = self._outcome.kept or decision.kept
        if decision.refused:
            self._outcome.status, self._outcome.error = (
                "refused",
                errors.DeletesRefused(decision.refused),
            )
        if decision.deletes:
            self._counters.deleted = self.absent - len(decision.alive) - len(decision.unknown)
        if alive := self._normalizer.keys(list(decision.alive))[0]:
            self._warehouse.read(lambda conn: self._classify(conn, list(alive.values())))

    def _list_absent(self, conn: sa.Connection) -> tuple[int, int]:
        self._met.forget_absent()  # when a lost connection lets all of this be done again
        absent = sum(
            self._met.list_lacking(sids)
            for sids in staging.iterate_active(conn, self._scope, self._stored_identities)
        )
        return absent, staging.count_active(conn, self._scope.chat_service_sid)


def _status_of(error: Exception) -> str:
    if isinstance(error, errors.Interrupted):
        return "interrupted"
    return "skipped" if isinstance(error, errors.TypeUnknown) else "failed"


@contextmanager
def _telling_of_the_folder() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as cause:
        raise errors.ScratchUnusable(
            "the temporary folder cannot hold what the dry run has met "
            f"({getattr(cause, 'sqlite_errorname', type(cause).__name__)}): "
            "make room there, or name another folder in the environment variable SQLITE_TMPDIR"
        ) from cause


class _Scratch:
    """What a dry run has met, and what it has not, on disk."""

    def __init__(self) -> None:
        # The empty name is SQLite's for a private file in the temporary folder, removed when it is closed.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute("CREATE TABLE met (sid TEXT PRIMARY KEY) WITHOUT ROWID")
        self._db.execute("CREATE TABLE absent (sid TEXT PRIMARY KEY) WITHOUT ROWID")

    def close(self) -> None:
        """It vanishes."""
        self._db.close()

    @_telling_of_the_folder()
    def add(self, sids: dict[str, Key]) -> list[str]:
        """Remember SIDs; gives those that are new."""
        added = self._db.execute(
            "INSERT INTO met SELECT value FROM json_each(?) WHERE true ON CONFLICT DO NOTHING RETURNING sid",
            (msgspec.json.encode(list(sids)),),
        )
        return [sid for (sid,) in added]

    @_telling_of_the_folder()
    def list_lacking(self, sids: Sequence[str]) -> int:
        """Remember which of these were not met; returns how many."""
        lacking = "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT sid FROM met)"
        query = f"INSERT INTO absent {lacking}"
        return self._db.execute(query, (msgspec.json.encode(list(sids)),)).rowcount

    @_telling_of_the_folder()
    def forget_absent(self) -> None:
        """Begin the list of what was not met anew."""
        self._db.execute("DELETE FROM absent")

    def absent(self) -> Iterator[str]:
        """What was not met, as a stream."""
        with _telling_of_the_folder():
            for (sid,) in self._db.execute("SELECT sid FROM absent"):
                yield sid
