"""How rows are put in where keys are not enforced: by a look at what is there, or by `MERGE`."""

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from etl.warehouse.engines.base import Engine
from etl.warehouse.engines.upserts import overwritten


class Merge(sa.Executable, sa.ClauseElement):
    """Rows of a query put into a table by its primary key; known ones are `overwritten`."""

    inherit_cache = False

    def __init__(
        self,
        table: sa.Table,
        columns: Sequence[str],
        rows: sa.Select[Any],
        overwritten: Collection[str],
    ) -> None:
        self.table = table
        self.columns = columns
        self.rows = _named(rows, columns)
        self.overwritten = overwritten


def _named(rows: sa.Select[Any], columns: Sequence[str]) -> sa.Select[Any]:
    """Return the rows under the names of the columns that they go into."""
    given = rows.subquery("given")
    return sa.select(*(one.label(name) for one, name in zip(given.c, columns, strict=True)))


@compiles(Merge)
def _compile_merge(merge: Merge, compiler: Any, **kw: Any) -> str:
    quote = compiler.preparer.quote
    names = [quote(name) for name in merge.columns]
    table = compiler.preparer.format_table(merge.table)
    # As an INSERT does: without it, the query would be taken for what the statement returns.
    compiler.stack.append(
        {"correlate_froms": set(), "asfrom_froms": set(), "selectable": merge.rows}
    )
    rows = compiler.process(merge.rows, **kw)
    compiler.stack.pop()
    keys = [quote(column.name) for column in merge.table.primary_key]
    values = (f"{quote(name)} = fresh.{quote(name)}" for name in merge.overwritten)
    fresh = ", ".join(f"fresh.{name}" for name in names)
    parts = [
        f"MERGE INTO {table} USING ({rows}) AS fresh",
        "ON " + " AND ".join(f"{table}.{key} = fresh.{key}" for key in keys),
        f"WHEN MATCHED THEN UPDATE SET {', '.join(values)}",
        f"WHEN NOT MATCHED THEN INSERT ({', '.join(names)}) VALUES ({fresh})",  # noqa: S608 - ours
    ]
    return " ".join(parts)


class KeylessEngine(Engine):
    """An engine that enforces no key."""

    enforces_keys: ClassVar[bool] = False

    def insert_missing(
        self, table: sa.Table, columns: Sequence[str], rows: sa.Select[Any]
    ) -> sa.Executable:
        # No MERGE: on DuckLake its new rows get the row ids of rows that an earlier statement of
        # the transaction has put in, and when one of two is changed, the other is lost.
        fresh = rows.subquery("fresh")
        values = dict(zip(columns, fresh.c, strict=True))
        same = (values[key.name] == key for key in table.primary_key)
        missing = sa.select(*fresh.c).where(~sa.exists().where(*same))
        return sa.insert(table).from_select(list(columns), missing)

    def insert_or_update(
        self, table: sa.Table, columns: Sequence[str], rows: sa.Select[Any]
    ) -> sa.Executable:
        # Nothing else in its transaction puts new rows into the table: row ids are not shared.
        return Merge(table, columns, rows, overwritten(table, columns))
