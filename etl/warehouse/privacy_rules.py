"""`privacy_rules`: by which rules rows are written, and how far they are rewritten to others.

Whoever wants to write rows holds the line of the rules until the transaction in which it takes its
lease ends; a re-keying begins by locking that line, and so finds every lease that is held. Where a
lock is not enough, it writes every gate, and who takes a lease writes one.
"""

import functools
import json
from typing import Any, NamedTuple

import sqlalchemy as sa
from msgspec.structs import asdict

from etl.domain.privacy import PrivacyRules, RulesChange, infer_rules
from etl.domain.scope import Scope
from etl.warehouse import leases
from etl.warehouse.engines.base import Engine
from etl.warehouse.tables import bindings, privacy_rules

EVERY_SERVICE = Scope("", "*")
"""What a re-keying holds the lease of."""

_CURRENT, _NEXT = "current", "next"
_RULES = ("identity", "endpoint", "key_check")
_SAMPLED = 1_000
_ALL = sa.select(privacy_rules)


class Position(NamedTuple):
    """How far a re-keying has got: the table at hand, and the last key in it that is done."""

    at_table: str
    at_key: str | None = None


class Recorded(NamedTuple):
    """What the warehouse remembers."""

    current: PrivacyRules | None
    """None before the first run."""
    following: PrivacyRules | None
    """What rows are being rewritten to, while a re-keying is not at its end."""
    position: Position | None
    past_key_checks: frozenset[str]
    """Of earlier keys, whose hashes of identities may still be stored."""


def read(conn: sa.Connection) -> Recorded:
    """Return what the warehouse remembers."""
    lines = {line.state: line for line in conn.execute(_ALL)}
    current, following = lines.get(_CURRENT), lines.get(_NEXT)
    return Recorded(
        _rules(current) if current else None,
        _rules(following) if following else None,
        Position(following.at_table, following.at_key) if following else None,
        frozenset(json.loads(current.past_key_checks or "[]") if current else ()),
    )


def infer(conn: sa.Connection, configured: PrivacyRules) -> PrivacyRules:
    """Return the rules that the rows seem to be written by, where nobody wrote them down."""
    columns = (bindings.c.binding_type, bindings.c.identity, bindings.c.endpoint)
    sample = sa.select(*columns).where(bindings.c.deleted_at.is_(None)).limit(_SAMPLED)
    return infer_rules((tuple(row) for row in conn.execute(sample)), configured)


def record(conn: sa.Connection, engine: Engine, rules: PrivacyRules) -> None:
    """Write down the rules of a warehouse that has none yet; of two at once the first counts."""
    line = {"state": _CURRENT, **asdict(rules)}
    values = (sa.literal(value, privacy_rules.c[name].type) for name, value in line.items())
    rows = sa.select(*values).where(sa.true())
    conn.execute(engine.insert_missing(privacy_rules, list(line), rows))


def hold(conn: sa.Connection, engine: Engine) -> bool:
    """Keep a re-keying from beginning until this transaction ends; False where nothing is known."""
    return _lock(conn, engine, shared=True)


def begin(
    conn: sa.Connection, engine: Engine, before: PrivacyRules, after: PrivacyRules, at_table: str
) -> None:
    """Write down that rows are being rewritten, unless that is so already."""
    record(conn, engine, before)
    _lock(conn, engine)
    if read(conn).following is None:
        line = {"state": _NEXT, **asdict(after), "at_table": at_table}
        conn.execute(sa.insert(privacy_rules).values(line))


def move(conn: sa.Connection, position: Position) -> None:
    """Write down how far the rewriting has got."""
    conn.execute(
        sa.update(privacy_rules)
        .where(privacy_rules.c.state == _NEXT)
        .values(at_table=position.at_table, at_key=position.at_key)
    )


def finish(conn: sa.Connection, change: RulesChange) -> None:
    """Write down that all rows are rewritten, and by which keys some are still hashed."""
    past = change.past_key_checks(read(conn).past_key_checks)
    values = {
        **asdict(change.after),
        "past_key_checks": json.dumps(sorted(past)) if past else None,
    }
    conn.execute(sa.delete(privacy_rules).where(privacy_rules.c.state == _NEXT))
    conn.execute(sa.update(privacy_rules).where(privacy_rules.c.state == _CURRENT).values(values))


def _rules(line: sa.Row[Any]) -> PrivacyRules:
    return PrivacyRules(*(getattr(line, name) for name in _RULES))


def _lock(conn: sa.Connection, engine: Engine, *, shared: bool = False) -> bool:
    if engine.conflicts_at_commit and not shared:  # who takes a lease has written a gate
        leases.lock_all(conn, engine)
    return conn.execute(_locked(engine, shared=shared)).first() is not None


@functools.cache
def _locked(engine: Engine, *, shared: bool) -> sa.Select[tuple[str]]:
    line = sa.select(privacy_rules.c.state).where(privacy_rules.c.state == _CURRENT)
    return line if engine.single_writer else line.with_for_update(read=shared)
