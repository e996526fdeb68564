"""`INSERT … SELECT` that overwrites rows whose key is there: what the engines share of it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite


def overwritten(table: sa.Table, columns: Sequence[str]) -> list[str]:
    """Return which columns of a row that is there are changed: not the key, nor `first_seen_at`."""
    kept = {column.name for column in table.primary_key} | {"first_seen_at"}
    return [name for name in columns if name not in kept]


def on_conflict_update(
    statement: "postgresql.Insert | sqlite.Insert", table: sa.Table, columns: Sequence[str]
) -> sa.Executable:
    """Return the statement with `ON CONFLICT DO UPDATE`, where the engine speaks it."""
    values = {name: statement.excluded[name] for name in overwritten(table, columns)}
    return statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=values)
