"""Whether the role may do what the program does, found out by doing it to no row at all."""

import functools
from collections.abc import Iterator

import sqlalchemy as sa

from etl import errors
from etl.warehouse.connection import Warehouse
from etl.warehouse.engines.base import DbErrorKind
from etl.warehouse.tables import metadata
from etl.warehouse.views import COMMENTS


def missing_privileges(warehouse: Warehouse) -> list[str]:
    """Return what the role may not do, such as `UPDATE bindings`.

    Raises:
        WarehouseError: something else is in the way; the warehouse may be read-only.
    """
    missing = [what for what, statement in _harmless() if _is_denied(warehouse, statement)]
    return missing + warehouse.read(functools.partial(_unusable_sequences, warehouse))


def _is_denied(warehouse: Warehouse, statement: sa.Executable) -> bool:
    try:
        warehouse.transact(functools.partial(_execute, statement))
    except errors.WarehouseRefused as refused:
        cause = refused.__cause__
        if (
            isinstance(cause, sa.exc.DBAPIError)
            and warehouse.engine.error_kind(cause) is DbErrorKind.DENIED
        ):
            return True
        raise
    return False


def _execute(statement: sa.Executable, conn: sa.Connection) -> None:
    conn.execute(statement)


def _harmless() -> Iterator[tuple[str, sa.Executable]]:
    """Yield each verb on each table, for no row: engines check privileges before they look."""
    nothing = sa.false()
    for table in metadata.sorted_tables:
        first = next(iter(table.columns))
        no_row = sa.select(table).where(nothing)
        names = [column.name for column in table.columns]
        yield f"SELECT {table.name}", sa.select(first).where(nothing)
        yield (
            f"INSERT {table.name}",
            sa.insert(table).from_select(names, no_row, include_defaults=False),
        )
        yield f"UPDATE {table.name}", sa.update(table).where(nothing).values({first.name: first})
        yield f"DELETE {table.name}", sa.delete(table).where(nothing)
    for view in COMMENTS:
        yield f"SELECT {view}", sa.select(sa.literal(1)).select_from(sa.table(view)).where(nothing)


def _unusable_sequences(warehouse: Warehouse, conn: sa.Connection) -> list[str]:
    columns = (column for table in metadata.sorted_tables for column in table.columns)
    sequences = [
        column.default.name for column in columns if isinstance(column.default, sa.Sequence)
    ]
    return [f"USE {one}" for one in warehouse.engine.unusable_sequences(conn, sequences)]
