"""Whether the role may do what a run does, found out by doing it to no row at all."""

import functools

import sqlalchemy as sa

from etl import errors
from etl.warehouse.connection import Warehouse
from etl.warehouse.tables import metadata


def missing_privileges(warehouse: Warehouse) -> list[str]:
    """What the role may not do, such as `UPDATE bindings`; empty when it may do everything."""
    missing = []
    for table in metadata.sorted_tables:
        for verb, statement in _harmless(table).items():
            try:
                warehouse.transact(functools.partial(_execute, statement))
            except errors.WarehouseRefused:
                missing.append(f"{verb} {table.name}")
    return missing


def _execute(statement: sa.Executable, conn: sa.Connection) -> None:
    conn.execute(statement)


def _harmless(table: sa.Table) -> dict[str, sa.Executable]:
    """Each verb, confined to no row: engines check the privilege before they look for rows."""
    first = next(iter(table.columns))
    nothing = sa.false()
    return {
        "SELECT": sa.select(first).where(nothing),
        "INSERT": sa.insert(table).from_select(
            [column.name for column in table.columns], sa.select(table).where(nothing), include_defaults=False
        ),
        "UPDATE": sa.update(table).where(nothing).values({first.name: first}),
        "DELETE": sa.delete(table).where(nothing),
    }
