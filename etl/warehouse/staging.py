"""A batch of a scan: compared with the warehouse by hash, and staged until it is published."""

import functools
from collections.abc import Collection, Iterator, Sequence, Set
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from etl.domain.binding import HashedRow, Reject, Row
from etl.domain.normalize import STALE, Normalizer
from etl.domain.scope import Scope
from etl.warehouse.engines.base import MAX_ROW_BYTES, Engine
from etl.warehouse.portions import portions
from etl.warehouse.statements import list_parameter, matching, of
from etl.warehouse.tables import STAGE, bindings, scan_seen, scan_staged, services

_HASH_WIDTH = 32
_STREAMED = {"yield_per": 10_000}
# So many take little over 1 MB. Of a service with more rows each batch is looked up: the hashes of
# four times 25,000 rows take 20 MB.
_MOST_HASHES = 10_000
_HOLDS_ANY = sa.select(sa.exists().where(matching(bindings, "chat_service_sid")))
_INSERT_SEEN = sa.insert(scan_seen)


class Stored(NamedTuple):
    """What the warehouse holds under a SID."""

    content_hash: str | None
    active: bool
    stale: bool = False
    """Whether it stands under a source hash that no bytes have."""


def split_oversized(
    conn: sa.Connection, normalizer: Normalizer, hashed: Collection[HashedRow]
) -> tuple[Collection[HashedRow], list[Reject]]:
    """Return the rows that the engine can hold, and rejects for those too long for it."""
    longest: int | None = conn.info.get(MAX_ROW_BYTES)
    if longest is None or all(len(one.raw) <= longest for one in hashed):
        return hashed, []
    reason = f"longer than the {longest} bytes that this warehouse takes for one row"
    too_long = [
        normalizer.reject(one.raw, one.sid, reason) for one in hashed if len(one.raw) > longest
    ]
    return [one for one in hashed if len(one.raw) <= longest], too_long


_decode = msgspec.json.Decoder(dict[str, str | None]).decode
_NOTHING = Stored(None, active=False)


def find_differing(
    conn: sa.Connection, engine: Engine, hashed: Collection[HashedRow], service: str
) -> dict[str, Stored]:
    """Return what is stored of a batch's SIDs that are new, deleted or came with other bytes.

    Looked up within a service, PostgreSQL reads an index that holds what is asked, and no row.
    A SID that is stored under another service then looks new; publishing counts it as it is.
    """
    batch = {**engine.batch_parameters(hashed), "chat_service_sid": service}
    found = _decode(conn.scalar(_differing(engine), batch) or "{}")
    return {
        sid: _NOTHING if stored is None else _read_stored(stored) for sid, stored in found.items()
    }


def find_source_hashes(
    conn: sa.Connection, engine: Engine, service: str, most: int = _MOST_HASHES
) -> Set[str]:
    """Return the source hashes of a service's active rows; none where there are more than `most`.

    A row whose hash is among them is stored as it is, and need not be looked up, which is half of
    PostgreSQL's CPU in a repeat.
    """
    mine = of(chat_service_sid=service)
    return _decode(conn.scalar(_source_hashes(engine, most), mine) or "{}").keys()


@functools.cache
def _source_hashes(engine: Engine, most: int) -> sa.Select[Any]:
    # What is kept of the service spares a large one the look, and what is stored has the last word.
    kept = sa.select(services.c.active).where(matching(services, "chat_service_sid"))
    is_small = sa.func.coalesce(kept.scalar_subquery(), 0) <= most
    active = (
        sa.select(bindings.c.source_hash)
        .where(matching(bindings, "chat_service_sid"), bindings.c.deleted_at.is_(None), is_small)
        .limit(most + 1)
        .subquery("active")
    )
    # As the names of one object, since lines of a result cost 2.6 µs each.
    hashes = engine.json_object(active.c.source_hash, sa.literal("", sa.Text))
    return sa.select(sa.case((sa.func.count() <= most, hashes))).select_from(active)


def holds_any(conn: sa.Connection, chat_service_sid: str) -> bool:
    """Return whether anything is stored of a service."""
    return bool(conn.scalar(_HOLDS_ANY, of(chat_service_sid=chat_service_sid)))


@functools.cache
def _differing(engine: Engine) -> sa.Select[Any]:
    # A lookup per key and not a join: without statistics PostgreSQL joins by reading the whole
    # table (60 ms a batch of 5,000 among 100,000 rows, and more with more; a lookup per key took
    # 15). What is stored comes in one text, since such a lookup gives one value.
    batch = engine.batch_table()
    is_active = sa.case((bindings.c.deleted_at.is_(None), "+"), else_="-")
    lookup = sa.select(
        bindings.c.source_hash.concat(is_active).concat(bindings.c.content_hash)
    ).where(
        bindings.c.chat_service_sid == sa.bindparam("chat_service_sid"),
        bindings.c.sid == batch.c.sid,
    )
    found = sa.select(
        batch.c.sid, batch.c.source_hash, lookup.scalar_subquery().label("stored")
    ).subquery("found")
    before = sa.func.coalesce(sa.func.substr(found.c.stored, 1, _HASH_WIDTH + 1), "")
    # In a first load every SID comes back here; as lines of a result they cost 2.6 µs each, as one
    # text far less.
    return sa.select(engine.json_object(found.c.sid, found.c.stored)).where(
        before != found.c.source_hash.concat("+")
    )


def _read_stored(stored: str) -> Stored:
    return Stored(
        stored[_HASH_WIDTH + 1 :],
        active=stored[_HASH_WIDTH] == "+",
        stale=stored[:_HASH_WIDTH] == STALE,
    )


def stage_batch(
    conn: sa.Connection,
    engine: Engine,
    stage_id: int,
    batch: int,
    sids: Collection[str],
    rows: Sequence[Row],
) -> None:
    """Stage which SIDs were seen, and the rows that are new or changed.

    `batch` rises within a stage.
    """
    if sids:
        line = {"stage_id": stage_id, "batch": batch, "sids": engine.encode_sids(sids)}
        conn.execute(_INSERT_SEEN, line)
    if rows:
        engine.stage(conn, stage_id, batch, rows)


def count_seen(conn: sa.Connection, engine: Engine, stage_id: int) -> tuple[int, int]:
    """Return how many SIDs the scan saw, and how often it saw one again."""
    different, meetings = conn.execute(_count_seen(engine), of(stage_id=stage_id)).one()
    return different, int(meetings or 0) - different


@functools.cache
def _count_seen(engine: Engine) -> sa.Select[int, Any]:
    seen = engine.seen_sids()
    # Grouped and not count(DISTINCT), which PostgreSQL does by sorting.
    by_sid = (
        sa.select(sa.func.count().label("meetings"))
        .select_from(seen)
        .group_by(seen.c.sid)
        .subquery()
    )
    return sa.select(sa.func.count(), sa.func.sum(by_sid.c.meetings)).select_from(by_sid)


def drop_superseded(conn: sa.Connection, engine: Engine, stage_id: int) -> None:
    """Drop what was staged of a SID that was seen again, but for its newest image.

    That is told by its own date, and by the order of batches where the dates are equal.
    """
    # Not asked row by row, which would unpack the lists once for each row.
    superseded = sa.tuple_(scan_staged.c.batch, scan_staged.c.sid).in_(_find_older_images(engine))
    stale = sa.delete(scan_staged).where(matching(scan_staged, "stage_id"), superseded)
    conn.execute(stale, of(stage_id=stage_id))


def _find_older_images(engine: Engine) -> sa.Select[Any]:
    """Return the query for batch and SID of each meeting but the one with the newest image."""
    seen, staged = engine.seen_sids(), scan_staged.alias("staged")
    times = sa.func.count().over(partition_by=seen.c.sid).label("times")
    met = sa.select(seen.c.batch, seen.c.sid, times).subquery("met")
    same = matching(staged, "stage_id") & (staged.c.batch == met.c.batch)
    images = met.outerjoin(staged, same & (staged.c.sid == met.c.sid)).outerjoin(
        bindings, bindings.c.sid == met.c.sid
    )
    # What was not staged is as it is stored.
    updated = sa.case(
        (staged.c.sid.is_not(None), staged.c.date_updated), else_=bindings.c.date_updated
    )
    newest_first = (updated.is_(None), updated.desc(), met.c.batch.desc())
    place = sa.func.row_number().over(partition_by=met.c.sid, order_by=newest_first)
    ranked = (
        sa.select(met.c.batch, met.c.sid, place.label("place"))
        .select_from(images)
        .where(met.c.times > 1)
        .subquery("ranked")
    )
    return sa.select(ranked.c.batch, ranked.c.sid).where(ranked.c.place > 1)


def in_scope(*, by_type: bool, by_identity: bool) -> sa.ColumnElement[bool]:
    """Return the condition for active rows that a complete scan of a scope has to see.

    The scope is given when the statement is executed, by `of_scope`.
    """
    condition = matching(bindings, "chat_service_sid") & bindings.c.deleted_at.is_(None)
    if by_type:
        condition &= bindings.c.binding_type.in_(list_parameter("of_binding_types"))
    if by_identity:
        condition &= bindings.c.identity.in_(list_parameter("of_identities"))
    return condition


def narrowed_by(scope: Scope) -> dict[str, bool]:
    """Return which of the arguments of `in_scope` a scope sets."""
    return {"by_type": bool(scope.binding_types), "by_identity": bool(scope.identities)}


def of_scope(scope: Scope, identities: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of `in_scope`; `identities` are given as they are stored."""
    narrowed = of(binding_types=list(scope.binding_types), identities=list(identities))
    return of(chat_service_sid=scope.chat_service_sid) | narrowed


def iterate_active(
    conn: sa.Connection, scope: Scope, identities: Sequence[str]
) -> Iterator[Sequence[str]]:
    """Yield, in chunks, the active SIDs of a scope, which a complete scan has to see."""
    query = sa.select(bindings.c.sid).where(in_scope(**narrowed_by(scope)))
    mine = of_scope(scope, identities)
    yield from conn.scalars(query, mine, execution_options=_STREAMED).partitions()


def count_in_scope(conn: sa.Connection, scope: Scope, identities: Sequence[str]) -> int:
    """Return how many active bindings a scope has."""
    expected = (
        sa.select(sa.func.count()).select_from(bindings).where(in_scope(**narrowed_by(scope)))
    )
    return conn.scalar(expected, of_scope(scope, identities)) or 0


def count_active(conn: sa.Connection, chat_service_sid: str) -> int:
    """Return how many active bindings the whole service has, for the guard."""
    active = (bindings.c.chat_service_sid == chat_service_sid) & bindings.c.deleted_at.is_(None)
    return conn.scalar(sa.select(sa.func.count()).select_from(bindings).where(active)) or 0


def move(conn: sa.Connection, stage_ids: Collection[int], into: int) -> None:
    """Make what is staged under these ids part of one stage; no two batches have one number."""
    target = sa.literal(into, sa.BigInteger).label("stage_id")
    for table in (scan_seen, scan_staged):
        columns = [target if one.name == "stage_id" else one for one in table.columns]
        rows = sa.select(*columns).where(table.c.stage_id.in_(stage_ids))
        names = [one.name for one in table.columns]
        conn.execute(sa.insert(table).from_select(names, rows, include_defaults=False))
    discard(conn, stage_ids)


def discard(
    conn: sa.Connection, stage_ids: Collection[int], tables: Collection[sa.Table] = STAGE
) -> None:
    """Delete what is staged under these ids; `tables` are those that may hold any of it."""
    for some in portions(stage_ids):
        for table in tables:
            conn.execute(_discard(table), {"stage_ids": list(some)})


@functools.cache
def _discard(table: sa.Table) -> sa.Delete:
    return sa.delete(table).where(table.c.stage_id.in_(list_parameter("stage_ids")))


def discard_all(conn: sa.Connection) -> None:
    """Forget what every unfinished scan has staged."""
    for table in STAGE:
        conn.execute(sa.delete(table))
