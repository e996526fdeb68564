"""Every trace of one identity, found and taken out for good."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import msgspec
import sqlalchemy as sa

from etl.domain.naming import find_name
from etl.domain.scope import Scope
from etl.warehouse.engines.base import Engine
from etl.warehouse.ledger import scan_of
from etl.warehouse.portions import portions
from etl.warehouse.statements import matching, of
from etl.warehouse.tables import (
    STAGE,
    binding_versions,
    bindings,
    page_links,
    rejected_bindings,
    scan_absent,
    scan_progress,
    scan_staged,
)

Removal = Sequence[tuple[sa.Table, sa.ColumnElement[bool]]]
"""Which rows leave, in the order in which they have to; a table may stand there several times."""


def count(conn: sa.Connection, removal: Removal) -> dict[str, int]:
    """Return how many rows would be removed, by table."""
    counted = {table.name: 0 for table, _ in removal}
    for table, rows in removal:
        number = sa.select(sa.func.count()).select_from(table).where(rows)
        counted[table.name] += conn.scalar(number) or 0
    return counted


def remove(conn: sa.Connection, removal: Removal) -> dict[str, int]:
    """Take the rows out; returns how many, by table."""
    counted = count(conn, removal)
    for table, rows in removal:
        conn.execute(sa.delete(table).where(rows))
    return counted


class Traces(msgspec.Struct, frozen=True):
    """Where one identity is found.

    An unfinished scan that saw it is dropped as a whole; the next run reads afresh.
    """

    sids: list[str]
    reject_ids: list[int]
    stage_ids: list[int]
    services: list[str]

    @property
    def removal(self) -> Removal:
        """A SID belongs to one identity for life, so whatever stands under it is a trace."""
        return [
            *_listed((bindings, binding_versions), "sid", self.sids),
            *_listed((rejected_bindings,), "id", self.reject_ids),
            *_listed(STAGE, "stage_id", self.stage_ids),
            # Nobody can tell whom the token of a link names.
            *_listed((page_links,), "chat_service_sid", self.services),
        ]


def find_traces(
    conn: sa.Connection, engine: Engine, identity: str, forms: Collection[str]
) -> Traces:
    """Return everything about `identity`, which the tables may hold in several `forms`."""
    named = _find_named_rejects(conn, forms)
    sids = sorted({*_find_sids(conn, forms), *named.owned_sids})
    of_sids = _collect(conn, rejected_bindings, "id", "sid", sids)
    reject_ids = sorted({*named.ids, *of_sids})
    stage_ids = _find_stages(conn, engine, identity, sids)
    return Traces(sids, reject_ids, stage_ids, _find_services(conn, sids, reject_ids, stage_ids))


def _listed(tables: Iterable[sa.Table], column: str, values: Collection[Any]) -> Removal:
    """Return the rows of these tables that hold one of the values in a column."""
    lists = list(portions(values)) or [[]]
    return [(table, table.c[column].in_(some)) for table in tables for some in lists]


def _collect(
    conn: sa.Connection, table: sa.Table, wanted: str, column: str, values: Collection[Any]
) -> set[Any]:
    """Return the values of one column in the rows that hold given values in another."""
    queries = (
        sa.select(table.c[wanted]).where(table.c[column].in_(some)).distinct()
        for some in portions(values)
    )
    return {found for query in queries for found in conn.scalars(query)}


def _find_sids(conn: sa.Connection, forms: Collection[str]) -> Iterator[str]:
    for table in (bindings, binding_versions, scan_staged):
        yield from conn.scalars(
            sa.select(table.c.sid).where(table.c.identity.in_(forms)).distinct()
        )


class _Named(NamedTuple):
    ids: set[int]
    owned_sids: set[str]
    """SIDs of bindings that belong to the identity; the other rows only mention it."""


def _find_named_rejects(conn: sa.Connection, forms: Collection[str]) -> _Named:
    named = _Named(set(), set())
    query = sa.select(rejected_bindings.c.id, rejected_bindings.c.sid, rejected_bindings.c.payload)
    for line, sid, payload in conn.execute(query, execution_options={"yield_per": 1000}):
        naming = find_name(payload, forms)
        if naming.anywhere:
            named.ids.add(line)
        if naming.as_identity and sid:
            named.owned_sids.add(sid)
    return named


def _find_stages(
    conn: sa.Connection, engine: Engine, identity: str, sids: Collection[str]
) -> list[int]:
    stages = conn.execute(
        sa.select(
            scan_progress.c.stage_id,
            scan_progress.c.scope,
            scan_progress.c.next_link,
            scan_progress.c.first_page,
        )
    ).all()
    scans = {
        scan_of(stage_id)
        for stage_id, label, link, first_page in stages
        if _is_narrowed_to(identity, label, link)
        or any(sid in link or sid in (first_page or "") for sid in sids)
        or (sids and _knows(conn, engine, stage_id, sids))
    }
    return [one.stage_id for one in stages if scan_of(one.stage_id) in scans]


def _knows(conn: sa.Connection, engine: Engine, stage_id: int, sids: Collection[str]) -> bool:
    """Return whether a scan has seen one of these, or has missed it."""
    seen, missed = engine.seen_sids(), matching(scan_absent, "stage_id")
    queries = (sa.select(seen.c.sid), sa.select(scan_absent.c.sid).where(missed))
    lookups = (
        query.where(query.selected_columns[0].in_(some)).limit(1)
        for some in portions(sids)
        for query in queries
    )
    stage = of(stage_id=stage_id)
    return any(conn.execute(lookup, stage).first() is not None for lookup in lookups)


def _is_narrowed_to(identity: str, label: str, link: str) -> bool:
    alone = Scope("", "", identities=(identity,)).label
    return alone in label.split(" ") or identity in parse_qs(urlsplit(link).query).get(
        "Identity", ()
    )


def _find_services(
    conn: sa.Connection,
    sids: Collection[str],
    reject_ids: Collection[int],
    stage_ids: Collection[int],
) -> list[str]:
    places = (
        (bindings, "sid", sids),
        (binding_versions, "sid", sids),
        (rejected_bindings, "id", reject_ids),
        (scan_progress, "stage_id", stage_ids),
    )
    found = (_collect(conn, table, "chat_service_sid", *listed) for table, *listed in places)
    return sorted(set().union(*found))
