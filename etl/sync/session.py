"""A scan's lease and its line in the ledger: taken together, ended together."""

from collections.abc import Callable, Collection
from datetime import datetime
from typing import TypeVar

import sqlalchemy as sa
import structlog

from etl import errors
from etl.domain.privacy import PrivacyRules
from etl.domain.scope import Scope
from etl.domain.status import ScanStatus
from etl.sync.outcome import sentence
from etl.sync.privacy import require_agreement
from etl.warehouse import leases, ledger, services, staging
from etl.warehouse.connection import Warehouse
from etl.warehouse.leases import Holder
from etl.warehouse.ledger import Ending

T = TypeVar("T")

log = structlog.get_logger()


class ScanSession:
    """The right to work on a scope, and the line that says what came of it.

    `begin`, `renew` and `finish` take the connection of the transaction they belong to; the others
    open their own.
    """

    def __init__(
        self, warehouse: Warehouse, holder: Holder, scope: Scope, privacy: PrivacyRules
    ) -> None:
        self.warehouse = warehouse
        self._privacy = privacy
        self.holder = holder.for_scan()
        self.scope = scope
        self.scan_id = 0
        self.is_open = False
        """Whether the transaction that took the lease is committed."""

    def open(self, then: Callable[[sa.Connection, datetime], T]) -> T:
        """Take the lease and add the scan's line; do `then` in the same transaction.

        `then` gets the connection and the warehouse's time.

        Raises:
            LeaseHeld: a live run works on an overlapping scope.
        """

        def begin(conn: sa.Connection) -> T:
            now = self.begin(conn)
            return then(conn, now)

        result = self.warehouse.transact(begin)
        self.is_open = True
        return result

    def begin(self, conn: sa.Connection) -> datetime:
        """Take the lease and open the line; what killed runs left open here is closed.

        Return the warehouse's time.

        Raises:
            LeaseHeld: a live run works on an overlapping scope.
            ConfigurationError: rows are written by other privacy rules since the run began.
        """
        engine = self.warehouse.engine
        lapsed = leases.acquire(conn, engine, self.holder, self.scope)
        # Under the lease, which excludes a rekey.
        require_agreement(conn, engine, self._privacy)
        now = engine.now(conn)
        killed = [one.run_id for one in lapsed if one.run_id != self.holder.run_id]
        if killed:
            ledger.close_abandoned(conn, killed, self.scope, now)
        self.scan_id = ledger.start_scan(conn, self.holder.run_id, self.scope, now)
        return now

    def renew(self, conn: sa.Connection) -> datetime:
        """Renew the lease inside the transaction that relies on it; return the warehouse's time.

        Raises:
            LeaseLost: another run has taken it; the transaction must not be committed.
        """
        return leases.renew(conn, self.warehouse.engine, self.holder, self.scope)

    def confirm(self, conn: sa.Connection) -> datetime:
        """Make sure that the lease is held, in a long transaction that ends with `finish`.

        Return the warehouse's time.

        Raises:
            LeaseLost: as `renew`.
        """
        return leases.confirm(conn, self.warehouse.engine, self.holder, self.scope)

    def finish(self, conn: sa.Connection, ending: Ending, now: datetime) -> None:
        """Close the line and give the lease back.

        Raises:
            LeaseLost: as `renew`.
        """
        if self.warehouse.engine.conflicts_at_commit:  # else `confirm` has done it
            self.renew(conn)
        ledger.finish_scan(conn, self.scan_id, ending, now)
        leases.release(conn, self.holder, self.scope)

    def abandon(
        self, ending: Ending, *, discarding: Collection[int] = (), once: bool = False
    ) -> None:
        """Close the line of a scan that did not publish, and forget the stages `discarding`.

        The warehouse itself may be what failed; then the lease runs out and the next run tidies up.
        """

        def end(conn: sa.Connection) -> None:
            leases.lock_service(conn, self.warehouse.engine, self.scope.chat_service_sid)
            if self._still_holds_lease(conn):  # else another run may be going on with this stage
                staging.discard(conn, discarding)
                self._record_answers(conn, ending)
                leases.release(conn, self.holder, self.scope)
            ledger.finish_scan(conn, self.scan_id, ending, self.warehouse.engine.now(conn))

        self._try_to(end, once=once)

    def note_unopened(self, ending: Ending) -> None:
        """Write a line for a scan that could not take its lease."""

        def write(conn: sa.Connection) -> None:
            now = self.warehouse.engine.now(conn)
            scan_id = ledger.start_scan(conn, self.holder.run_id, self.scope, now)
            ledger.finish_scan(conn, scan_id, ending, now)

        self._try_to(write)

    def _record_answers(self, conn: sa.Connection, ending: Ending) -> None:
        """Note that a service which answered exists; an unknown type counts as read completely."""
        skipped = ending.status == ScanStatus.SKIPPED
        if skipped or ending.counters.pages:
            now = self.warehouse.engine.now(conn)
            reading = services.Reading(self.scope, now, complete=skipped)
            services.record_reading(conn, reading, changed=False)

    def _still_holds_lease(self, conn: sa.Connection) -> bool:
        try:
            self.renew(conn)
        except errors.LeaseLost:
            return False
        return True

    def _try_to(self, write: Callable[[sa.Connection], None], *, once: bool = False) -> None:
        try:
            self.warehouse.transact(write, once=once)
        except errors.EtlError as error:
            log.warning("ledger.unwritten", run_id=self.holder.run_id, reason=sentence(error))
