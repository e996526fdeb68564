"""What a scan found becomes the current truth: set-based statements for one transaction."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec
import sqlalchemy as sa

from etl.domain.binding import HashedRow
from etl.domain.scope import Scope
from etl.warehouse import absences, changed_fields
from etl.warehouse.engines.base import Engine
from etl.warehouse.tables import CARRIED, CONTENT, binding_versions, bindings, scan_staged

_IMAGE = (*CONTENT, "content_hash", "first_seen_at")
_VERSION = (*_IMAGE, "valid_from", "valid_to", "change", "run_id")


class Publication(msgspec.Struct, frozen=True):
    """What is to be published, by whom and when."""

    run_id: int
    stage_id: int
    scope: Scope
    identities: Sequence[str]
    now: datetime


class Changes(NamedTuple):
    """How many bindings changed, and how."""

    inserted: int = 0
    updated: int = 0
    restored: int = 0


class Publishing(NamedTuple):
    """What came of the staged rows."""

    changes: Changes
    changed_fields: Mapping[str, int]
    """In how many of the updated rows each content column differed."""


def publish_staged(
    conn: sa.Connection, engine: Engine, order: Publication, *, first_load: bool = False
) -> Publishing:
    """Move staged rows into `bindings`, and the images they replace into `binding_versions`.

    In a `first_load` nothing was stored of the service when its scan began.
    """
    if first_load and engine.has_savepoints(conn):
        inserted = _insert_if_all_new(conn, engine, order)
        if inserted is not None:
            return Publishing(Changes(inserted), {})
    changes, returned, current = _count_changes(conn, engine, order)
    if current:
        _renew_source_hashes(conn, engine, order)
        _drop_current(conn, order)
    if not any(changes):
        return Publishing(changes, {})
    fields = changed_fields.count_staged(conn, order.stage_id) if changes.updated else {}
    known = bool(changes.updated or changes.restored)
    if known:
        _keep_replaced_images(conn, order)
    if returned:
        _keep_gaps_of_returned(conn, engine, order)
    rows = _rows_to_publish(engine, order, known=known, returned=bool(returned))
    if known:
        conn.execute(engine.insert_or_update(bindings, (*CARRIED, *_STAMPS), rows))
    else:  # nothing is there to overwrite, and looking for it makes the INSERT a quarter slower
        conn.execute(_insert(rows))
    changes = Changes(changes.inserted - returned, changes.updated, changes.restored + returned)
    return Publishing(changes, fields)


def publish_deletes(conn: sa.Connection, order: Publication, mode: Literal["soft", "hard"]) -> int:
    """Delete the bindings listed as absent that have not changed since; return how many.

    Their last images go to `binding_versions`.
    """
    deleted = absences.drop_outdated(conn, order.scope, order.identities, order.stage_id)
    if not deleted:
        return 0
    sids = absences.listed(order.stage_id)
    _keep_images(conn, order, sids, change=sa.literal("deleted"))
    # Named, since MariaDB looks at each row of what it updates, and finds a service's by index.
    gone = (bindings.c.chat_service_sid == order.scope.chat_service_sid) & bindings.c.sid.in_(sids)
    if mode == "hard":
        conn.execute(sa.delete(bindings).where(gone))
    else:
        moment = _later(order.now, bindings.c.changed_at)
        stamps = {"deleted_at": moment, "changed_at": moment, "run_id": order.run_id}
        conn.execute(sa.update(bindings).where(gone).values(stamps))
    return deleted


def count_taken_out(conn: sa.Connection, engine: Engine, hashed: Collection[HashedRow]) -> int:
    """Return how many of these SIDs `bindings` held until a hard delete."""
    if not hashed:
        return 0
    batch = engine.batch_table()
    past = sa.exists().where(
        binding_versions.c.sid == batch.c.sid, binding_versions.c.change == "deleted"
    )
    return (
        conn.scalar(
            sa.select(sa.func.count()).select_from(batch).where(past),
            engine.batch_parameters(hashed),
        )
        or 0
    )


_STAMPS = ("first_seen_at", "changed_at", "deleted_at", "run_id")


def _staged(order: Publication) -> sa.ColumnElement[bool]:
    return scan_staged.c.stage_id == order.stage_id


def _insert_if_all_new(conn: sa.Connection, engine: Engine, order: Publication) -> int | None:
    """Insert staged rows and return how many; None, and none inserted, if one may not be new.

    That saves the look at `bindings` for each of them; another service may have had a SID.
    """
    if conn.execute(sa.select(binding_versions.c.id).limit(1)).first() is not None:
        return None
    # By key: its index then grows at one end, and not all over (a tenth of a first load).
    rows = _rows_to_publish(engine, order, known=False, returned=False).order_by(scan_staged.c.sid)
    try:
        with conn.begin_nested():
            counted = {"preserve_rowcount": True}
            return conn.execute(_insert(rows), execution_options=counted).rowcount
    except sa.exc.IntegrityError:
        return None


def _insert(rows: sa.Select[Any]) -> sa.Insert:
    return sa.insert(bindings).from_select([*CARRIED, *_STAMPS], rows, include_defaults=False)


def _count_changes(
    conn: sa.Connection, engine: Engine, order: Publication
) -> tuple[Changes, int, int]:
    """Return how many staged rows are new, changed or restored, by what is stored now.

    After the changes come the inserts of SIDs that a hard delete had taken out, and the rows that
    are stored as they are.
    """
    pairs = scan_staged.outerjoin(bindings, bindings.c.sid == scan_staged.c.sid)
    is_new = bindings.c.sid.is_(None)
    was_deleted = bindings.c.deleted_at.is_not(None)
    is_current = ~is_new & ~was_deleted & (bindings.c.content_hash == scan_staged.c.content_hash)
    conditions = (
        is_new,
        ~is_new & ~was_deleted & ~is_current,
        ~is_new & was_deleted,
        is_new & _taken_out(engine),
        is_current,
    )
    query = sa.select(*map(_count, conditions)).select_from(pairs).where(_staged(order))
    inserted, updated, restored, returned, current = (
        int(count or 0) for count in conn.execute(query).one()
    )
    return Changes(inserted, updated, restored), returned, current


def _renew_source_hashes(conn: sa.Connection, engine: Engine, order: Publication) -> None:
    """Let rows that are stored as they were staged be known by their bytes again."""
    names = (*CARRIED, *_STAMPS)
    columns = ((scan_staged if name == "source_hash" else bindings).c[name] for name in names)
    rows = sa.select(*columns).join_from(scan_staged, bindings, _is_current())
    differs = bindings.c.source_hash != scan_staged.c.source_hash
    conn.execute(engine.insert_or_update(bindings, names, rows.where(_staged(order), differs)))


def _drop_current(conn: sa.Connection, order: Publication) -> None:
    """Drop staged rows that are stored already.

    They were stale, or another part of the service has published them since: a binding that
    changes its type is seen by two of them.
    """
    conn.execute(sa.delete(scan_staged).where(_staged(order), sa.exists().where(_is_current())))


def _is_current() -> sa.ColumnElement[bool]:
    is_same = (bindings.c.sid == scan_staged.c.sid) & (
        bindings.c.content_hash == scan_staged.c.content_hash
    )
    return is_same & bindings.c.deleted_at.is_(None)


def _count(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.sum(sa.case((condition, 1), else_=0))


def _taken_out(engine: Engine) -> sa.ColumnElement[bool]:
    """Return a condition: a hard delete took the staged SID out of `bindings`."""
    return _last_version(engine).is_not(None)


def _last_version(engine: Engine) -> sa.ScalarSelect[int]:
    """Return a subquery: id of the newest past image of a staged SID.

    A lookup per row and not a join: a table that has just been filled or emptied has no statistics
    to plan a join by.
    """
    return _past(engine, sa.func.max(binding_versions.c.id))


def _past(engine: Engine, value: sa.ColumnElement[Any]) -> sa.ScalarSelect[Any]:
    past = sa.select(value).where(binding_versions.c.sid == scan_staged.c.sid)
    return engine.with_index(past, binding_versions, "ix_binding_versions_sid_id").scalar_subquery()


def _keep_replaced_images(conn: sa.Connection, order: Publication) -> None:
    ended_by = sa.case((bindings.c.deleted_at.is_(None), "updated"), else_="restored")
    _keep_images(conn, order, sa.select(scan_staged.c.sid).where(_staged(order)), change=ended_by)


def _keep_images(
    conn: sa.Connection, order: Publication, sids: sa.Select[Any], change: sa.ColumnElement[str]
) -> None:
    """Copy rows of `bindings`, as they are before the change, into `binding_versions`."""
    images = sa.select(
        *(bindings.c[name] for name in _IMAGE),
        bindings.c.changed_at,
        _later(order.now, bindings.c.changed_at),
        change,
        sa.literal(order.run_id, sa.BigInteger),
    ).where(bindings.c.sid.in_(sids))
    conn.execute(sa.insert(binding_versions).from_select(list(_VERSION), images))


def _keep_gaps_of_returned(conn: sa.Connection, engine: Engine, order: Publication) -> None:
    """Insert a past image for the time in which a SID that returns was hard-deleted."""
    is_new = ~_is_known()
    returned = (
        sa.select(_last_version(engine).label("last"))
        .where(_staged(order), is_new)
        .subquery("returned")
    )
    gaps = sa.select(
        *(binding_versions.c[name] for name in _IMAGE),
        binding_versions.c.valid_to,
        _later(order.now, binding_versions.c.valid_to),
        sa.literal("restored"),
        sa.literal(order.run_id, sa.BigInteger),
    ).join_from(returned, binding_versions, binding_versions.c.id == returned.c.last)
    conn.execute(sa.insert(binding_versions).from_select(list(_VERSION), gaps))


def _rows_to_publish(
    engine: Engine, order: Publication, *, known: bool, returned: bool
) -> sa.Select[Any]:
    """Return a query for staged rows with their stamps; some may be `known`, some `returned`."""
    now: sa.ColumnElement[Any] = _at(order.now)
    first_seen, changed = now, now
    if known:
        before = sa.select(bindings.c.changed_at).where(bindings.c.sid == scan_staged.c.sid)
        changed = _later(order.now, before.scalar_subquery())
    if returned:
        first_seen = sa.func.coalesce(
            _past(engine, sa.func.min(binding_versions.c.first_seen_at)), now
        )
        changed = sa.case(
            (_is_known(), changed),
            else_=_later(order.now, _past(engine, sa.func.max(binding_versions.c.valid_to))),
        )
    stamps = (
        first_seen,
        changed,
        sa.cast(sa.null(), bindings.c.deleted_at.type),
        sa.literal(order.run_id, sa.BigInteger),
    )
    return sa.select(*(scan_staged.c[name] for name in CARRIED), *stamps).where(_staged(order))


def _is_known() -> sa.ColumnElement[bool]:
    return sa.exists().where(bindings.c.sid == scan_staged.c.sid)


def _at(moment: datetime) -> sa.ColumnElement[Any]:
    return sa.literal(moment, bindings.c.changed_at.type)


def _later(now: datetime, last: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Return the later of now and the last change: clocks step back, and history must not."""
    return sa.case((last > _at(now), last), else_=_at(now))
