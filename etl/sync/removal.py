"""What operators take out for good: what is old, and every trace of one identity."""

import socket
from collections.abc import Callable, Sequence

import sqlalchemy as sa
import structlog

from etl.config import Settings
from etl.domain.hiding import treat
from etl.domain.scope import Scope
from etl.sync.privacy import require_known_keys
from etl.warehouse import drift, leases, ledger, purging, retention, services
from etl.warehouse.connection import Warehouse
from etl.warehouse.leases import Holder
from etl.warehouse.purging import Cutoffs, Leaving
from etl.warehouse.retention import Traces
from etl.warehouse.tables import bindings

log = structlog.get_logger()


def purge(warehouse: Warehouse, cutoffs: Cutoffs, *, dry_run: bool) -> dict[str, int]:
    """Take out what is older than the cutoffs, a portion a transaction; returns how many rows.

    Each portion leaves the warehouse whole, so that a purge which is broken off may begin again.
    """
    if dry_run:
        return warehouse.read(lambda conn: purging.count(conn, cutoffs))
    counted = dict.fromkeys((one.table.name for one in purging.leaving(cutoffs)), 0)
    for one in purging.leaving(cutoffs):
        for part in _by_service(warehouse, one) if one.table is bindings else [one]:
            counted[one.table.name] += _remove_in_portions(warehouse, part)
    warehouse.reclaim()
    log.info("warehouse.purged", **counted)
    return counted


def _by_service(warehouse: Warehouse, one: Leaving) -> list[Leaving]:
    """Split the deletes of `bindings` by service, so that one service at a time is locked."""
    sids = warehouse.read(lambda conn: services.holding(conn, one.rows))
    return [one.confined_to(bindings.c.chat_service_sid == sid) for sid in sids]


def _remove_in_portions(warehouse: Warehouse, one: Leaving) -> int:
    def remove(conn: sa.Connection) -> int:
        if one.table is not bindings:
            return purging.remove_some(conn, one)
        touched = services.holding(conn, one.rows)
        for sid in touched:  # before their rows are locked, as a run that publishes does
            leases.lock_service(conn, warehouse.engine, sid)
        number = purging.remove_some(conn, one)
        services.recount(conn, warehouse.engine, touched)
        return number

    total, number = 0, one.at_once
    while number >= one.at_once:
        number = warehouse.transact(remove)
        log.debug("portion.purged", table=one.table.name, rows=number)
        total += number
    return total


def erase(
    settings: Settings, warehouse: Warehouse, identity: str, *, dry_run: bool
) -> dict[str, int]:
    """Take out every trace of an identity; returns how many rows, by table.

    Raises:
        ConfigurationError: the warehouse was hashed by a key that nobody has named.
        LeaseHeld: a run works on a service that holds a trace, and would write it again; nothing
            was done.
    """
    require_known_keys(warehouse, settings)
    forms = _stored_forms(settings, identity)

    def find(conn: sa.Connection) -> Traces:
        return retention.find_traces(conn, warehouse.engine, identity, forms)

    def count(conn: sa.Connection) -> dict[str, int]:
        return retention.count(conn, find(conn).removal)

    def take_out(conn: sa.Connection) -> dict[str, int]:
        holder = Holder(
            leases.new_token(), 0, socket.gethostname()[:255], settings.run.lease_seconds
        )
        traces = _find_locked(conn, warehouse, holder, lambda: find(conn))
        counted = retention.remove(conn, traces.removal)
        services.recount(conn, warehouse.engine, traces.services)
        for sid in traces.services:
            drift.recount(conn, warehouse.engine, sid)
        return counted

    if dry_run:
        return warehouse.read(count)
    counted = warehouse.transact(take_out)
    warehouse.reclaim()
    log.info("identity.erased", **counted)
    return counted


def _stored_forms(settings: Settings, identity: str) -> set[str]:
    """Return the identity as it is, and hashed by every key of today and of the past.

    What is stored may be older than today's privacy rules; and what was hashed, kept by later ones
    and hashed again with what they kept, was hashed twice.
    """
    keys = settings.privacy.known_keys
    once = {treat("hmac", key, identity) or "" for key in keys}
    twice = {treat("hmac", key, form) or "" for key in keys for form in once}
    return {identity} | once | twice


def _find_locked(
    conn: sa.Connection, warehouse: Warehouse, holder: Holder, find: Callable[[], Traces]
) -> Traces:
    """Return the traces that are there once no run works on a service that holds one.

    A run may have published more of them before its lease was free.
    """
    traces, locked = find(), set[str]()
    while more := [sid for sid in traces.services if sid not in locked]:
        _lock_out_runs(conn, warehouse, holder, more)
        locked.update(more)
        traces = find()
    return traces


def _lock_out_runs(
    conn: sa.Connection, warehouse: Warehouse, holder: Holder, services: Sequence[str]
) -> None:
    """Take and release each service's lease, so that no run works on it until this commits."""
    for sid in services:
        scope = Scope("", sid)
        lapsed = leases.acquire(conn, warehouse.engine, holder, scope)
        now = warehouse.engine.now(conn)
        ledger.close_abandoned(conn, [one.run_id for one in lapsed], scope, now)
        leases.release(conn, holder, scope)
