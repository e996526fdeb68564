"""Which content columns differ in the rows that a scan updates, counted set by set."""

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from etl.domain.binding import HashedRow, Row
from etl.domain.timestamps import format_utc
from etl.warehouse.engines.base import Engine
from etl.warehouse.tables import CONTENT, bindings, scan_staged

_COMPARED = CONTENT[1:]  # the SID is what two images of a binding share
_JSON = ("message_types", "extra")


def count_staged(conn: sa.Connection, stage_id: int) -> dict[str, int]:
    """Return in how many active rows, of those that the stage replaces, each column differs."""
    compared = ((_text(bindings.c[name]), _text(scan_staged.c[name])) for name in _COMPARED)
    differing = [
        sa.func.sum(sa.case((before.is_distinct_from(after), 1), else_=0))
        for before, after in compared
    ]
    pairs = scan_staged.join(bindings, bindings.c.sid == scan_staged.c.sid)
    query = sa.select(*differing).select_from(pairs)
    numbers = conn.execute(
        query.where(scan_staged.c.stage_id == stage_id, bindings.c.deleted_at.is_(None))
    ).one()
    return _positive(dict(zip(_COMPARED, numbers, strict=True)))


def count_planned(
    conn: sa.Connection, engine: Engine, hashed: Collection[HashedRow], rows: Mapping[str, Row]
) -> dict[str, int]:
    """Count the same for the rows that a dry run would update, by SID; `hashed` are theirs."""
    if not hashed:
        return {}
    batch = engine.batch_table()
    columns = [_text(bindings.c[name]).label(name) for name in CONTENT]
    stored = sa.select(*columns).join_from(batch, bindings, bindings.c.sid == batch.c.sid)
    found: Counter[str] = Counter()
    for before in conn.execute(stored, engine.batch_parameters(hashed)).mappings():
        after = rows[before["sid"]]._asdict()
        found.update(
            name for name in _COMPARED if _plain(name, before[name]) != _plain(name, after[name])
        )
    return _positive(found)


def encode(counts: Mapping[str, int]) -> str | None:
    """Return the counts as the ledger keeps them."""
    return msgspec.json.encode(counts).decode() if counts else None


def decode(text: str | None) -> dict[str, int]:
    """Return the counts that the ledger has kept."""
    return msgspec.json.decode(text, type=dict[str, int]) if text else {}


def _text(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Return a JSON column as text: `jsonb` holds 1.0 and 1.00 for equal, the content hash not."""
    return sa.literal("").concat(column) if column.name in _JSON else column


def _plain(name: str, value: Any) -> Any:
    """Return a value in one form, whether of the warehouse or a `Row`; `jsonb` has its own."""
    if isinstance(value, datetime):
        return format_utc(value)
    return msgspec.json.decode(value) if value and name in _JSON else value


def _positive(counts: Mapping[str, int | None]) -> dict[str, int]:
    return {name: int(counts[name] or 0) for name in _COMPARED if counts.get(name)}
