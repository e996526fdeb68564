"""A dry run of one scope: reads and compares like a scan, and writes nothing at all.

What was met is kept in a scratch database that vanishes with the run, so that the warehouse is only read and memory stays flat.
"""

import sqlite3
from collections.abc import Iterator, Sequence

import msgspec
import sqlalchemy as sa
import structlog

from etl import errors
from etl.domain.binding import Key
from etl.domain.guard import draw_sample
from etl.domain.normalize import Normalizer, split
from etl.domain.scope import Scope
from etl.sync.absence import Inquiry, Settlement, settle
from etl.sync.chain import Batch, Chain
from etl.sync.context import Context, may_skip, rules_for
from etl.sync.listing import read_scope
from etl.sync.outcome import ScanOutcome, sentence
from etl.twilio.client import Client
from etl.warehouse import staging
from etl.warehouse.publishing import count_taken_out

log = structlog.get_logger()


class Plan:
    """What a scan of this scope would insert, update and delete. Used by one thread."""

    def __init__(self, context: Context, client: Client, scope: Scope, outcome: ScanOutcome) -> None:
        self._context = context
        self._warehouse = context.warehouse
        self._client = client
        self._scope = scope
        self._rules = rules_for(context.settings, client, scope)
        self._normalizer = Normalizer(self._rules)
        self._outcome = outcome
        self._counters = outcome.counters
        self._unreadable = 0

    def execute(self) -> None:
        """Do it all; what came of it is in the outcome, also after an error."""
        try:
            with _Scratch() as met:
                self._read(met)
                self._settle(met)
        except Exception as error:  # the one boundary: whatever befalls a service stays with that service
            self._outcome.complete = False
            self._outcome.error = error
            self._outcome.status = _status_of(error)
            # Its traceback at level debug only: it may quote a row.
            log.error("plan.failed", chat_service_sid=self._scope.chat_service_sid, message=sentence(error))  # noqa: TRY400
            log.debug("plan.traceback", exc_info=error)

    def _read(self, met: "_Scratch") -> None:
        skipping = may_skip(self._context, self._client)
        with Chain(
            lambda: read_scope(self._client, self._scope, self._counters, may_skip=skipping), self._counters, self._context.stop
        ) as chain:
            for batch in chain.batches():
                self._compare(batch, met)
        self._outcome.complete = not chain.met_a_page_again

    def _compare(self, batch: Batch, met: "_Scratch") -> None:
        keys, unreadable = self._normalizer.keys(batch.rows)
        first_met = met.add(keys)
        fresh = [keys[sid] for sid in first_met]
        self._unreadable += len(unreadable)
        self._counters.rejected += len(unreadable)
        if fresh:
            self._warehouse.read(lambda conn: self._classify(conn, fresh))

    def _classify(self, conn: sa.Connection, keys: Sequence[Key]) -> None:
        stored = staging.find_differing(conn, self._warehouse.engine, keys)
        rows, rejects = split(self._normalizer.shape(key) for key in keys if key.sid in stored)
        self._counters.rejected += len(rejects)
        self._counters.unchanged += len(keys) - len(stored)
        new = set()
        for row in rows:
            known = stored[row.sid]
            if known.active and known.content_hash == row.content_hash:
                self._counters.unchanged += 1
            elif not self._scope.holds(row.date_updated):
                continue
            elif known.content_hash is None:
                new.add(row.sid)
            elif known.active:
                self._counters.updated += 1
            else:
                self._counters.restored += 1
        returned = count_taken_out(conn, self._warehouse.engine, [key for key in keys if key.sid in new])
        self._counters.inserted += len(new) - returned
        self._counters.restored += returned

    def _settle(self, met: "_Scratch") -> None:
        self._outcome.status = "published"
        if not (self._outcome.complete and self._scope.may_delete) or self._unreadable:
            return
        absent, active = self._warehouse.read(lambda conn: self._count(conn, met))
        rules = self._context.settings.deletes
        settlement = settle(
            Inquiry(self._client, self._scope, self._counters, self._context.stop),
            rules,
            absent,
            active,
            lambda: self._warehouse.read(lambda conn: draw_sample(self._absent(conn, met), rules.confirm_limit)),
            allow_mass_delete=self._context.request.allow_mass_delete,
        )
        self._note(settlement, absent)

    def _note(self, settlement: Settlement, absent: int) -> None:
        if settlement.refused:
            self._outcome.status, self._outcome.kept = "refused", settlement.refused
        if settlement.deletes:
            self._counters.deleted = absent - len(settlement.alive) - len(settlement.unknown)
        if alive := self._normalizer.keys(list(settlement.alive))[0]:
            self._warehouse.read(lambda conn: self._classify(conn, list(alive.values())))

    def _count(self, conn: sa.Connection, met: "_Scratch") -> tuple[int, int]:
        absent = sum(1 for _ in self._absent(conn, met))
        return absent, staging.count_active(conn, self._scope.chat_service_sid)

    def _absent(self, conn: sa.Connection, met: "_Scratch") -> Iterator[str]:
        treated = (self._rules.treat(self._rules.identity, identity) for identity in self._scope.identities)
        identities = [identity for identity in treated if identity is not None]
        for sids in staging.iterate_active(conn, self._scope, identities):
            yield from met.lacking(sids)


def _status_of(error: Exception) -> str:
    if isinstance(error, errors.Interrupted):
        return "interrupted"
    return "skipped" if isinstance(error, errors.TypeUnknown) else "failed"


class _Scratch:
    """A set of SIDs on disk."""

    def __enter__(self) -> "_Scratch":
        # The empty name is SQLite's for a private file in the temporary folder, removed when it is closed.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute("CREATE TABLE met (sid TEXT PRIMARY KEY) WITHOUT ROWID")
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def add(self, sids: dict[str, Key]) -> list[str]:
        """Remember SIDs; gives those that are new."""
        added = self._db.execute(
            "INSERT INTO met SELECT value FROM json_each(?) WHERE true ON CONFLICT DO NOTHING RETURNING sid",
            (msgspec.json.encode(list(sids)),),
        )
        return [sid for (sid,) in added]

    def lacking(self, sids: Sequence[str]) -> list[str]:
        """Of some SIDs, those that were not met."""
        query = "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT sid FROM met)"
        return [sid for (sid,) in self._db.execute(query, (msgspec.json.encode(list(sids)),))]
