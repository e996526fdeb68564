"""What a scan did not meet, written down once in its stage: counted, asked about, and deleted.

Only what is on this list is ever deleted. Lines leave it when their binding is found alive, is
not confirmed as gone, or has changed since.
"""

import functools
from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from etl.domain.scope import Scope
from etl.warehouse.engines.base import Engine
from etl.warehouse.staging import in_scope, narrowed_by, of_scope
from etl.warehouse.statements import matching, of
from etl.warehouse.tables import bindings, scan_absent

_STREAMED = {"yield_per": 10_000}
_DROPPED_AT_ONCE = 500
_STAGE = matching(scan_absent, "stage_id")
_COUNT = sa.select(sa.func.count()).select_from(scan_absent).where(_STAGE)


def list_absent(
    conn: sa.Connection, engine: Engine, scope: Scope, identities: Sequence[str], stage_id: int
) -> int:
    """Write down the active bindings of a scope that its scan did not meet; returns how many."""
    mine = of_scope(scope, identities) | of(stage_id=stage_id)
    conn.execute(_list_absent(engine, **narrowed_by(scope)), mine)
    return _count(conn, stage_id)


@functools.cache
def _list_absent(engine: Engine, *, by_type: bool, by_identity: bool) -> sa.Executable:
    # EXCEPT and not an anti-join: the planner knows nothing of how many SIDs a list holds, and
    # for a few it would loop.
    expected = sa.select(bindings.c.sid).where(in_scope(by_type=by_type, by_identity=by_identity))
    gone = expected.except_(sa.select(engine.seen_sids().c.sid)).subquery("gone")
    changed_at = sa.select(bindings.c.changed_at).where(bindings.c.sid == gone.c.sid)
    stage_id = sa.bindparam("of_stage_id", type_=sa.BigInteger)
    lines = sa.select(stage_id, gone.c.sid, changed_at.scalar_subquery())
    # Again after a commit whose answer was lost, the lines are there already.
    return engine.insert_missing(scan_absent, ["stage_id", "sid", "changed_at"], lines)


def drop_outdated(
    conn: sa.Connection, scope: Scope, identities: Sequence[str], stage_id: int
) -> int:
    """Remove what was deleted, changed or left the scope since; return how many are left."""
    is_same = (bindings.c.sid == scan_absent.c.sid) & (
        bindings.c.changed_at == scan_absent.c.changed_at
    )
    stands = sa.exists().where(is_same, in_scope(**narrowed_by(scope)))
    mine = of_scope(scope, identities) | of(stage_id=stage_id)
    conn.execute(sa.delete(scan_absent).where(_STAGE, ~stands), mine)
    return _count(conn, stage_id)


def drop(conn: sa.Connection, stage_id: int, sids: Sequence[str]) -> None:
    """Remove bindings that must not be deleted from the absent ones."""
    for start in range(0, len(sids), _DROPPED_AT_ONCE):
        some = scan_absent.c.sid.in_(sids[start : start + _DROPPED_AT_ONCE])
        conn.execute(sa.delete(scan_absent).where(_of(stage_id), some))


def iterate(conn: sa.Connection, stage_id: int) -> Iterator[str]:
    """Yield the absent SIDs of a stage."""
    for line in conn.execute(listed(stage_id), execution_options=_STREAMED):
        yield line.sid


def listed(stage_id: int) -> sa.Select[tuple[str]]:
    """Return a query for the absent SIDs of a stage."""
    return sa.select(scan_absent.c.sid).where(_of(stage_id))


def _of(stage_id: int) -> sa.ColumnElement[bool]:
    return scan_absent.c.stage_id == stage_id


def _count(conn: sa.Connection, stage_id: int) -> int:
    return conn.scalar(_COUNT, of(stage_id=stage_id)) or 0
