"""What changed since an earlier export, and where the next one begins so that nothing is lost.

A change is stamped inside the transaction that publishes it and seen only when that commits, so an
export may miss what carries an earlier time or a smaller run id than what it sees. The next one
therefore begins at the first run that may have had something in hand (docs/export.md).
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import msgspec
import sqlalchemy as sa

from etl.domain.status import RunStatus
from etl.warehouse.ledger import WITHOUT_A_WORD
from etl.warehouse.tables import (
    CONTENT,
    binding_versions,
    bindings,
    json_as_text,
    sync_leases,
    sync_runs,
)

COLUMNS = (*CONTENT, "content_hash", "first_seen_at", "changed_at", "deleted_at", "run_id")
"""What is exported of a binding."""

_AT_ONCE = 10_000

# No transaction is open for so long: a server ends those that idle, and a statement has an hour.
_LONGEST_IN_HAND = timedelta(days=1)


class Since(msgspec.Struct, frozen=True):
    """From where on changes are wanted: a run, a moment, or, with neither, the beginning."""

    run_id: int | None = None
    moment: datetime | None = None


def newest_run(conn: sa.Connection) -> int:
    """Return the id of the newest run, 0 before the first."""
    return conn.scalar(sa.select(sa.func.max(sync_runs.c.id))) or 0


def find_next(conn: sa.Connection, now: datetime) -> int:
    """Return the run from which on the next export has to read; to be asked before the rows are.

    Every change of an earlier run is committed by then: that run has ended, holds no lease, and was
    not taken for dead a while ago. An id that is missing may be of a run whose first line is not
    committed yet.
    """
    horizon = now - _LONGEST_IN_HAND
    silent = (sync_runs.c.error == WITHOUT_A_WORD) & (sync_runs.c.finished_at > horizon)
    held = (sync_leases.c.run_id > 0) & (sync_leases.c.expires_at > horizon)
    first = sa.func.min(sync_runs.c.id)
    queries: list[sa.Select[Any]] = [
        sa.select(first).where(sync_runs.c.status == RunStatus.RUNNING),
        sa.select(first).where(silent),
        sa.select(sa.func.min(sync_leases.c.run_id)).where(held),
    ]
    found: list[int | None] = [conn.scalar(query) for query in queries]
    in_hand = [run_id for run_id in [*found, _first_missing(conn, horizon)] if run_id is not None]
    return min([*in_hand, newest_run(conn) + 1])


def iterate(conn: sa.Connection, since: Since) -> Iterator[Sequence[sa.Row[Any]]]:
    """Yield what changed, in batches: rows of `bindings`, then last images of taken-out ones."""
    runs = _under_way(conn, since.moment)
    for query in (_current(since, runs), _taken_out(since, runs)):
        yield from conn.execute(query, execution_options={"yield_per": _AT_ONCE}).partitions()


def _first_missing(conn: sa.Connection, horizon: datetime) -> int | None:
    """Return the first recent run id that is missing: its run may not be committed yet."""
    late = list(
        conn.scalars(
            sa.select(sync_runs.c.id)
            .where(sync_runs.c.started_at > horizon)
            .order_by(sync_runs.c.id)
        )
    )
    if not late:
        return None
    before = sa.select(sa.func.max(sync_runs.c.id)).where(sync_runs.c.id < late[0])
    known = [conn.scalar(before) or 0, *late]
    return next((one + 1 for one, other in pairwise(known) if other > one + 1), None)


def _under_way(conn: sa.Connection, moment: datetime | None) -> list[int]:
    """Return runs at work at this moment: rows stamped before it may be committed after it.

    A re-keying rewrites rows without a stamp; whenever it came after, it is one of them.
    """
    if moment is None:
        return []
    ended = sync_runs.c.finished_at.is_not(None) & (sync_runs.c.finished_at < moment)
    stamps_late = (sync_runs.c.started_at < moment) | (sync_runs.c.mode == "rekey")
    return list(conn.scalars(sa.select(sync_runs.c.id).where(stamps_late, ~ended)))


def _current(since: Since, runs: list[int]) -> sa.Select[Any]:
    return sa.select(*(json_as_text(bindings.c[name]) for name in COLUMNS)).where(
        *_changed(since, runs, bindings.c.run_id, bindings.c.changed_at)
    )


def _taken_out(since: Since, runs: list[int]) -> sa.Select[Any]:
    """Return the last images of what hard deletes took out, marked as soft ones would be."""
    later = binding_versions.alias("later")
    ended = binding_versions.c.valid_to
    instead = {
        "changed_at": ended.label("changed_at"),
        "deleted_at": ended.label("deleted_at"),
    }
    columns = [
        instead[name] if name in instead else json_as_text(binding_versions.c[name])
        for name in COLUMNS
    ]
    is_last = ~sa.exists().where(
        later.c.sid == binding_versions.c.sid, later.c.id > binding_versions.c.id
    )
    return sa.select(*columns).where(
        binding_versions.c.change == "deleted",
        *_changed(since, runs, binding_versions.c.run_id, ended),
        ~sa.exists().where(bindings.c.sid == binding_versions.c.sid),
        is_last,
    )


def _changed(
    since: Since, runs: list[int], run_id: sa.Column[int], changed_at: sa.Column[datetime]
) -> list[sa.ColumnElement[bool]]:
    if since.run_id is not None:
        return [run_id >= since.run_id]
    if since.moment is None:
        return []
    late = changed_at >= since.moment
    return [late | run_id.in_(runs)] if runs else [late]
