"""What is old enough to leave the warehouse for good, found and taken out in portions."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from msgspec.structs import replace

from etl.domain.scope import KNOWN_TYPES, WHOLE_SERVICE, Scope
from etl.warehouse.tables import (
    binding_versions,
    bindings,
    rejected_bindings,
    scan_progress,
    shard_assignments,
    sync_runs,
    sync_scans,
)

AT_ONCE = 100_000
"""So many rows leave in one transaction: enough to be quick, too few to hold a lock for long."""

# Of SIDs whose whole history leaves; one has a handful of images.
_HISTORIES_AT_ONCE = AT_ONCE // 5

# What freshness rests on: readings of whole services, or of each known type.
_LABELS = (WHOLE_SERVICE, *(Scope("", "", (kind,)).label for kind in KNOWN_TYPES))


class Cutoffs(msgspec.Struct, frozen=True):
    """What was before these moments leaves; None keeps it all."""

    deleted: datetime | None = None
    versions: datetime | None = None
    runs: datetime | None = None


class Leaving(msgspec.Struct, frozen=True):
    """Rows of one table, taken out by so many values of a column at once."""

    column: sa.Column[Any]
    rows: sa.ColumnElement[bool]
    at_once: int = AT_ONCE

    @property
    def table(self) -> sa.Table:
        """The table that holds them."""
        return self.column.table

    def confined_to(self, condition: sa.ColumnElement[bool]) -> "Leaving":
        """Return the same rows, narrowed by one more condition."""
        return replace(self, rows=self.rows & condition)


def leaving(cutoffs: Cutoffs) -> Iterator[Leaving]:
    """Return what leaves, in order; a process that dies in between may begin again."""
    if cutoffs.deleted:
        yield Leaving(bindings.c.sid, bindings.c.deleted_at < cutoffs.deleted)
        history = binding_versions.c.sid.in_(_gone_before(cutoffs.deleted))
        yield Leaving(binding_versions.c.sid, history, _HISTORIES_AT_ONCE)
        yield Leaving(rejected_bindings.c.id, rejected_bindings.c.resolved_at < cutoffs.deleted)
    if cutoffs.versions:
        yield Leaving(binding_versions.c.id, _ended_before(cutoffs.versions))
    if cutoffs.runs:
        yield Leaving(sync_scans.c.id, _scans_before(cutoffs.runs))
        yield Leaving(sync_runs.c.id, _runs_before(cutoffs.runs))
        old = shard_assignments.c.assigned_at < cutoffs.runs
        yield Leaving(shard_assignments.c.run_group, old)


def count(conn: sa.Connection, cutoffs: Cutoffs) -> dict[str, int]:
    """Return how many rows would be removed, by table."""
    by_table: dict[sa.Table, list[sa.ColumnElement[bool]]] = {}
    for one in leaving(cutoffs):
        by_table.setdefault(one.table, []).append(one.rows)
    return {
        table.name: conn.scalar(sa.select(sa.func.count()).select_from(table).where(sa.or_(*rows)))
        or 0
        for table, rows in by_table.items()
    }


def remove_some(conn: sa.Connection, one: Leaving) -> int:
    """Take out one portion; returns how many rows, fewer than `at_once` when none is left."""
    # Selected from once more: MySQL takes no LIMIT, nor the table deleted from, in a plain
    # subquery.
    values = sa.select(one.column).where(one.rows)
    if not one.column.primary_key:  # else DISTINCT would read all that leaves for each portion
        values = values.distinct()
    some = values.limit(one.at_once).subquery("some")
    chosen = one.column.in_(sa.select(some.c[one.column.name]))
    return conn.execute(sa.delete(one.table).where(chosen)).rowcount


def _gone_before(moment: datetime) -> sa.Select[Any]:
    """Return a query for SIDs that were deleted before `moment` and are gone since.

    The same before and after the rows of `bindings` are taken out.
    """
    later = binding_versions.alias("later")
    stays = (bindings.c.sid == binding_versions.c.sid) & (
        bindings.c.deleted_at.is_(None) | (bindings.c.deleted_at >= moment)
    )
    changed = (later.c.sid == binding_versions.c.sid) & (later.c.valid_to >= moment)
    gone = sa.select(binding_versions.c.sid).where(
        binding_versions.c.change == "deleted",
        binding_versions.c.valid_to < moment,
        ~sa.exists().where(stays),
        ~sa.exists().where(changed),
    )
    return sa.select(gone.distinct().subquery("gone").c.sid)


def _ended_before(moment: datetime) -> sa.ColumnElement[bool]:
    """Return a condition on past images; each kind is named, since the index begins with it."""
    kinds = binding_versions.c.change.in_(("updated", "deleted", "restored"))
    return kinds & (binding_versions.c.valid_to < moment)


def _scans_before(moment: datetime) -> sa.ColumnElement[bool]:
    """Return a condition: the scan ended, and is no service's last complete nor a resumable one.

    The newest line stays: SQLite would give its id once more, and what is staged goes by it.
    """
    newest = sa.select(sa.func.max(sync_scans.c.id).label("id")).subquery("newest_scan")
    last = (
        sa.select(sa.func.max(sync_scans.c.id).label("id"))
        .where(sync_scans.c.complete, sync_scans.c.status.in_(("published", "refused")))
        .where(sync_scans.c.scope.in_(_LABELS))
        .group_by(sync_scans.c.account, sync_scans.c.chat_service_sid, sync_scans.c.scope)
        .subquery("last")
    )
    return (
        (sync_scans.c.started_at < moment)
        & (sync_scans.c.id < sa.select(newest.c.id).scalar_subquery())
        & (sync_scans.c.status != "running")
        & sync_scans.c.id.not_in(sa.select(last.c.id))
        & sync_scans.c.id.not_in(sa.select(scan_progress.c.stage_id))
    )


def _runs_before(moment: datetime) -> sa.ColumnElement[bool]:
    """Return a condition: the run ended, and none of its scans stays.

    The newest line stays: SQLite would give its id once more, and an export since then miss a run.
    """
    stays = (sync_scans.c.run_id == sync_runs.c.id) & ~_scans_before(moment)
    newest = sa.select(sa.func.max(sync_runs.c.id).label("id")).subquery("newest")
    return (
        (sync_runs.c.started_at < moment)
        & (sync_runs.c.id < sa.select(newest.c.id).scalar_subquery())
        & (sync_runs.c.status != "running")
        & ~sa.exists().where(stays)
    )
