"""Rows that could not be loaded: kept whole until they load, are dealt with, or are gone."""

import hashlib
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from etl.domain.binding import Reject
from etl.domain.scope import WHOLE_SERVICE, Scope
from etl.warehouse.engines.base import MAX_ROW_BYTES, Engine
from etl.warehouse.portions import portions
from etl.warehouse.statements import matching, of
from etl.warehouse.tables import rejected_bindings, sync_scans

_ROOM_FOR_NOTE = 100
_HAS_OPEN = sa.select(
    sa.exists().where(
        matching(rejected_bindings, "chat_service_sid"), rejected_bindings.c.resolved_at.is_(None)
    )
)


class Line(NamedTuple):
    """An open line of the quarantine."""

    id: int
    account: str
    chat_service_sid: str
    sid: str | None
    reason: str
    payload: str
    first_seen_at: datetime
    last_seen_at: datetime


def record(
    conn: sa.Connection, run_id: int, scope: Scope, rejects: Sequence[Reject], now: datetime
) -> None:
    """Put rejects into quarantine; one that is there already is updated and open again."""
    longest = conn.info.get(MAX_ROW_BYTES)
    by_fingerprint = {
        _fingerprint(reject): _cut(reject, longest) if longest else reject for reject in rejects
    }
    if not by_fingerprint:
        return
    stamps = {"run_id": run_id, "account": scope.account, "last_seen_at": now, "resolved_at": None}
    lines = {one: _values(reject, one) | stamps for one, reject in by_fingerprint.items()}
    mine = rejected_bindings.c.chat_service_sid == scope.chat_service_sid
    known = _find_known(conn, mine, lines)
    seen_again = [line | {"known": one} for one, line in lines.items() if one in known]
    if seen_again:
        is_same = rejected_bindings.c.fingerprint == sa.bindparam("known")
        conn.execute(sa.update(rejected_bindings).where(mine, is_same), seen_again)
    place = {"chat_service_sid": scope.chat_service_sid, "first_seen_at": now}
    first_seen = [line | place for one, line in lines.items() if one not in known]
    if first_seen:
        conn.execute(sa.insert(rejected_bindings), first_seen)


def _find_known(
    conn: sa.Connection, mine: sa.ColumnElement[bool], fingerprints: Collection[str]
) -> set[str]:
    """Return those of the fingerprints that are in quarantine, also resolved ones."""
    lookup = sa.select(rejected_bindings.c.fingerprint).where(mine)
    return {
        fingerprint
        for some in portions(fingerprints)
        for fingerprint in conn.scalars(lookup.where(rejected_bindings.c.fingerprint.in_(some)))
    }


def resolve(
    conn: sa.Connection,
    engine: Engine,
    run_id: int,
    scope: Scope,
    stage_id: int,
    now: datetime,
    *,
    complete: bool,
) -> int:
    """Close what this scan saw load, or, after a whole service, what it did not reject again.

    Return how many of the SIDs that it saw are still in quarantine.
    """
    if not conn.scalar(_HAS_OPEN, of(chat_service_sid=scope.chat_service_sid)):
        return 0
    # What an interrupted scan rejected is not read again by the one that goes on with its stage.
    rejected_before = sa.exists().where(
        sync_scans.c.id == stage_id, sync_scans.c.started_at <= rejected_bindings.c.last_seen_at
    )
    still_open = (
        _open([scope.chat_service_sid]) & (rejected_bindings.c.run_id != run_id) & ~rejected_before
    )
    if not (complete and scope.label == WHOLE_SERVICE):
        still_open &= rejected_bindings.c.sid.in_(sa.select(engine.seen_sids().c.sid))
    close = sa.update(rejected_bindings).where(still_open).values(resolved_at=now)
    conn.execute(close, of(stage_id=stage_id))
    return _count_seen(conn, engine, scope, stage_id)


def _count_seen(conn: sa.Connection, engine: Engine, scope: Scope, stage_id: int) -> int:
    named = _open([scope.chat_service_sid]) & rejected_bindings.c.sid.is_not(None)
    seen = rejected_bindings.c.sid.in_(sa.select(engine.seen_sids().c.sid))
    counted = sa.select(sa.func.count()).select_from(rejected_bindings).where(named, seen)
    return conn.scalar(counted, of(stage_id=stage_id)) or 0


def replace_payload(conn: sa.Connection, line_id: int, payload: str) -> None:
    """Put another payload into a line; of two that have become the same, the later one stays."""
    mine = rejected_bindings.c.id == line_id
    line = conn.execute(sa.select(rejected_bindings).where(mine)).first()
    if line is None:  # it has left for its twin
        return
    fingerprint = _fingerprint(Reject(line.sid, line.reason, payload))
    is_same = (rejected_bindings.c.chat_service_sid == line.chat_service_sid) & (
        rejected_bindings.c.fingerprint == fingerprint
    )
    twin = conn.execute(sa.select(rejected_bindings).where(is_same, ~mine)).first()
    if twin is not None:
        earlier = line if line.last_seen_at <= twin.last_seen_at else twin
        conn.execute(sa.delete(rejected_bindings).where(rejected_bindings.c.id == earlier.id))
    values = {"payload": payload, "fingerprint": fingerprint}
    conn.execute(sa.update(rejected_bindings).where(mine).values(values))


def read_open(conn: sa.Connection, services: Collection[str] = ()) -> list[Line]:
    """Return the open rejects of these services, or of all."""
    query = sa.select(*(rejected_bindings.c[name] for name in Line._fields))
    lines = (
        Line(*line)
        for still_open in _open_in_portions(services)
        for line in conn.execute(query.where(still_open))
    )
    return sorted(lines, key=lambda line: (line.account, line.chat_service_sid, line.id))


def close(conn: sa.Connection, ids: Collection[int], now: datetime) -> None:
    """Mark lines as resolved."""
    if ids:
        update = (
            sa.update(rejected_bindings)
            .where(rejected_bindings.c.id == sa.bindparam("line"))
            .values(resolved_at=now)
        )
        conn.execute(update, [{"line": one} for one in ids])


def close_open(conn: sa.Connection, services: Collection[str], now: datetime) -> int:
    """Mark every open line of these services, or of all, as resolved; return how many."""
    number = 0
    for still_open in _open_in_portions(services):
        counted = sa.select(sa.func.count()).select_from(rejected_bindings).where(still_open)
        number += conn.scalar(counted) or 0
        conn.execute(sa.update(rejected_bindings).where(still_open).values(resolved_at=now))
    return number


def _open_in_portions(services: Collection[str]) -> list[sa.ColumnElement[bool]]:
    return [_open(some) for some in portions(set(services))] or [_open(())]


def _open(services: Collection[str]) -> sa.ColumnElement[bool]:
    still_open = rejected_bindings.c.resolved_at.is_(None)
    return (
        still_open & rejected_bindings.c.chat_service_sid.in_(services) if services else still_open
    )


def _fingerprint(reject: Reject) -> str:
    return reject.sid or "#" + hashlib.sha256(reject.payload.encode()).hexdigest()[:40]


def _cut(reject: Reject, longest: int) -> Reject:
    """Return the payload, cut to what the engine can hold, with a note of how much is missing."""
    payload = reject.payload.encode()
    if len(payload) <= longest:
        return reject
    head = payload[: longest - _ROOM_FOR_NOTE].decode(errors="ignore")
    return reject._replace(
        payload=f"{head}… (cut off: {len(payload)} bytes, of which this warehouse takes {longest})"
    )


def _values(reject: Reject, fingerprint: str) -> dict[str, str | None]:
    return {
        "fingerprint": fingerprint,
        "sid": reject.sid,
        "reason": reject.reason,
        "payload": reject.payload,
    }
