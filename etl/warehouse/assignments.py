"""Which process of a run group reads which service: one writes it down, the others read it."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from etl.warehouse.engines.base import Engine
from etl.warehouse.tables import shard_assignments

_COLUMNS = ("run_group", "spread", "shards", "assigned_at", "places")


class Assignment(NamedTuple):
    """What names one: the services of one account among the shards of one run group."""

    run_group: str
    spread: str
    """Of `domain.shard.Spread`: its key."""
    shards: int


def read(conn: sa.Connection, which: Assignment) -> dict[str, int]:
    """Return places by SID; empty when nobody has written them down."""
    table = shard_assignments.c
    text = conn.scalar(
        sa.select(table.places).where(
            table.run_group == which.run_group,
            table.spread == which.spread,
            table.shards == which.shards,
        )
    )
    return msgspec.json.decode(text or "{}", type=dict[str, int])


def record(
    conn: sa.Connection, engine: Engine, which: Assignment, places: Mapping[str, int]
) -> dict[str, int]:
    """Write places down, unless another process was first; return what holds for all."""
    values = (*which, engine.now(conn), msgspec.json.encode(places).decode())
    columns = (shard_assignments.c[name] for name in _COLUMNS)
    row = sa.select(
        *(sa.literal(value, column.type) for value, column in zip(values, columns, strict=True))
    )
    conn.execute(engine.insert_missing(shard_assignments, _COLUMNS, row))
    return read(conn, which)
