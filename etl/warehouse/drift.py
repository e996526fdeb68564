"""`schema_drift`: what nobody knew of when it first came, and how many rows have it."""

from collections.abc import Mapping, Set
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from etl.domain.drift import MOST_NAMES, Kind, Novelty
from etl.domain.scope import Scope
from etl.warehouse.engines.base import Engine
from etl.warehouse.tables import bindings, schema_drift

_COLUMNS = ("chat_service_sid", "kind", "name", "account", "first_seen_at", "row_count")


def record(
    conn: sa.Connection, engine: Engine, scope: Scope, met: Set[Novelty], now: datetime
) -> list[Novelty]:
    """Write down what a service had not shown before; returns what that is."""
    known = _names(conn, scope.chat_service_sid)
    new = [
        one
        for kind in Kind
        for one in sorted(one for one in met - known if one.kind is kind)[: _room(kind, known)]
    ]
    return [one for one in new if _insert(conn, engine, scope, one, now)]


def recount(conn: sa.Connection, engine: Engine, chat_service_sid: str) -> None:
    """Count again, for all that has drifted in a service, the active rows that have it."""
    names = [
        one for one in _names(conn, chat_service_sid) if one.kind is not Kind.TIME_FORM
    ]  # a form of time is not kept with the row
    if not names:
        return
    sums = [sa.func.sum(sa.case((_has(engine, one), 1), else_=0)) for one in names]
    active = (bindings.c.chat_service_sid == chat_service_sid) & bindings.c.deleted_at.is_(None)
    numbers = conn.execute(sa.select(*sums).select_from(bindings).where(active)).one()
    for one, number in zip(names, numbers, strict=True):
        _set_count(conn, chat_service_sid, one, int(number or 0))


def raise_counts(
    conn: sa.Connection, chat_service_sid: str, rows_by_form: Mapping[str, int]
) -> None:
    """Raise each time form's `row_count` to the rows of this scan, if they are more."""
    for form, number in rows_by_form.items():
        _set_count(conn, chat_service_sid, Novelty(Kind.TIME_FORM, form), number, only_up=True)


def forget_unmet(conn: sa.Connection, engine: Engine) -> None:
    """Take out the names that no active row has any more: what rows hide, this must not tell."""
    named = schema_drift.c.kind != Kind.TIME_FORM
    for sid in conn.scalars(
        sa.select(schema_drift.c.chat_service_sid).where(named).distinct()
    ).all():
        recount(conn, engine, sid)
    conn.execute(sa.delete(schema_drift).where(named, schema_drift.c.row_count == 0))


def read(conn: sa.Connection) -> list[dict[str, Any]]:
    """Return every line, the newest first."""
    columns = (
        *(schema_drift.c[name] for name in _COLUMNS[:3]),
        schema_drift.c.row_count.label("rows"),
        schema_drift.c.first_seen_at,
    )
    order = (schema_drift.c.first_seen_at.desc(), *schema_drift.primary_key)
    return [dict(line) for line in conn.execute(sa.select(*columns).order_by(*order)).mappings()]


def _names(conn: sa.Connection, chat_service_sid: str) -> set[Novelty]:
    query = sa.select(schema_drift.c.kind, schema_drift.c.name).where(
        schema_drift.c.chat_service_sid == chat_service_sid
    )
    return {Novelty(Kind(kind), name) for kind, name in conn.execute(query)}


def _room(kind: Kind, known: Set[Novelty]) -> int:
    return max(0, MOST_NAMES - sum(one.kind is kind for one in known))


def _insert(conn: sa.Connection, engine: Engine, scope: Scope, new: Novelty, now: datetime) -> bool:
    """Insert a line if it is missing; return whether it was."""
    line = (scope.chat_service_sid, new.kind, new.name, scope.account, now, 0)
    values = (
        sa.literal(value, schema_drift.c[name].type)
        for name, value in zip(_COLUMNS, line, strict=True)
    )
    rows = sa.select(*values).where(sa.true())
    statement = engine.insert_missing(schema_drift, _COLUMNS, rows)
    return conn.execute(statement, execution_options={"preserve_rowcount": True}).rowcount == 1


def _has(engine: Engine, one: Novelty) -> sa.ColumnElement[bool]:
    if one.kind is Kind.FIELD:
        return engine.has_member(bindings.c.extra, one.name)
    if one.kind is Kind.MESSAGE_TYPE:
        return engine.has_item(bindings.c.message_types, one.name)
    return bindings.c.binding_type == one.name


def _set_count(
    conn: sa.Connection, chat_service_sid: str, one: Novelty, number: int, *, only_up: bool = False
) -> None:
    table = schema_drift.c
    mine = (
        (table.chat_service_sid == chat_service_sid)
        & (table.kind == one.kind)
        & (table.name == one.name)
    )
    stale = table.row_count < number if only_up else table.row_count != number
    conn.execute(sa.update(schema_drift).where(mine, stale).values(row_count=number))
