"""Rows of a batch against what the warehouse holds: only what differs is looked into."""

from collections.abc import Collection, Mapping, Sequence, Set
from typing import NamedTuple

import sqlalchemy as sa

from etl.domain.binding import HashedRow, Reject, Row
from etl.domain.normalize import Normalizer, split
from etl.domain.scope import Scope
from etl.warehouse import staging
from etl.warehouse.engines.base import Engine
from etl.warehouse.staging import Stored


class Difference(NamedTuple):
    """What a batch would change."""

    changed: list[Row]
    """Rows that are new, have other content, or come back after a delete."""
    rejects: list[Reject]
    skipped: frozenset[str]
    """SIDs of rows that changed outside of the dates asked for."""
    stored: Mapping[str, Stored]
    """What the warehouse held of every row whose bytes are new to it; in a first load nothing."""
    rows_by_form: Mapping[str, int] = {}
    """How many of those have times of which unusual form."""
    stale: Sequence[Row] = ()
    """Rows that are stored as they are, and get a source hash again when they are published."""

    @property
    def rejected_active(self) -> list[str]:
        """Return the reasons of those rejects whose binding is active in the warehouse."""
        if not self.rejects:
            return []
        active = {sid for sid, stored in self.stored.items() if stored.active}
        return [one.reason for one in self.rejects if one.sid in active]


def compare(
    conn: sa.Connection,
    engine: Engine,
    normalizer: Normalizer,
    hashed: Collection[HashedRow],
    scope: Scope,
    *,
    first_load: bool = False,
    known: Set[str] = frozenset(),
) -> Difference:
    """Return how the rows of a batch differ from the warehouse.

    Bytes as they were last time leave nothing but their SID: where their source hash is among the
    `known`, the warehouse is not even asked (the SID is in the bytes). Where they differ the
    content decides, and the dates that `scope` asks for. In a first load there is nothing to
    compare with, and asking costs as much as staging. Should a SID be stored under another
    service, publishing finds it, since it counts by what is stored then.
    """
    if known:
        hashed = [one for one in hashed if one.source_hash not in known]
    fitting, rejects = staging.split_oversized(conn, normalizer, hashed)
    if not fitting:
        return Difference([], rejects, frozenset(), {})
    stored: Mapping[str, Stored] = {}
    if not first_load:
        stored = staging.find_differing(conn, engine, fitting, scope.chat_service_sid)
        fitting = [one for one in fitting if one.sid in stored]
    rows, bad = split(map(normalizer.normalize, fitting))
    forms = normalizer.drift.take_rows_by_form()
    changed = rows
    if stored:
        changed = [row for row in rows if stored[row.sid][:2] != (row.content_hash, True)]
    if not scope.dated:
        stale = _unchanged_stale(rows, stored)
        return Difference(changed, bad + rejects, frozenset(), stored, forms, stale)
    asked_for = [row for row in changed if scope.holds(row.date_updated)]
    skipped = {row.sid for row in changed} - {row.sid for row in asked_for}
    return Difference(asked_for, bad + rejects, frozenset(skipped), stored, forms)


def _unchanged_stale(rows: Sequence[Row], stored: Mapping[str, Stored]) -> list[Row]:
    stale = {sid: one.content_hash for sid, one in stored.items() if one.active and one.stale}
    return [row for row in rows if stale.get(row.sid) == row.content_hash] if stale else []
