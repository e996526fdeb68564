"""Lines put straight into tables that a run would have written."""

from typing import Any

import sqlalchemy as sa

from etl.warehouse import tables
from etl.warehouse.connection import Warehouse


def fill(warehouse: Warehouse, **rows: list[dict[str, Any]]) -> None:
    """Insert lines, by the name of their table."""

    def insert(conn: sa.Connection) -> None:
        for name, lines in rows.items():
            for line in lines:
                conn.execute(sa.insert(tables.metadata.tables[name]).values(line))

    warehouse.transact(insert)
