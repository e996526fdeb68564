"""What leaves the warehouse for good: what was deleted long ago, and every trace of one identity."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import sqlalchemy as sa

from etl.domain.scope import Scope
from etl.domain.wire import UNDECODABLE
from etl.warehouse.engines.contract import Engine
from etl.warehouse.tables import (
    STAGE,
    binding_versions,
    bindings,
    rejected_bindings,
    scan_absent,
    scan_progress,
    scan_staged,
)

Removal = Mapping[sa.Table, sa.ColumnElement[bool]]
"""Which rows leave, table by table, in the order in which they have to."""


def deleted_before(moment: datetime) -> Removal:
    """Soft-deleted rows, the history of all SIDs that were gone by then, and rejects that were resolved by then."""
    return {
        bindings: bindings.c.deleted_at < moment,
        binding_versions: binding_versions.c.sid.in_(_gone_before(moment)),
        rejected_bindings: rejected_bindings.c.resolved_at < moment,
    }


def count(conn: sa.Connection, removal: Removal) -> dict[str, int]:
    """How many rows would leave, by table."""
    return {
        table.name: conn.scalar(sa.select(sa.func.count()).select_from(table).where(rows)) or 0
        for table, rows in removal.items()
    }


def remove(conn: sa.Connection, removal: Removal) -> dict[str, int]:
    """Take the rows out; gives how many, by table."""
    counted = count(conn, removal)
    for table, rows in removal.items():
        conn.execute(sa.delete(table).where(rows))
    return counted


def _gone_before(moment: datetime) -> sa.Select[Any]:
    """SIDs whose past ended before `moment` and that keep no row; the same before and after the others' rows are removed."""
    staying = (bindings.c.sid == binding_versions.c.sid) & (
        bindings.c.deleted_at.is_(None) | (bindings.c.deleted_at >= moment)
    )
    gone = (
        sa.select(binding_versions.c.sid)
        .where(~sa.exists().where(staying))
        .group_by(binding_versions.c.sid)
        .having(sa.func.max(binding_versions.c.valid_to) < moment)
    )
    # Selected from once more: MySQL takes the table that it deletes from only out of a derived table.
    return sa.select(gone.subquery("gone").c.sid)


@dataclass(frozen=True)
class Traces:
    """Where one identity is found. An unfinished scan that met it is dropped as a whole; the next run reads afresh."""

    sids: list[str]
    reject_ids: list[int]
    stage_ids: list[int]
    services: list[str]

    @property
    def removal(self) -> Removal:
        """A SID belongs to one identity for all its life, so whatever stands under it is a trace."""
        return {
            bindings: bindings.c.sid.in_(self.sids),
            binding_versions: binding_versions.c.sid.in_(self.sids),
            rejected_bindings: rejected_bindings.c.id.in_(self.reject_ids),
            **{table: table.c.stage_id.in_(self.stage_ids) for table in STAGE},
        }


def find_traces(
    conn: sa.Connection, engine: Engine, identity: str, stored_as: Collection[str]
) -> Traces:
    """Everything about `identity`, which the tables may hold in several forms (`stored_as`) and the quarantine in its own."""
    sids = _find_sids(conn, stored_as)
    reject_ids = _find_rejects(conn, identity, sids)
    stage_ids = _find_stages(conn, engine, identity, sids)
    return Traces(sids, reject_ids, stage_ids, _find_services(conn, sids, reject_ids, stage_ids))


def _find_sids(conn: sa.Connection, stored_as: Collection[str]) -> list[str]:
    tables = (bindings, binding_versions, scan_staged)
    found = sa.union(
        *(sa.select(table.c.sid).where(table.c.identity.in_(stored_as)) for table in tables)
    )
    return sorted(conn.execute(found).scalars())


def _find_rejects(conn: sa.Connection, identity: str, sids: Collection[str]) -> list[int]:
    query = sa.select(rejected_bindings.c.id, rejected_bindings.c.sid, rejected_bindings.c.payload)
    lines = conn.execute(query, execution_options={"yield_per": 1000})
    known = set(sids)
    return [line for line, sid, payload in lines if sid in known or _names(payload, identity)]


def _names(payload: str, identity: str) -> bool:
    """Whether a raw row is about `identity`. What is no JSON, and so cannot be looked into, is when it quotes it."""
    try:
        sent = msgspec.json.decode(payload)
    except UNDECODABLE:
        return msgspec.json.encode(identity).decode() in payload
    return identity in _scalars(sent.get("identity") if isinstance(sent, dict) else sent)


def _scalars(node: Any) -> Iterator[str]:
    """Texts and numbers in a value of any shape: a malformed row may hold its identity as a number, or in a list."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, int | float):
        yield str(node)
    elif isinstance(node, dict | list):
        for inner in node.values() if isinstance(node, dict) else node:
            yield from _scalars(inner)


def _find_stages(
    conn: sa.Connection, engine: Engine, identity: str, sids: Collection[str]
) -> list[int]:
    stages = conn.execute(
        sa.select(scan_progress.c.stage_id, scan_progress.c.scope, scan_progress.c.next_link)
    ).all()
    return [
        stage_id
        for stage_id, label, link in stages
        if _is_narrowed_to(identity, label, link) or (sids and _knows(conn, engine, stage_id, sids))
    ]


def _knows(conn: sa.Connection, engine: Engine, stage_id: int, sids: Collection[str]) -> bool:
    """Whether a scan has met one of these, or has missed it."""
    met, missed = engine.unpack(stage_id), scan_absent.c.stage_id == stage_id
    queries = (
        sa.select(met.c.sid).where(met.c.sid.in_(sids)),
        sa.select(scan_absent.c.sid).where(missed, scan_absent.c.sid.in_(sids)),
    )
    return any(conn.execute(query.limit(1)).first() is not None for query in queries)


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
    places = sa.union(
        sa.select(bindings.c.chat_service_sid).where(bindings.c.sid.in_(sids)),
        sa.select(binding_versions.c.chat_service_sid).where(binding_versions.c.sid.in_(sids)),
        sa.select(rejected_bindings.c.chat_service_sid).where(
            rejected_bindings.c.id.in_(reject_ids)
        ),
        sa.select(scan_progress.c.chat_service_sid).where(scan_progress.c.stage_id.in_(stage_ids)),
    )
    return sorted(conn.execute(places).scalars())
