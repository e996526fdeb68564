"""What is known of each service, and the figures that `service_freshness` shows of it.

The figures are kept and not counted when asked for: a view over millions of bindings and lines of
the ledger would take seconds. Whoever changes rows of `bindings` counts its services anew in the
same transaction (`recount`), as its last act under their locks.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from etl.domain.scope import KNOWN_TYPES, WHOLE_SERVICE, Scope
from etl.domain.service import Service
from etl.warehouse import leases
from etl.warehouse.engines.base import Engine
from etl.warehouse.statements import matching, of
from etl.warehouse.tables import bindings, service_parts, services

ACTIVE, GONE, UNCONFIGURED = "active", "gone", "unconfigured"

# So many SIDs go into one statement; engines limit its parameters.
_PORTION = 500
_MINE = matching(services, "chat_service_sid")
_LINE = sa.select(services).where(_MINE)
_UPDATE = sa.update(services).where(_MINE)
_DELETE_PARTS = sa.delete(service_parts).where(matching(service_parts, "chat_service_sid"))

_TYPE_LABELS = {Scope("", "", (kind,)).label: kind for kind in KNOWN_TYPES}


class Reading(msgspec.Struct, frozen=True):
    """A scan that the API answered."""

    scope: Scope
    now: datetime
    complete: bool = False
    """Read from the first page to the last, so that freshness may rest on it."""
    held: int = 0
    """Absent bindings that the guard kept."""


def read_readers(conn: sa.Connection) -> dict[str, str]:
    """Return the account that reads each service, by SID."""
    known = sa.select(services).where(services.c.gone_at.is_(None))
    return {line.chat_service_sid: line.account for line in conn.execute(known)}


def read_sizes(conn: sa.Connection) -> dict[str, int]:
    """Return how many active bindings each service has, by SID."""
    lines = conn.execute(sa.select(services.c.chat_service_sid, services.c.active))
    return {line.chat_service_sid: line.active for line in lines}


def record_found(
    conn: sa.Connection, account: str, found: Sequence[Service], now: datetime, *, names: bool
) -> None:
    """Take up services that the API listed for an account; without `names` theirs are dropped."""
    for some in _portions(found):
        shown = {one.sid: one.friendly_name if names else None for one in some}
        stored = {line.chat_service_sid: line for line in conn.execute(_known(shown))}
        for sid in shown.keys() & stored.keys():
            line = stored[sid]
            place = {"account": account, "friendly_name": shown[sid], "state": ACTIVE}
            if place != {name: getattr(line, name) for name in place}:
                _update(conn, sid, {**place, "gone_at": None})
        seen = services.c.chat_service_sid.in_(list(stored))
        conn.execute(sa.update(services).where(seen).values(last_seen_at=now))
        if new := [
            _first_line(account, sid, now, name) for sid, name in shown.items() if sid not in stored
        ]:
            conn.execute(sa.insert(services), new)


def record_reading(
    conn: sa.Connection, reading: Reading, *, changed: bool, loaded: int | None = None
) -> None:
    """Note that a service was read, in the transaction that publishes what was read; locked.

    Where it had no rows, the `loaded` ones are all that it has, and need not be counted.
    """
    sid = reading.scope.chat_service_sid
    stored = conn.execute(_LINE, of(chat_service_sid=sid)).first()
    values: dict[str, Any] = {
        "account": reading.scope.account,
        "state": ACTIVE,
        "gone_at": None,
        "last_seen_at": reading.now,
    }
    if stored is None:
        first = _first_line(reading.scope.account, sid, reading.now)
        conn.execute(sa.insert(services), first)
    if reading.complete:
        values |= _freshness(conn, reading, stored.deletes_held if stored else 0)
    had_none = stored is None or not (stored.active or stored.deleted)
    if loaded is not None and had_none:
        values |= {"active": loaded, "deleted": 0}
    elif changed or stored is None:
        values |= _count(conn, sid)
    _update(conn, sid, values)


def record_gone(conn: sa.Connection, sid: str, state: str, now: datetime) -> None:
    """Note that a service's rows were taken out; it leaves freshness until it is seen again."""
    mine = service_parts.c.chat_service_sid == sid
    conn.execute(sa.delete(service_parts).where(mine))
    values = {"state": state, "gone_at": now, "deletes_held": 0, "last_complete_at": None}
    _update(conn, sid, values | _count(conn, sid))


def record_held(conn: sa.Connection, sid: str, held: int) -> None:
    """Note that the guard kept rows of a service."""
    _update(conn, sid, {"deletes_held": held})


def record_unconfigured(
    conn: sa.Connection,
    listed: Collection[str],
    accounts_of_all: Collection[str],
    elsewhere: Collection[str] = (),
) -> list[str]:
    """Note which services no account of the configuration reads any more; returns them.

    Of the accounts of all, those `elsewhere` are asked by other processes. They did not take over
    a service that was last seen before they were last asked.
    """
    lines = conn.execute(sa.select(services).where(services.c.state == ACTIVE)).all()
    asked_at = [
        max((line.last_seen_at for line in lines if line.account == account), default=None)
        for account in elsewhere
    ]
    lost = [
        line.chat_service_sid
        for line in lines
        if line.account not in accounts_of_all
        and line.chat_service_sid not in listed
        and all(asked is not None and asked > line.last_seen_at for asked in asked_at)
    ]
    for sid in lost:
        _update(conn, sid, {"state": UNCONFIGURED})
    return lost


def find(conn: sa.Connection, sids: Sequence[str]) -> dict[str, sa.Row[Any]]:
    """Return what is stored of these services, by SID."""
    known = (
        line
        for start in range(0, len(sids), _PORTION)
        for line in conn.execute(_known(sids[start : start + _PORTION]))
    )
    return {line.chat_service_sid: line for line in known}


def recount(conn: sa.Connection, engine: Engine, sids: Collection[str]) -> None:
    """Count the bindings of services anew after a change of them."""
    for sid in sorted(sids):
        leases.lock_service(conn, engine, sid)
        _update(conn, sid, _count(conn, sid))


def holding(conn: sa.Connection, rows: sa.ColumnElement[bool]) -> list[str]:
    """Return the services that have such rows, in the order in which they are locked."""
    found = sa.select(bindings.c.chat_service_sid).where(rows).distinct()
    return sorted(conn.execute(found).scalars())


def forget_names(conn: sa.Connection) -> None:
    """Drop every friendly name."""
    named = services.c.friendly_name.is_not(None)
    conn.execute(sa.update(services).where(named).values(friendly_name=None))


def _freshness(conn: sa.Connection, reading: Reading, held_before: int) -> dict[str, Any]:
    """Store when a part was read; return the columns of `services` to update."""
    sid, label = reading.scope.chat_service_sid, reading.scope.label
    mine = service_parts.c.chat_service_sid == sid
    if label == WHOLE_SERVICE:
        conn.execute(_DELETE_PARTS, of(chat_service_sid=sid))
        return {"last_complete_at": reading.now, "deletes_held": reading.held}
    if label not in _TYPE_LABELS:
        return {}
    parts = {line.binding_type: line for line in conn.execute(sa.select(service_parts).where(mine))}
    kind = _TYPE_LABELS[label]
    _store_part(conn, reading, kind, is_there=kind in parts)
    others = [line for line in parts.values() if line.binding_type != kind]
    held = reading.held + sum(line.deletes_held for line in others)
    if len(others) + 1 < len(KNOWN_TYPES):
        return {"deletes_held": max(held, held_before)}
    oldest = min([reading.now, *(line.read_at for line in others)])
    return {"last_complete_at": oldest, "deletes_held": held}


def _store_part(conn: sa.Connection, reading: Reading, kind: str, *, is_there: bool) -> None:
    key = {"chat_service_sid": reading.scope.chat_service_sid, "binding_type": kind}
    part = {"read_at": reading.now, "deletes_held": reading.held}
    if is_there:
        same = sa.and_(*(service_parts.c[name] == value for name, value in key.items()))
        conn.execute(sa.update(service_parts).where(same).values(part))
    else:
        conn.execute(sa.insert(service_parts).values(part | key))


def _count(conn: sa.Connection, sid: str) -> dict[str, int]:
    numbers = sa.select(sa.func.count(), sa.func.count(bindings.c.deleted_at)).where(
        bindings.c.chat_service_sid == sid
    )
    rows, deleted = conn.execute(numbers).one()
    return {"active": rows - deleted, "deleted": deleted}


def _known(sids: Collection[str] | Mapping[str, Any]) -> sa.Select[Any]:
    return sa.select(services).where(services.c.chat_service_sid.in_(list(sids)))


def _update(conn: sa.Connection, sid: str, values: Mapping[str, Any]) -> None:
    conn.execute(_UPDATE, {**values, **of(chat_service_sid=sid)})


def _first_line(
    account: str, sid: str, now: datetime, friendly_name: str | None = None
) -> dict[str, Any]:
    return {
        "chat_service_sid": sid,
        "account": account,
        "friendly_name": friendly_name,
        "state": ACTIVE,
        "first_seen_at": now,
        "last_seen_at": now,
    }


def _portions(many: Sequence[Service]) -> Iterator[Sequence[Service]]:
    for start in range(0, len(many), _PORTION):
        yield many[start : start + _PORTION]
