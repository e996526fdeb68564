"""Who works on which scope of which service, until when (docs/promises.md §8).

A lease is a row with an owner and an expiry, by the warehouse's own clock. Two scopes of one
service exclude each other unless their binding types are disjoint. A killed process frees its
leases by not renewing them.
"""

import functools
import uuid
from datetime import datetime, timedelta
from string import hexdigits
from typing import Any

import msgspec
import sqlalchemy as sa
from msgspec.structs import replace

from etl.domain.scope import WHOLE_SERVICE, Scope, overlap
from etl.errors import LeaseHeld, LeaseLost
from etl.warehouse.engines.base import Engine
from etl.warehouse.statements import matching, of
from etl.warehouse.tables import sync_gates, sync_leases

_OWN = matching(sync_leases, "chat_service_sid", "scope", "owner")
_OF_SERVICE = sa.select(sync_leases).where(matching(sync_leases, "chat_service_sid"))
_OF_SCOPE = matching(sync_leases, "chat_service_sid", "scope")
_OWNER = sa.select(sync_leases.c.owner).where(_OF_SCOPE)
_INSERT = sa.insert(sync_leases)
_TAKE_OVER = sa.update(sync_leases).where(_OF_SCOPE)
_RENEW = sa.update(sync_leases).where(_OWN)
_RELEASE = sa.delete(sync_leases).where(_OWN)
_GATE = matching(sync_gates, "chat_service_sid")
_HOLDER = sa.select(sync_leases.c.owner).where(_OWN)
_PASS = sa.update(sync_gates).where(_GATE).values(passed=sync_gates.c.passed + 1)


class Holder(msgspec.Struct, frozen=True):
    """What holds leases: a process that works for a run, or one of its scans."""

    owner: str
    """A token of at most 16 characters for the process; each of its scans has a longer one."""
    run_id: int
    host: str
    lease_seconds: float

    def for_scan(self) -> "Holder":
        """Return one more holder of the same process. Its scans exclude each other like any."""
        return replace(self, owner=f"{self.owner}.{new_token()}")


def new_token() -> str:
    """Return what no other process or scan is called."""
    return uuid.uuid4().hex[:16]


class Lapsed(msgspec.Struct, frozen=True):
    """A lease that its holder let expire: that run was killed, or lost the warehouse."""

    run_id: int


def acquire(conn: sa.Connection, engine: Engine, holder: Holder, scope: Scope) -> list[Lapsed]:
    """Take the lease of `scope`; return the expired ones that were in its way and are now gone.

    Raises:
        LeaseHeld: a live run works on an overlapping scope; nothing was changed.
    """
    lock_service(conn, engine, scope.chat_service_sid)
    now = engine.now(conn)
    others = conn.execute(_OF_SERVICE, of(chat_service_sid=scope.chat_service_sid)).all()
    in_the_way = [other for other in others if overlap(other.scope, scope.label)]
    for other in in_the_way:
        # Our own is in the way when the commit that took it went through and its answer was lost.
        if other.expires_at > now and other.owner != holder.owner:
            raise LeaseHeld(_describe(other))
    labels = {other.scope for other in in_the_way}
    if outdated := labels - {scope.label}:
        mine = sync_leases.c.chat_service_sid == scope.chat_service_sid
        conn.execute(sa.delete(sync_leases).where(mine, sync_leases.c.scope.in_(outdated)))
    _store(conn, holder, scope, now, is_there=scope.label in labels)
    return [Lapsed(other.run_id) for other in in_the_way]


def _describe(lease: sa.Row[Any]) -> str:
    part = "" if lease.scope == WHOLE_SERVICE else f" ({lease.scope})"
    return (
        f"service {lease.chat_service_sid}{part} is being worked on by run "
        f"{lease.run_id} on {lease.host}; "
        f"its lease ends at {lease.expires_at:%Y-%m-%dT%H:%M:%SZ} unless renewed"
    )


def _store(
    conn: sa.Connection, holder: Holder, scope: Scope, now: datetime, *, is_there: bool
) -> None:
    """Write the lease of `scope`, over an expired one of the same scope if it `is_there`."""
    row = _row(holder, scope, now)
    if is_there:
        same = of(chat_service_sid=scope.chat_service_sid, scope=scope.label)
        # Not deleted and inserted again: DuckDB takes no key twice in one transaction.
        conn.execute(_TAKE_OVER, row | same)
        # Whoever let it expire may have given it back at this very moment.
        is_there = conn.scalar(_OWNER, same) is not None
    if not is_there:
        conn.execute(_INSERT, row)


def lock_service(conn: sa.Connection, engine: Engine, chat_service_sid: str) -> None:
    """Lock a service until the transaction ends; wait until nobody else has it.

    For whoever wants any lease of a service, so that two cannot both find it free; and for whoever
    publishes a part of it, so that two parts do not publish one row in the same moment.
    """
    if _pass_gate(conn, engine, chat_service_sid):
        return
    if engine.conflicts_at_commit:  # `lock_all` finds no gate yet that it could write
        _make_gate(conn, engine, _newcomers(chat_service_sid[-1:].lower()))
    _make_gate(conn, engine, chat_service_sid)


def lock_all(conn: sa.Connection, engine: Engine) -> None:
    """Undo, or be undone by, whoever locks any service, where conflicts are found at COMMIT."""
    for digit in hexdigits[:16]:
        _make_gate(conn, engine, _newcomers(digit))
    conn.execute(sa.update(sync_gates).values(passed=sync_gates.c.passed + 1))


def _newcomers(digit: str) -> str:
    """Return the name of the gate for services that have none, by the last digit of their SID.

    Were there only one, the first runs over many services would undo each other all the time.
    """
    return f"*{digit}"


def _make_gate(conn: sa.Connection, engine: Engine, gate: str) -> None:
    # Inserted only where it is missing: MariaDB's insert of a key that is there takes a shared
    # lock, and of two who then want the row for themselves one is thrown out.
    if not _pass_gate(conn, engine, gate):
        row = sa.select(sa.literal(gate))
        conn.execute(engine.insert_missing(sync_gates, ["chat_service_sid"], row))
        _pass_gate(conn, engine, gate)


def _pass_gate(conn: sa.Connection, engine: Engine, gate: str) -> bool:
    """Lock a gate; return whether it is there."""
    named = of(chat_service_sid=gate)
    if engine.conflicts_at_commit:  # then what two have changed is found, and not what they locked
        conn.execute(_PASS, named)
    return conn.execute(_locked_gate(engine), named).first() is not None


def renew(conn: sa.Connection, engine: Engine, holder: Holder, scope: Scope) -> datetime:
    """Renew the lease, inside the transaction that relies on it; return the warehouse's time.

    Raises:
        LeaseLost: it expired and another run has taken it; the transaction must not be committed.
    """
    now = engine.now(conn)
    expires_at = now + timedelta(seconds=holder.lease_seconds)
    own = _own(holder, scope)
    # Looked up and not counted: DuckDB gives no row counts, and MariaDB counts changed rows in one
    # setting, found rows in another.
    if conn.scalar(_locked_lease(engine), own) is None:
        raise _lost(scope)
    conn.execute(_RENEW, own | {"expires_at": expires_at})
    return now


def confirm(conn: sa.Connection, engine: Engine, holder: Holder, scope: Scope) -> datetime:
    """Make sure, at the beginning of a long transaction, that the lease is held; return the time.

    It is renewed at once, but where conflicts are found at COMMIT: the heartbeat goes on meanwhile,
    and if it works through another node, one of the two would undo the other. There whoever calls
    this renews it at the end.

    Raises:
        LeaseLost: as `renew`.
    """
    if not engine.conflicts_at_commit:
        return renew(conn, engine, holder, scope)
    if conn.scalar(_HOLDER, _own(holder, scope)) is None:
        raise _lost(scope)
    return engine.now(conn)


def _lost(scope: Scope) -> LeaseLost:
    return LeaseLost(
        f"the lease of service {scope.chat_service_sid} was lost to another run; this run "
        "published nothing of it"
    )


def renew_all(conn: sa.Connection, engine: Engine, holder: Holder) -> None:
    """Renew every lease of this process, when no batch is due.

    One that a transaction of the run has locked is passed over: that transaction prolongs it.
    """
    expires_at = engine.now(conn) + timedelta(seconds=holder.lease_seconds)
    owner = sync_leases.c.owner
    mine = (owner == holder.owner) | owner.startswith(f"{holder.owner}.", autoescape=True)
    if not engine.single_writer:
        free = sa.select(owner).where(mine).with_for_update(skip_locked=True)
        mine &= owner.in_(list(conn.scalars(free)))
    conn.execute(sa.update(sync_leases).where(mine).values(expires_at=expires_at))


def is_held_by_run(conn: sa.Connection, engine: Engine, run_id: int, chat_service_sid: str) -> bool:
    """Return whether a run holds a lease of a service now."""
    held = sa.select(sync_leases.c.owner).where(
        sync_leases.c.chat_service_sid == chat_service_sid,
        sync_leases.c.run_id == run_id,
        sync_leases.c.expires_at > engine.now(conn),
    )
    return conn.execute(held).first() is not None


def release(conn: sa.Connection, holder: Holder, scope: Scope) -> None:
    """Give the lease back."""
    conn.execute(_RELEASE, _own(holder, scope))


def drop_expired(conn: sa.Connection, engine: Engine) -> None:
    """Take the leases of killed runs away; one that is only frozen finds out when it wakes up."""
    conn.execute(sa.delete(sync_leases).where(sync_leases.c.expires_at <= engine.now(conn)))


def live(conn: sa.Connection, engine: Engine) -> list[sa.Row[tuple[object, ...]]]:
    """Return every lease that is held now."""
    held = sa.select(sync_leases).where(sync_leases.c.expires_at > engine.now(conn))
    return list(
        conn.execute(held.order_by(sync_leases.c.chat_service_sid, sync_leases.c.scope)).all()
    )


@functools.cache
def _locked_gate(engine: Engine) -> sa.Select[tuple[str]]:
    return _locking(engine, sa.select(sync_gates.c.chat_service_sid).where(_GATE))


@functools.cache
def _locked_lease(engine: Engine) -> sa.Select[tuple[str]]:
    return _locking(engine, _HOLDER)


def _locking(engine: Engine, query: sa.Select[tuple[str]]) -> sa.Select[tuple[str]]:
    """Lock what is read, where others could write at the same time."""
    return query if engine.single_writer else query.with_for_update()


def _own(holder: Holder, scope: Scope) -> dict[str, object]:
    service = scope.chat_service_sid
    return of(chat_service_sid=service, scope=scope.label, owner=holder.owner)


def _row(holder: Holder, scope: Scope, now: datetime) -> dict[str, object]:
    return {
        "chat_service_sid": scope.chat_service_sid,
        "scope": scope.label,
        "owner": holder.owner,
        "run_id": holder.run_id,
        "host": holder.host,
        "acquired_at": now,
        "expires_at": now + timedelta(seconds=holder.lease_seconds),
    }
