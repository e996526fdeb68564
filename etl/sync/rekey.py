"""Stored rows brought under the configured privacy rules (docs/privacy.md).

begin (no run is alive, stages forgotten) ─► portions, one transaction each ─► finish

From its beginning to its end nobody else writes rows. Each portion commits with how far it got, so
that a re-keying that was broken off goes on there.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
import sqlalchemy as sa
import structlog
from msgspec.structs import asdict, replace

from etl import errors
from etl.config import Settings
from etl.domain.counters import Counters
from etl.domain.privacy import FIELDS, Fate, Field, PrivacyRules, Rewriting, RulesChange
from etl.domain.status import RunStatus
from etl.stopping import Stop
from etl.sync.context import Request
from etl.sync.outcome import sentence
from etl.sync.privacy import rules_of
from etl.sync.run import open_line
from etl.warehouse import drift, leases, ledger, page_links, privacy_rules, rewriting, staging
from etl.warehouse.connection import Warehouse
from etl.warehouse.leases import Holder
from etl.warehouse.privacy_rules import EVERY_SERVICE, Position, Recorded
from etl.warehouse.rewriting import TABLES, Step, Tally

log = structlog.get_logger()

MODE = "rekey"


class Rekeyed(msgspec.Struct):
    """What became of the stored rows, or would become of them."""

    change: RulesChange
    dry_run: bool
    run_id: int | None = None
    tables: Mapping[str, Tally] = msgspec.field(
        default_factory=lambda: {table: Tally() for table in TABLES}
    )

    @property
    def notes(self) -> list[str]:
        """What cannot be rewritten, and what becomes of it; a sentence a column."""
        return [
            _note_on(name, self.change) for name in FIELDS if self.change.fate(name) is Fate.LOST
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the object of `--json`."""
        before, after = self.change.before, self.change.after
        return {
            "run_id": self.run_id,
            "dry_run": self.dry_run,
            "from": {name: before.treats(name) for name in FIELDS},
            "to": {name: after.treats(name) for name in FIELDS},
            "key_changed": self.change.is_of_key,
            "tables": {name: asdict(tally) for name, tally in self.tables.items()},
            "notes": self.notes,
        }


def rekey(settings: Settings, warehouse: Warehouse, stop: Stop, *, dry_run: bool) -> Rekeyed:
    """Bring stored rows under the configured privacy rules, as far as that can be done.

    Raises:
        ConfigurationError: a re-keying to other rules than the configured ones was broken off.
        LeaseHeld: a run is alive; nothing was done.
        Interrupted: it is to stop; what is done stays done, and the next one goes on from there.
    """
    after = rules_of(settings)
    recorded = warehouse.read(privacy_rules.read)
    before = recorded.current or warehouse.read(lambda conn: privacy_rules.infer(conn, after))
    change = RulesChange(before, after)
    _require_same_aim(recorded, after)
    rewriter = Rewriting(change, settings.privacy.key_bytes)
    if change.is_none and recorded.following is None:
        return Rekeyed(change, dry_run)
    if dry_run:
        start = recorded.position or Position(TABLES[0])
        return _plan(warehouse, stop, rewriter, start)
    return _Rekeying(settings, warehouse, stop, rewriter).execute()


def _require_same_aim(recorded: Recorded, after: PrivacyRules) -> None:
    following = recorded.following
    if following is not None and not RulesChange(following, after).is_none:
        raise errors.ConfigurationError(
            "a re-keying to other privacy rules than the configured ones was broken off: to "
            f"privacy.identity {following.identity} and privacy.endpoint {following.endpoint}, "
            "with the key of then; put these settings back and finish it before you change them"
        )


def _plan(warehouse: Warehouse, stop: Stop, rewriter: Rewriting, start: Position) -> Rekeyed:
    planned = Rekeyed(rewriter.change, dry_run=True)
    position: Position | None = start

    def look(conn: sa.Connection, at: Position) -> Step:
        return rewriting.rewrite_some(conn, warehouse.engine, at, rewriter, None)

    while position is not None:
        stop.check()
        step = warehouse.read(partial(look, at=position))
        planned.tables[position.at_table].add(step.tally)
        position = step.position
    return planned


class _Rekeying:
    """The right to rewrite all rows, and the line of the ledger that says what came of it."""

    def __init__(
        self, settings: Settings, warehouse: Warehouse, stop: Stop, rewriter: Rewriting
    ) -> None:
        self._settings = settings
        self._warehouse = warehouse
        self._engine = warehouse.engine
        self._stop = stop
        self._rewriter = rewriter
        self._owner = leases.new_token()
        self._outcome = Rekeyed(rewriter.change, dry_run=False)

    def execute(self) -> Rekeyed:
        """Do it all."""
        self._holder = self._warehouse.transact(self._begin)
        self._warehouse.own_run = self._outcome.run_id = self._holder.run_id
        log.info("rekey.started", run_id=self._holder.run_id, **_told(self._rewriter.change))
        try:
            while self._rewrite_portion():
                self._stop.check()
        except errors.EtlError as error:
            self._abandon(error)
            raise
        self._warehouse.reclaim()
        tables = {name: tally.rewritten for name, tally in self._outcome.tables.items()}
        log.info("rekey.finished", run_id=self._holder.run_id, **tables)
        return self._outcome

    def _begin(self, conn: sa.Connection) -> Holder:
        change = self._rewriter.change
        # At once, and not after a wait for what the live run has locked; and again under the lock.
        self._require_nobody(conn)
        privacy_rules.begin(conn, self._engine, change.before, change.after, TABLES[0])
        leases.drop_expired(conn, self._engine)
        self._require_nobody(conn)
        line = open_line(conn, self._settings, Request(MODE), self._warehouse)
        holder = replace(line, owner=self._owner)
        leases.acquire(conn, self._engine, holder, EVERY_SERVICE)
        staging.discard_all(conn)
        page_links.forget_all(conn)
        return holder

    def _require_nobody(self, conn: sa.Connection) -> None:
        for lease in leases.live(conn, self._engine):
            if lease.owner != self._owner:  # ours, where the answer to this commit was lost
                raise errors.LeaseHeld(
                    f"run {lease.run_id} on {lease.host} is alive; rekey when it has ended (its "
                    f"lease ends at {lease.expires_at:%Y-%m-%dT%H:%M:%SZ} unless renewed)"
                )

    def _rewrite_portion(self) -> bool:
        """Return whether there is more to be done."""
        done = self._warehouse.transact(self._rewrite)
        if done is None:
            return False
        table, step = done
        self._outcome.tables[table].add(step.tally)
        log.debug("portion.rewritten", table=table, **asdict(step.tally))
        return step.position is not None

    def _rewrite(self, conn: sa.Connection) -> tuple[str, Step] | None:
        position = privacy_rules.read(conn).position
        if position is None:
            return None  # the last commit went through, and only the answer to it was lost
        leases.renew(conn, self._engine, self._holder, EVERY_SERVICE)
        step = rewriting.rewrite_some(
            conn, self._engine, position, self._rewriter, self._holder.run_id
        )
        if step.position is not None:
            privacy_rules.move(conn, step.position)
        else:
            drift.forget_unmet(conn, self._engine)
            privacy_rules.finish(conn, self._rewriter.change)
            self._end(conn, ledger.Ending(RunStatus.SUCCEEDED, Counters()))
        return position.at_table, step

    def _end(self, conn: sa.Connection, ending: ledger.Ending) -> None:
        leases.release(conn, self._holder, EVERY_SERVICE)
        ledger.finish_run(conn, self._holder.run_id, ending, self._engine.now(conn))

    def _abandon(self, error: errors.EtlError) -> None:
        stopped = isinstance(error, errors.Interrupted)
        status = RunStatus.INTERRUPTED if stopped else RunStatus.FAILED
        ending = ledger.Ending(status, Counters(), error=sentence(error))
        try:
            self._warehouse.transact(lambda conn: self._end(conn, ending), once=True)
        except errors.EtlError as unwritten:
            reason = sentence(unwritten)
            log.warning("ledger.unwritten", run_id=self._holder.run_id, reason=reason)


def _told(change: RulesChange) -> dict[str, str]:
    return {name: f"{change.before.treats(name)} → {change.after.treats(name)}" for name in FIELDS}


def _note_on(name: Field, change: RulesChange) -> str:
    before, after = change.before.treats(name), change.after.treats(name)
    way = "with another key" if before == after else f"{before} → {after}"
    past = "were dropped" if before == "drop" else "keep their hashes"
    is_searched = name == "identity" and before == "hmac"
    advice = "; keep the key of before in privacy.old_keys, for erase" if is_searched else ""
    return (
        f"{name} ({way}): what is stored cannot be rewritten; the next complete sync does it for "
        f"the rows that exist at Twilio, and in deleted rows and past images they {past}{advice}"
    )
