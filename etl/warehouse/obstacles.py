"""What would make a migration fail, found before its first DDL: some engines take nothing back."""

import sqlalchemy as sa

from etl import errors
from etl.warehouse.engines.base import Engine
from etl.warehouse.tables import metadata
from etl.warehouse.views import COMMENTS


def require_fit(conn: sa.Connection, engine: Engine) -> None:
    """Look at the server's version and settings.

    Raises:
        WarehouseRefused: on this server the tables could not be made, or not be used.
    """
    reason = engine.why_unfit(conn)
    if reason is not None:
        raise errors.WarehouseRefused(f"this server cannot hold a warehouse: {reason}")


def require_room(conn: sa.Connection, engine: Engine, revision: str | None) -> None:
    """Look whether the names that migrations use are free, or our own since `revision`.

    Raises:
        WarehouseRefused: another program has a table or view of such a name.
    """
    present = own_tables(conn)
    foreign = _foreign_tables(conn, present)
    if revision is None and not present:
        foreign += sorted(set(sa.inspect(conn).get_view_names()) & set(COMMENTS))
    if foreign:
        raise errors.WarehouseRefused(
            f"{', '.join(foreign)} in this schema belongs to another program; "
            "give the warehouse a schema or database of its own"
        )
    if revision is None and present and not engine.commits_each_ddl:
        raise errors.WarehouseRefused(
            f"there are tables of a warehouse ({', '.join(present)}) without their revision; "
            "restore "
            "the table bindings_etl_version, or migrate into an empty schema"
        )


def own_tables(conn: sa.Connection) -> list[str]:
    """Return the tables in the database that have a name of ours."""
    return sorted(set(sa.inspect(conn).get_table_names()) & set(metadata.tables))


def _foreign_tables(conn: sa.Connection, present: list[str]) -> list[str]:
    """Return tables of our names that are not ours: they lack a column of our key."""
    inspector = sa.inspect(conn)
    found = {name: {column["name"] for column in inspector.get_columns(name)} for name in present}
    return [
        name
        for name, columns in found.items()
        if not {column.name for column in metadata.tables[name].primary_key} <= columns
    ]
